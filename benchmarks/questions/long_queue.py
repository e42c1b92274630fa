"""Does a long queue slow down what is done to it? Rows 11 and 14: 100 and 100,000 waiting inputs.

``python -m benchmarks.questions.long_queue policy|app COUNT`` measures in process, in our
environment: the scheduling policy alone, then a whole app whose model is held back.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import sys
import threading
import time
from itertools import count as counter
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.answer import Answer, Table
from benchmarks.peers import predict
from benchmarks.questions.drive import Driver
from benchmarks.servers.work import Sentiment, TextInput

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.run import Run

SHORT = 100
BATCH = 32
_TURNS = 400
_A_TICK = 8


def count(run: Run) -> int:
    return int(run.pick(100_000, 10_000))


def estimate_s(run: Run) -> float:
    return run.pick(40, 6)


def measure(run: Run) -> Answer:
    answer = Answer()
    size = str(count(run))
    with run.reporting(answer, "a long queue, the policy"):
        policy = run.inside(__name__, "policy", size)
        run.step("the policy alone", estimate_s(run) / 6)
        rows = []
        for what in ("push", "pop", "cancel"):
            short, long = policy["short"][what], policy["long"][what]
            answer.read(f"11 {what}", long / short)
            rows.append((f"{what}, µs an input", short, long, long / short))
        answer.read("14 cost", policy["cancel_half_us"])
        rows.append(("cancel half of the queue, µs each", None, policy["cancel_half_us"], None))
        columns = ("the policy alone", f"{SHORT} waiting", f"{count(run):,} waiting", "x")
        answer.tables.append(Table("A long queue", columns, tuple(rows)))
    with run.reporting(answer, "a long queue, an app"):
        app = run.inside(__name__, "app", size, timeout_s=540)
        run.step("an app", estimate_s(run) * 5 / 6)
        worst = app["stalls"][app["worst"]]
        note = f"while {app['worst']}; the longest garbage collection took {worst['gc_ms']:.1f} ms"
        answer.read("11 stall", worst["ms"], note)
        answer.read("14 ran", app["cancelled_ran"], f"of {app['cancelled']} cancelled")
        stalls = tuple(
            (what, stall["ms"], stall["cpu_ms"], stall["gc_ms"])
            for what, stall in app["stalls"].items()
        )
        columns = ("phase", "longest turn, ms", "its CPU time, ms", "longest collection, ms")
        note = (
            f"{count(run):,} requests wait for a model that is held back, half of them are"
            f" cancelled, the rest runs; {_A_TICK} new or cancelled ones a turn."
        )
        answer.tables.append(Table("The loop under a long queue", columns, stalls, note))
    return answer


class _Policy:
    """The scheduler with one queue and one lane, at a given depth."""

    def __init__(self, depth: int) -> None:
        from thalamus_lite.batching.queue import QueuePolicy, Scheduler, Ticket

        self.ticket = Ticket
        self.scheduler = Scheduler(random=random.Random(1))
        self.queue = self.scheduler.add(
            "model", QueuePolicy(BATCH, max_queue_size=10**9), [("cpu", 0)]
        )
        self.now = 0.0
        # The first batch starts and never ends, so that all behind it waits.
        self.running = self.start(self.push(BATCH))
        self.waiting = self.push(depth)

    def push(self, number: int) -> list[Any]:
        tickets = [self.ticket(1) for _ in range(number)]
        for ticket in tickets:
            self.scheduler.arrive(self.queue, ticket, self.now)
        return tickets

    def start(self, _: list[Any]) -> Any:
        return self.scheduler.dispatch(self.now).batches[0]

    def turn(self) -> None:
        """The lane has ended its batch, and takes the next one."""
        self.now += 0.01
        self.scheduler.done(self.running, self.now)
        self.running = self.scheduler.dispatch(self.now).batches[0]

    def cancel(self, tickets: list[Any]) -> None:
        for ticket in tickets:
            self.scheduler.cancel(ticket, self.now)


def policy(size: int) -> dict[str, Any]:
    sides = {"short": _Policy(SHORT), "long": _Policy(size)}
    seen: dict[str, dict[str, list[float]]] = {
        name: {"push": [], "pop": [], "cancel": []} for name in sides
    }
    gc.collect()
    gc.freeze()
    gc.disable()
    for _ in range(_TURNS):
        for name, side in sides.items():
            pushed: list[Any] = []
            seen[name]["push"].append(_us(lambda side=side, to=pushed: to.extend(side.push(BATCH))))  # type: ignore[misc]
            seen[name]["cancel"].append(_us(lambda side=side, of=pushed: side.cancel(of)))  # type: ignore[misc]
            side.push(BATCH)
            seen[name]["pop"].append(_us(side.turn))
    found: dict[str, Any] = {
        name: {what: median(times) / BATCH for what, times in kinds.items()}
        for name, kinds in seen.items()
    }
    long = _Policy(size)
    half = random.Random(2).sample(long.waiting, size // 2)
    found["cancel_half_us"] = _us(lambda: long.cancel(half)) / len(half)
    return found


def _us(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return (time.perf_counter() - begun) * 1e6


class _Heart:
    """Beats once a turn of the loop, and notes the longest time between two beats."""

    def __init__(self) -> None:
        self.stalls: dict[str, dict[str, float]] = {}
        self.phase = ""

        self._collecting = 0.0
        gc.callbacks.append(self._on_gc)

    def begin(self, phase: str) -> None:
        self.phase = phase
        self.stalls[phase] = {"ms": 0.0, "cpu_ms": 0.0, "gc_ms": 0.0}

    def stop(self) -> None:
        gc.callbacks.remove(self._on_gc)

    def _on_gc(self, event: str, _: dict[str, int]) -> None:
        now = time.perf_counter()
        if event == "start":
            self._collecting = now
        elif (stall := self.stalls.get(self.phase)) is not None:
            stall["gc_ms"] = max(stall["gc_ms"], (now - self._collecting) * 1e3)

    async def beat(self) -> None:
        last, last_cpu = time.perf_counter(), time.thread_time()
        while True:
            await asyncio.sleep(0)
            now, cpu = time.perf_counter(), time.thread_time()
            stall = self.stalls.get(self.phase)
            if stall is not None:
                stall["ms"] = max(stall["ms"], (now - last) * 1e3)
                stall["cpu_ms"] = max(stall["cpu_ms"], (cpu - last_cpu) * 1e3)
            last, last_cpu = now, cpu


def _held_app(size: int, gate: threading.Event, ran: set[str]) -> Any:
    from thalamus_lite import Thalamus

    app = Thalamus(log_level="ERROR")

    @app.model(
        model_id="held", default=True, device="cpu", max_batch_size=BATCH, max_queue_size=2 * size
    )
    class Held:
        def predict(self, inputs: list[TextInput]) -> list[Sentiment]:
            gate.wait()
            ran.update(item.text for item in inputs)
            return [Sentiment(label="positive", score=0.5)] * len(inputs)

    return app


async def whole_app(size: int) -> dict[str, Any]:
    from thalamus_lite.server import tune_collector

    gate, ran = threading.Event(), set[str]()
    driver = Driver(_held_app(size, gate, ran), predict())
    numbers = counter()
    requests: dict[str, asyncio.Task[None]] = {}
    heart = _Heart()
    await driver.start()
    gc.collect()
    tune_collector()
    beating = asyncio.ensure_future(heart.beat())
    try:
        heart.begin("they arrive")
        while len(requests) < size:
            for _ in range(_A_TICK):
                name = f"request {next(numbers)}"
                requests[name] = asyncio.ensure_future(driver.request(_body(name)))
            await asyncio.sleep(0)
        left = len(requests) - size // 2
        await asyncio.sleep(0.1)
        heart.phase = ""
        # The first batch runs already.
        gone = random.Random(3).sample(list(requests)[BATCH * 2 :], size // 2)
        await asyncio.sleep(0.1)
        heart.begin("half is cancelled")
        for start in range(0, len(gone), _A_TICK):
            for name in gone[start : start + _A_TICK]:
                requests[name].cancel()
            await asyncio.sleep(0)
        heart.begin("the rest runs")
        gate.set()
        # One gather of all would be a long turn of its own.
        while len(driver.statuses) < left:  # noqa: ASYNC110
            await asyncio.sleep(0)
        heart.phase = ""
        await asyncio.gather(*requests.values(), return_exceptions=True)
    finally:
        gate.set()
        beating.cancel()
        heart.stop()
        await driver.stop()
    if driver.statuses != [200] * left:
        raise SystemExit(f"{len(driver.statuses)} answers, {set(driver.statuses)}")
    return {
        "stalls": heart.stalls,
        "worst": max(heart.stalls, key=lambda phase: heart.stalls[phase]["ms"]),
        "cancelled": len(gone),
        "cancelled_ran": len(ran & set(gone)),
    }


def _body(text: str) -> bytes:
    return json.dumps({"inputs": [{"text": text}]}).encode()


if __name__ == "__main__":
    _what, _size = sys.argv[1], int(sys.argv[2])
    _found = policy(_size) if _what == "policy" else asyncio.run(whole_app(_size))
    print("@" + json.dumps(_found))
