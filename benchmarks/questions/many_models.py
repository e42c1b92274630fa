"""Does a request pay for the models that it does not ask for? Row 10: 1 and 10,000 of them.

``python -m benchmarks.questions.many_models COUNT WAVES`` measures in process, in our environment.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks import peers
from benchmarks.answer import Answer, Table
from benchmarks.peers import predict
from benchmarks.processes import Call
from benchmarks.questions.drive import Driver
from benchmarks.servers.work import Sentiment, TextInput

if TYPE_CHECKING:
    from benchmarks.run import Run

PROBES = ("/health", "/ready", "/status")
_WAVE = 64
_PROBE_CALLS = 5


def count(run: Run) -> int:
    return int(run.pick(10_000, 1_000))


def estimate_s(run: Run) -> float:
    return run.pick(12, 4)


def measure(run: Run) -> Answer:
    answer = Answer()
    waves = int(run.pick(60, 20))
    with run.reporting(answer, "many models"):
        seen = run.inside(__name__, str(count(run)), str(waves))
        run.step(f"{count(run)} models", estimate_s(run))
        answer.read("10 request", seen["request_ratio"])
        one, many = seen["one"], seen["many"]

        def by_byte(probe: dict[str, float]) -> float:
            return probe["us"] / probe["bytes"]

        health = by_byte(many["/health"]) / by_byte(one["/health"])
        answer.read("10 probe", health, "time for each byte of the body")
        rows = (
            ("request, µs", one["request_us"], many["request_us"], seen["request_ratio"]),
            *(
                (
                    f"GET {path}, µs",
                    one[path]["us"],
                    many[path]["us"],
                    many[path]["us"] / one[path]["us"],
                )
                for path in PROBES
            ),
            *(
                (
                    f"GET {path}, ns a body byte",
                    by_byte(one[path]) * 1e3,
                    by_byte(many[path]) * 1e3,
                    by_byte(many[path]) / by_byte(one[path]),
                )
                for path in PROBES
            ),
        )
        columns = ("in process", "1 model", f"{count(run):,} models", "x")
        answer.tables.append(Table("Registered models", columns, rows))
    return answer


class _Side:
    """An app with ``count`` models, of which the default one is asked."""

    def __init__(self, count: int) -> None:
        self.app = _app(count)
        self.driver = Driver(self.app, predict())
        self.request_us: list[float] = []

    async def wave(self) -> None:
        begun = time.perf_counter()
        for _ in range(_WAVE):
            await self.driver.request()
        self.request_us.append((time.perf_counter() - begun) / _WAVE * 1e6)

    async def probe(self, path: str) -> dict[str, float]:
        call = Call(path, b"", peers.predict().headers, "GET")
        sent = bytearray()
        driver = Driver(self.app, call)
        driver.on_body = sent.extend
        times = []
        for _ in range(_PROBE_CALLS):
            sent.clear()
            begun = time.perf_counter()
            await driver.request()
            times.append(time.perf_counter() - begun)
        return {"us": median(times) * 1e6, "bytes": len(sent)}


def _app(count: int) -> Any:
    # Only there where this module is run, in our servers' environment.
    from thalamus_lite import Thalamus

    # Lazily: 10,000 loaded models would be as many lanes.
    app = Thalamus(load="lazy")

    def add(number: int) -> None:
        @app.model(model_id=f"model-{number}", default=number == 0, device="cpu", max_batch_size=32)
        class Model:
            async def predict(self, inputs: list[TextInput]) -> list[Sentiment]:
                return [Sentiment(label="positive", score=0.5)] * len(inputs)

    for number in range(count):
        add(number)
    return app


async def compare(count: int, waves: int) -> dict[str, Any]:
    """Both in one process, a wave of each in turn: what is left is the number of models."""
    sides = {"one": _Side(1), "many": _Side(count)}
    for side in sides.values():
        await side.driver.start()
        await side.wave()
        side.request_us.clear()
    gc.collect()
    # As `serve` does: what is there by now is not walked at each collection.
    gc.freeze()
    for number in range(waves):
        for side in (sides.values(), reversed(sides.values()))[number % 2]:
            await side.wave()
    pairs = zip(sides["one"].request_us, sides["many"].request_us, strict=True)
    found: dict[str, Any] = {"request_ratio": median(many / one for one, many in pairs)}
    for name, side in sides.items():
        found[name] = {"request_us": median(side.request_us)}
        for path in PROBES:
            found[name][path] = await side.probe(path)
        if set(side.driver.statuses) != {200}:
            raise SystemExit(f"answers other than 200: {set(side.driver.statuses)}")
        await side.driver.stop()
    return found


if __name__ == "__main__":
    print("@" + json.dumps(asyncio.run(compare(*map(int, sys.argv[1:])))))
