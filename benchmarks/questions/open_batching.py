"""What does a request wait when batches form by chance? Row 8: Poisson, 10 to 95 % of capacity."""

from __future__ import annotations

import json
import subprocess
import sys
from statistics import fmean
from typing import TYPE_CHECKING

from benchmarks import open_loop, oracle, peers
from benchmarks.answer import Answer, Plot, Table
from benchmarks.load.outcome import quantile
from benchmarks.load.schedule import poisson
from benchmarks.processes import ROOT, SERVER_CORE, pinned
from benchmarks.servers.work import MAX_BATCH, Cost

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.load.outcome import Outcome
    from benchmarks.run import Run

COSTS = (Cost("sleep", 4, 0.25), Cost("spin", 4, 0.25))
LOADS = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
WARM_S = 1.0
_SEED = 8


def loads(run: Run, cost: Cost) -> tuple[float, ...]:
    if run.quick:
        return (0.1, 0.7)
    return LOADS if cost.kind == "sleep" else (0.1, 0.5, 0.8)


def _seconds(run: Run) -> float:
    return run.pick(7, 3)


def _costs(run: Run) -> tuple[Cost, ...]:
    return COSTS[:1] if run.quick else COSTS


def estimate_s(run: Run) -> float:
    cells = sum(len(loads(run, cost)) for cost in _costs(run))
    return cells * (_seconds(run) + 1.5) + 8


def measure(run: Run) -> Answer:
    answer = Answer()
    models = ",".join(f"{cost.kind} {cost.a_ms} {cost.k_ms}" for cost in COSTS)
    with run.reporting(answer, "open loop"), run.server(peers.OURS, models=models) as ours:
        for cost in _costs(run):
            real = calibrated(cost)
            rows = []
            for load in loads(run, cost):
                rate = load * MAX_BATCH / real(MAX_BATCH)
                due = poisson(rate, _seconds(run), _SEED)
                call = peers.predict(cost.name)
                outcome = open_loop.run(ours, [call], [(at, 0) for at in due])
                best = oracle.latencies(due, real, MAX_BATCH)
                kept = [late for at, late in zip(due, best, strict=True) if at >= WARM_S]
                rows.append(_row(load, rate, outcome, kept))
                run.step(f"{cost.name} at {load:.0%}", _seconds(run) + 1.5)
            _report(answer, cost, rows)
    return answer


def calibrated(cost: Cost) -> Callable[[int], float]:
    """c(n) as this machine delivers it: a sleep is late, and that is not the server's doing."""
    code = (
        "import json,sys,time\n"
        "from benchmarks.servers.work import Cost\n"
        "cost=Cost.parse(sys.argv[1])\n"
        "def took(n):\n"
        " begun=time.perf_counter(); cost.spend(n); return time.perf_counter()-begun\n"
        "print(json.dumps([sorted(took(n) for _ in range(31))[15] for n in (1, 32)]))"
    )
    text = f"{cost.kind} {cost.a_ms} {cost.k_ms}"
    done = subprocess.run(
        pinned(SERVER_CORE, (sys.executable, "-c", code, text)),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    one, full = json.loads(done.stdout)
    slope = (full - one) / 31
    return lambda n: float(one + slope * (n - 1))


def _row(load: float, rate: float, outcome: Outcome, best: list[float]) -> dict[str, float | str]:
    mine = outcome.latencies(skip_s=WARM_S)
    found: dict[str, float | str] = {
        "load": load,
        "rate": rate,
        "oracle mean": fmean(best) * 1e3,
        "mean": fmean(mine) * 1e3 if mine else float("nan"),
        "oracle p99": quantile(best, 0.99) * 1e3,
        "p99": quantile(mine, 0.99) * 1e3,
        "not 200": len(outcome.status) - outcome.count(200),
        "void": outcome.void or "",
    }
    return found


def _report(answer: Answer, cost: Cost, rows: list[dict[str, float | str]]) -> None:
    def ratio(row: dict[str, float | str], what: str) -> float:
        return float(row[what]) / float(row[f"oracle {what}"])

    if cost.kind == "sleep":
        void = "; ".join(sorted({str(row["void"]) for row in rows if row["void"]}))
        for what in ("mean", "p99"):
            worst = max(rows, key=lambda row: ratio(row, what))
            over_ms = float(worst[what]) - float(worst[f"oracle {what}"])
            note = f"at {float(worst['load']):.0%} of capacity, where {over_ms:.2f} ms are added"
            answer.read(f"8 {what}", ratio(worst, what), note, void)
    columns = (
        "load",
        "requests/s",
        "oracle mean ms",
        "mean ms",
        "x",
        "oracle p99 ms",
        "p99 ms",
        "x",
        "not 200",
    )
    table = tuple(
        (
            f"{float(row['load']):.0%}" + (" (void)" if row["void"] else ""),
            round(float(row["rate"])),
            row["oracle mean"],
            row["mean"],
            ratio(row, "mean"),
            row["oracle p99"],
            row["p99"],
            ratio(row, "p99"),
            row["not 200"],
        )
        for row in rows
    )
    title = f"Poisson arrivals, c(n) = {cost.a_ms:g} + {cost.k_ms:g}·n ms, {cost.kind}"
    note = (
        "The oracle runs the same trace in virtual time, with c(n) as measured on this machine and"
        " no overhead at all: no HTTP, no loop."
    )
    answer.tables.append(Table(title, columns, table, note))
    series = {
        name: tuple((float(row["load"]), float(row[name])) for row in rows)
        for name in ("oracle mean", "mean", "oracle p99", "p99")
    }
    answer.plots.append(
        Plot(f"open_{cost.kind}", title, "share of capacity", "ms", series, log_y=True)
    )
