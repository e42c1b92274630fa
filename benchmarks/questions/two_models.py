"""Does a busy model hold up a quiet one? Row 9: a hundred requests for one to one for the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import open_loop, peers
from benchmarks.answer import Answer, Table
from benchmarks.load.outcome import quantile
from benchmarks.load.schedule import merge, poisson
from benchmarks.questions.open_batching import calibrated
from benchmarks.servers.work import MAX_BATCH, Cost

if TYPE_CHECKING:
    from benchmarks.run import Run

PAIRS = (
    (Cost("sleep", 10, 0.1), Cost("sleep", 2, 0.05)),
    (Cost("spin", 10, 0.1), Cost("spin", 2, 0.05)),
)
LOAD = 0.7
SHARE = 100
WARM_S = 1.0
BIG, SMALL = range(2)


def _seconds(run: Run) -> float:
    return run.pick(15, 4)


def _pairs(run: Run) -> tuple[tuple[Cost, Cost], ...]:
    return PAIRS[:1] if run.quick else PAIRS


def estimate_s(run: Run) -> float:
    return len(_pairs(run)) * (_seconds(run) + 2) + 5


def measure(run: Run) -> Answer:
    answer = Answer()
    models = ",".join(f"{cost.kind} {cost.a_ms} {cost.k_ms}" for pair in PAIRS for cost in pair)
    rows = []
    with run.reporting(answer, "two models"), run.server(peers.OURS, models=models) as server:
        for big, small in _pairs(run):
            c_big, c_small = calibrated(big), calibrated(small)
            rate = LOAD * MAX_BATCH / c_big(MAX_BATCH)
            trace = merge(poisson(rate, _seconds(run), 1), poisson(rate / SHARE, _seconds(run), 2))
            calls = [peers.predict(big.name), peers.predict(small.name)]
            outcome = open_loop.run(server, calls, trace)
            bound = (c_big(MAX_BATCH) + 2 * c_small(1)) * 1e3
            waits = [outcome.of_kind(kind).latencies(WARM_S) for kind in (BIG, SMALL)]
            p99 = quantile(waits[SMALL], 0.99) * 1e3
            if big.kind == "sleep":
                answer.read("9", p99 / bound, f"{p99:.1f} ms of {bound:.1f}", outcome.void or "")
            rows.append(
                (
                    big.kind,
                    round(rate),
                    quantile(waits[BIG], 0.5) * 1e3,
                    quantile(waits[BIG], 0.99) * 1e3,
                    len(waits[SMALL]),
                    quantile(waits[SMALL], 0.5) * 1e3,
                    p99,
                    bound,
                )
            )
            run.step(f"two models, {big.kind}", _seconds(run) + 2)
    columns = (
        "cost",
        "big requests/s",
        "big p50 ms",
        "big p99 ms",
        "small requests",
        "small p50 ms",
        "small p99 ms",
        "c_big + 2·c_small ms",
    )
    note = f"The big one at {LOAD:.0%} of its capacity; c(n) = 10 + 0.1·n and 2 + 0.05·n ms."
    answer.tables.append(Table("Two models, 100 : 1", columns, tuple(rows), note))
    return answer
