"""What the simulated device says of streams, on a real one."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from thalamus_lite.batching.lane import Hooks, Lane
from thalamus_lite.devices.torch_backend import backend_for

SIZE = 1 << 20


class Model:
    """Queues a long kernel and the rest behind it, by way of pinned memory, and waits for none."""

    def __init__(self, torch: Any, busy: Any) -> None:
        self.torch, self.busy = torch, busy
        self.streams: list[int] = []

    def load(self) -> None:
        source = self.torch.full((SIZE,), 3.0).pin_memory()
        self.busy(50)
        self.weights = source.to("cuda:0", non_blocking=True)

    def preprocess(self, inputs: list[float]) -> Any:
        self.streams.append(self.torch.cuda.current_stream().cuda_stream)
        rows = self.torch.tensor(inputs).pin_memory()
        return rows.to("cuda:0", non_blocking=True)

    def predict(self, rows: Any) -> Any:
        self.busy(20)
        return rows[:, None] * self.weights[None, :4]

    def postprocess(self, rows: Any) -> list[Any]:
        host = self.torch.empty(rows.shape, pin_memory=True)
        host.copy_(rows, non_blocking=True)
        return list(host)


def run(lane: Lane, work: Any) -> Any:
    done, box = threading.Event(), []

    def job(lane: Lane) -> None:
        try:
            box.append(work(lane))
        finally:
            done.set()

    lane.post(job)
    assert done.wait(60)
    return box[0]


@pytest.fixture
def lanes() -> Any:
    made: list[Lane] = []

    def make(count: int) -> list[Lane]:
        for number in range(count):
            made.append(Lane(f"gpu lane {number}", "cuda:0", backend_for("cuda:0")))
            made[-1].start()
        return made

    yield make
    for lane in made:
        lane.stop()
        lane._thread.join(60)


def test_results_are_complete_when_they_are_handed_over(torch: Any, busy: Any, lanes: Any) -> None:
    first, second = lanes(2)
    model = Model(torch, busy)
    ready = run(first, lambda lane: lane.load(model.load))
    hooks = Hooks(model)
    for lane in (first, second):
        lane.after(ready)
        for turn in range(3):
            values = [float(turn), 10.0]
            ran = run(lane, lambda lane, values=values: hooks.run(lane, values))
            assert [row.tolist() for row in ran.outputs] == [[3 * value] * 4 for value in values]
    assert 0 not in model.streams
    assert len(set(model.streams)) == 2


def test_the_lanes_stream_never_touches_the_threads_own(torch: Any) -> None:
    before = torch.cuda.current_stream()
    stream = backend_for("cuda:0").stream("cuda:0")
    with stream:
        inside = torch.cuda.current_stream()
        assert inside != before
        with stream:
            assert torch.cuda.current_stream() == inside
    assert torch.cuda.current_stream() == before


def test_one_stream_does_not_wait_for_another(torch: Any, busy: Any) -> None:
    backend = backend_for("cuda:0")
    slow, quick = backend.stream("cuda:0"), backend.stream("cuda:0")
    with quick:
        torch.ones(8, device="cuda:0").sum()
        quick.record().synchronize()  # what is made at the first use is made
    with slow:
        busy(500)
        slow_done = slow.record()
    with quick:
        torch.ones(8, device="cuda:0").sum()
        quick.record().synchronize()
    assert not slow_done.query()
    slow_done.synchronize()


def test_a_stream_holds_its_work_until_the_event_it_waits_for(torch: Any, busy: Any) -> None:
    backend = backend_for("cuda:0")
    writer, reader = backend.stream("cuda:0"), backend.stream("cuda:0")
    with writer:
        data = torch.zeros(SIZE, device="cuda:0")
        busy(100)
        data += 7
        written = writer.record()
    start = time.perf_counter()
    reader.wait(written)
    assert time.perf_counter() - start < 0.05
    with reader:
        total = data.sum()
        done = reader.record()
    done.synchronize()
    assert written.query()
    assert float(total.cpu()) == 7 * SIZE


def test_waiting_for_an_event_does_not_spin(torch: Any, busy: Any) -> None:
    stream = backend_for("cuda:0").stream("cuda:0")
    with stream:
        busy(5)
        stream.record().synchronize()
        busy(500)
        done = stream.record()
    before = time.thread_time()
    done.synchronize()
    assert time.thread_time() - before < 0.1


def test_other_threads_run_while_a_lane_waits(busy: Any) -> None:
    stream = backend_for("cuda:0").stream("cuda:0")
    with stream:
        busy(300)
        done = stream.record()
    waiter = threading.Thread(target=done.synchronize)
    waiter.start()
    turns = 0
    while waiter.is_alive():
        turns += 1
    assert turns > 1000


def test_running_out_of_memory_is_known_and_half_of_it_runs(torch: Any) -> None:
    backend = backend_for("cuda:0")
    free, _ = torch.cuda.mem_get_info(0)
    with backend.stream("cuda:0"):
        with pytest.raises(torch.OutOfMemoryError) as raised:
            torch.empty(free + (1 << 30), dtype=torch.uint8, device="cuda:0")
        assert backend.is_out_of_memory(raised.value)
        assert not backend.is_fatal(raised.value)
        backend.empty_cache("cuda:0")
        half = torch.empty(free // 2, dtype=torch.uint8, device="cuda:0")
        assert half.numel() == free // 2


def in_a_fresh_process(program: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


ASSERT_ON_THE_DEVICE = """
import torch
from thalamus_lite.devices.torch_backend import backend_for
backend = backend_for("cuda:0")
stream = backend.stream("cuda:0")
try:
    with stream:
        table = torch.zeros(4, device="cuda:0")
        table[torch.tensor([9], device="cuda:0")]
        stream.record().synchronize()
except BaseException as error:
    assert backend.is_fatal(error), repr(error)
    assert not backend.is_out_of_memory(error)
    print("fatal")
"""


def test_a_device_side_assert_is_fatal() -> None:
    ended = in_a_fresh_process(ASSERT_ON_THE_DEVICE)
    assert ended.stdout.strip() == "fatal", ended.stderr[-2000:]


@pytest.mark.skipif("TORCH_CUDA_SANITIZER" in os.environ, reason="this is the inner run")
def test_torchs_own_sanitizer_finds_no_race_in_the_lanes() -> None:
    path = Path(__file__)
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", str(path), "-k", "handed_over or holds_its_work"],
        env={**os.environ, "TORCH_CUDA_SANITIZER": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-4000:]
    assert "data race" not in ended.stdout + ended.stderr
