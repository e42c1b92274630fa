"""``python -m benchmarks.questions.stepping MODEL WAVES``: the time of one request by step, as
JSON.

Functions on the request's way are wrapped by a clock; a step's time is its own, without that of
steps inside it and without what the clock itself costs. The names are private ones: one that is
gone is reported, and its time falls to the step around it.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from benchmarks.peers import predict
from benchmarks.questions.drive import WARM, Driver

if TYPE_CHECKING:
    from collections.abc import Callable

CLIENTS = 64
_PACKAGE = "thalamus_lite."

# (step, module, name): what runs on the loop or in the lane for a request, outermost first.
STEPS = (
    ("read headers, make an id", "http.request", "Request.__init__"),
    ("route", "http.router", "Router.find"),
    ("check the key", "http.gate", "Gate.check"),
    ("decode JSON", "api.predict", "decode_rounded"),
    ("check the envelope", "api.predict", "_read"),
    ("find the model", "model.registry", "Registry.resolve"),
    ("validate the inputs", "model.records", "RecordType.validate"),
    ("deadline", "api.predict", "_timeout_s"),
    ("make the pending request", "batching.group", "PendingRequest.__init__"),
    ("submit: admit and queue", "batching.batcher", "Batcher.submit"),
    ("dispatch: choose a batch", "batching.batcher", "Batcher._dispatch"),
    ("dispatch: choose a batch", "batching.queue", "Scheduler.dispatch"),
    ("start: hand to the lane", "batching.batcher", "Batcher._start"),
    ("lane: around the hooks", "batching.batcher", "Batcher._run_in_lane"),
    ("lane: around the hooks", "batching.lane", "Hooks.run"),
    ("the model itself", "benchmarks.servers.with_thalamus_lite", "answers"),
    ("the model itself", "benchmarks.servers.with_thalamus_lite_shapes", "answers"),
    ("complete: give results back", "batching.batcher", "Batcher._complete"),
    ("finish: wake the request", "batching.batcher", "Batcher._finish"),
    ("encode the outputs", "model.records", "RecordType.dump"),
    ("write meta and Server-Timing", "api.predict", "PredictRoute._answer"),
    ("count in metrics", "observability.metrics", "ModelMetrics.answered"),
    ("make the response", "http.response", "Response.__init__"),
)


class Clock:
    """Own time and calls by step, over all threads.

    ``inside_s`` and ``around_s`` are what the clock costs a wrapped call and the one around it:
    they are taken off.
    """

    def __init__(self, inside_s: float = 0.0, around_s: float = 0.0) -> None:
        self.inside_s = inside_s
        self.around_s = around_s
        self.own: dict[str, float] = {}
        self.calls: dict[str, int] = {}
        self.absent: list[str] = []
        self._local = threading.local()

    def wrap(self, step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        self.own.setdefault(step, 0.0)
        self.calls.setdefault(step, 0)
        own, calls, local, now = self.own, self.calls, self._local, time.perf_counter
        inside_s, around_s = self.inside_s, self.around_s

        def timed(*args: Any, **options: Any) -> Any:
            stack = getattr(local, "stack", None)
            if stack is None:
                stack = local.stack = []
            stack.append(0.0)
            begun = now()
            try:
                return function(*args, **options)
            finally:
                took = now() - begun
                own[step] += took - stack.pop() - inside_s
                calls[step] += 1
                if stack:
                    stack[-1] += took + around_s

        return timed

    def install(self, step: str, module: str, name: str) -> None:
        place: Any
        try:
            place = importlib.import_module(
                module if module.startswith("benchmarks.") else _PACKAGE + module
            )
            *owners, last = name.split(".")
            for owner in owners:
                place = getattr(place, owner)
            setattr(place, last, self.wrap(step, getattr(place, last)))
        except (ImportError, AttributeError):
            self.absent.append(f"{module}.{name}")

    def reset(self) -> None:
        for step in self.own:
            self.own[step] = 0.0
            self.calls[step] = 0


def overhead_s(calls: int = 1000, times: int = 50) -> tuple[float, float]:
    """What one wrapped call adds to its own step, and to the one around it; the least of several
    times.
    """
    found = []
    for _ in range(times):
        clock = Clock()
        inner = clock.wrap("inner", lambda: None)
        clock.wrap("outer", lambda inner=inner: [inner() for _ in range(calls)])()
        found.append((clock.own["inner"] / calls, clock.own["outer"] / calls))
    return min(inner for inner, _ in found), min(outer for _, outer in found)


async def waves(driver: Driver, count: int) -> float:
    """Seconds a request in ``count`` waves of ``CLIENTS`` requests, which arrive in one tick of the
    loop each.
    """
    begun = time.perf_counter()
    for _ in range(count):
        await asyncio.gather(*(driver.request() for _ in range(CLIENTS)))
    return (time.perf_counter() - begun) / (count * CLIENTS)


async def profile(model: str, count: int) -> dict[str, Any]:
    from thalamus_lite.server import tune_collector

    # This module has the lane's model too.
    module = importlib.import_module("benchmarks.servers.with_thalamus_lite_shapes")
    driver = Driver(module.app, predict(model))
    clock = Clock(*overhead_s())
    tune_collector()
    await driver.start()
    await waves(driver, WARM)
    gc.collect()
    plain_s = await waves(driver, count)
    await driver.stop()
    for step, where, name in STEPS:
        clock.install(step, where, name)
    await driver.start()
    await waves(driver, WARM)
    clock.reset()
    timed_s = await waves(driver, count)
    await driver.stop()
    requests = count * CLIENTS
    return {
        "request_us": plain_s * 1e6,
        "request_timed_us": timed_s * 1e6,
        "clock_us": (clock.inside_s + clock.around_s) * 1e6,
        "steps": {
            step: {
                "us": max(clock.own[step] / requests * 1e6, 0.0),
                "calls": clock.calls[step] / requests,
            }
            for step in clock.own
        },
        "absent": clock.absent,
    }


if __name__ == "__main__":
    print("@" + json.dumps(asyncio.run(profile(sys.argv[1], int(sys.argv[2])))))
