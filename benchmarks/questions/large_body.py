"""What does a large body cost? Row 6: 1 MB of JSON, floats in records."""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

from benchmarks import closed_loop, peers
from benchmarks.answer import Answer, Table
from benchmarks.rounds import Rounds

if TYPE_CHECKING:
    from benchmarks.closed_loop import Closed
    from benchmarks.run import Run

BYTES = 1_000_000
VALUES = 512


def estimate_s(run: Run) -> float:
    return run.rounds(3) * run.pick(4, 2) * 2.5 + 5


def measure(run: Run) -> Answer:
    answer = Answer()
    body = vectors(BYTES)
    rounds: Rounds[Closed] = Rounds()
    calls = {
        "floor": replace(peers.FLOOR.call, path="/vectors", body=body),
        "thalamus-lite": replace(peers.predict("vectors"), body=body),
    }
    with (
        run.reporting(answer, "large bodies"),
        run.server(peers.FLOOR) as floor,
        run.server(peers.OURS_SHAPES) as ours,
    ):
        servers = {"floor": floor, "thalamus-lite": ours}
        for number in range(run.rounds(3)):
            rounds.begin()
            for name in run.order(*servers):
                warm_s = 0 if number else 1
                rounds.add(name, closed_loop.run(servers[name], calls[name], 1, 2, warm_s))
                run.step(f"{name}: 1 MB", 2.5)
        answer.read("6", rounds.ratio("thalamus-lite", "floor", lambda closed: closed.p50_us))
        rows = tuple(
            (
                name,
                rounds.figure(name, lambda closed: closed.p50_us / 1000),
                rounds.figure(name, lambda closed: closed.p99_us / 1000),
                rounds.figure(name, lambda closed: closed.cpu_us / 1000),
                len(body) * rounds.figure(name, lambda closed: closed.rps) / 1e6,
            )
            for name in servers
        )
        columns = ("server", "p50 ms", "p99 ms", "CPU ms/request", "MB/s")
        note = "1 connection. The floor is raw ASGI with `orjson.loads` and a pydantic validator."
        answer.tables.append(Table("1 MB of floats in records", columns, rows, note))
    return answer


def vectors(size: int) -> bytes:
    """A request of about ``size`` bytes."""
    random = Random(1)
    inputs = []
    length = 0
    while length < size:
        inputs.append({"values": [random.gauss(0, 1) for _ in range(VALUES)]})
        length += len(json.dumps(inputs[-1], separators=(",", ":"))) + 1
    return json.dumps({"model": "vectors", "inputs": inputs}, separators=(",", ":")).encode()
