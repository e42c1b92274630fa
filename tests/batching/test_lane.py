"""A lane: one thread, its jobs in order, and what becomes of it when one of them ends badly."""

import ctypes
import itertools
import queue
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, RootModel

from thalamus_lite.batching.lane import Hooks, Lane, WrongOutputs, as_list, as_outputs
from thalamus_lite.devices.streams import NoStreams


@pytest.fixture
def lane() -> Any:
    made = Lane("lane", "cpu", NoStreams())
    made.start()
    yield made
    made.stop()
    made._thread.join(10)
    assert not made._thread.is_alive()


def run(lane: Lane, work: Any) -> Any:
    box: queue.SimpleQueue[Any] = queue.SimpleQueue()
    lane.post(lambda lane: box.put(work(lane)))
    return box.get(timeout=10)


def test_jobs_run_one_after_another_in_a_daemon_thread_of_the_lanes_name(lane: Lane) -> None:
    order: list[int] = []
    for number in range(100):
        lane.post(lambda _lane, number=number: order.append(number))  # type: ignore[misc]
    thread = run(lane, lambda _lane: threading.current_thread())
    assert order == list(range(100))
    assert (thread.name, thread.daemon) == ("lane", True)


def test_job_that_raises_is_logged_and_the_next_one_runs(
    lane: Lane, caplog: pytest.LogCaptureFixture
) -> None:
    lane.post(lambda _lane: 1 / 0)
    assert run(lane, lambda _lane: "next") == "next"
    assert "a lane's job failed" in caplog.text


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_lane_that_dies_is_replaced_and_its_jobs_are_kept(
    lane: Lane, caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    first = run(lane, lambda _lane: threading.current_thread())
    door = threading.Event()

    def die(_lane: Lane) -> None:
        door.wait(10)
        raise error

    lane.post(die)
    box: queue.SimpleQueue[Any] = queue.SimpleQueue()
    lane.post(lambda _lane: box.put(threading.current_thread()))
    door.set()
    second = box.get(timeout=10)
    assert second is not first
    first.join(10)
    assert not first.is_alive()
    assert "a lane died" in caplog.text
    assert run(lane, lambda lane: lane.busy_since) is not None


def test_exception_raised_into_the_thread_from_outside_replaces_it(lane: Lane) -> None:
    started, go = threading.Event(), threading.Event()
    ident: list[int] = []

    def spin(_lane: Lane) -> None:
        ident.append(threading.get_ident())
        started.set()
        while not go.wait(0.001):
            pass

    lane.post(spin)
    assert started.wait(10)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(ident[0]), ctypes.py_object(SystemExit)
    )
    assert run(lane, lambda _lane: threading.get_ident()) != 0


def test_lane_says_since_when_it_is_busy_and_how_long_it_was(lane: Lane) -> None:
    assert lane.busy_since is None
    before = run(lane, lambda lane: lane.busy_since)
    assert before > 0

    def touch(lane: Lane) -> float:
        lane.touch()
        since = lane.busy_since
        assert since is not None
        return since

    assert run(lane, touch) >= before
    lane.post(lambda _lane: threading.Event().wait(0.02))
    run(lane, lambda _lane: None)
    assert lane.busy_seconds >= 0.02


def test_job_and_what_it_holds_are_let_go_when_it_is_done(lane: Lane) -> None:
    import weakref

    class Tensor:
        pass

    tensor = Tensor()
    held = weakref.ref(tensor)
    lane.post(lambda _lane, tensor=tensor: None)  # type: ignore[misc]
    del tensor
    # Its name is gone before the lane waits for the next job.
    run(lane, lambda _lane: None)
    assert held() is None


class Model:
    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.seen: list[Any] = []

    def preprocess(self, inputs: list[Any]) -> Any:
        self.seen.append(("pre", inputs))
        return tuple(inputs)

    def predict(self, prepared: Any) -> Any:
        self.seen.append(("predict", prepared))
        return self.answer

    def postprocess(self, outputs: Any) -> Any:
        self.seen.append(("post", outputs))
        return [f"{output}!" for output in outputs]


@pytest.mark.parametrize("pre", [False, True])
@pytest.mark.parametrize("post", [False, True])
def test_hooks_run_in_turn_and_only_those_that_exist_have_a_time(
    lane: Lane, pre: bool, post: bool
) -> None:
    model = Model(["a", "b"])
    if not pre:
        model.preprocess = None  # type: ignore[assignment,method-assign]
    if not post:
        model.postprocess = None  # type: ignore[assignment,method-assign]
    hooks = Hooks(model)
    ran = run(lane, lambda lane: hooks.run(lane, [1, 2]))
    assert ran.outputs == (["a!", "b!"] if post else ["a", "b"])
    assert (ran.times.preprocess_s is not None, ran.times.postprocess_s is not None) == (pre, post)
    assert ran.times.predict_s >= 0
    names = [name for name, _ in model.seen]
    assert names == ["pre"] * pre + ["predict"] + ["post"] * post
    assert model.seen[pre][1] == ((1, 2) if pre else [1, 2])


class DataFrame:
    """As those of pandas and polars are: what it is iterated over by is its columns."""

    def __iter__(self) -> Iterator[str]:
        return iter(["a", "b"])


class Record(BaseModel):
    a: int
    b: int


class Records(RootModel[list[int]]):
    def __iter__(self) -> Iterator[int]:  # type: ignore[override]
        return iter(self.root)


@pytest.mark.parametrize(
    ("outputs", "sentence"),
    [
        (None, "NoneType, not a list"),
        ("ab", "str, not a list"),
        (b"ab", "bytes, not a list"),
        ({1: 1, 2: 2}, "dict, not a list"),
        (5, "int, not a list"),
        ({1, 2}, "set, not a list"),
        (frozenset([1, 2]), "frozenset, not a list"),
        (DataFrame(), "DataFrame, not a list"),
        (Record(a=1, b=2), "Record, not a list"),
        ([], "0 outputs for 2"),
        ([1], "1 outputs for 2"),
        ((1,), "1 outputs for 2"),
        ([1, 2, 3], "more outputs for 2"),
        (itertools.count(), "more outputs for 2"),
    ],
)
def test_what_is_not_one_output_an_input_is_refused(outputs: Any, sentence: str) -> None:
    with pytest.raises(WrongOutputs, match=sentence):
        as_outputs(outputs, 2)


@pytest.mark.parametrize(
    "outputs", [[1, 2], (1, 2), iter([1, 2]), {1: 0, 2: 0}.keys(), Records([1, 2])]
)
def test_anything_that_yields_one_output_an_input_will_do(outputs: Any) -> None:
    assert as_outputs(outputs, 2) == [1, 2]


def test_list_is_handed_on_as_it_is() -> None:
    outputs = [1, 2]
    assert as_outputs(outputs, 2) is outputs
    assert as_list((1, 2, 3), 2) == [1, 2]
    assert as_list(iter("ab")) == ["a", "b"]
