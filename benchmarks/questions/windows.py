"""Does it pay to wait for company? Row 8: peers with several windows, at a low and a high load."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

from benchmarks import open_loop, peers
from benchmarks.answer import Answer, Table
from benchmarks.load.outcome import quantile
from benchmarks.load.schedule import poisson
from benchmarks.questions.open_batching import calibrated
from benchmarks.servers.work import MAX_BATCH, Cost

if TYPE_CHECKING:
    from benchmarks.load.outcome import Outcome
    from benchmarks.peers import Peer
    from benchmarks.processes import Server
    from benchmarks.run import Run

COST = Cost("sleep", 40, 2)
"""Slow enough for every peer: none is to be judged here by how many requests it can carry."""

LOADS = (0.1, 0.9)
WARM_S = 1.5
_SEED = 9
WINDOWED = (peers.MOSEC, peers.LITSERVE, peers.MLSERVER)
Settings = list[tuple["Peer", float | None]]


def settings(run: Run) -> Settings:
    found: Settings = [(peers.OURS, None)]
    for peer in WINDOWED[:1] if run.quick else filter(run.wants, WINDOWED):
        windows = peer.windows_ms[:1] if run.quick else peer.windows_ms
        found += [(peer, window) for window in windows]
    return found


def _seconds(run: Run) -> float:
    return run.pick(6, 2)


def estimate_s(run: Run) -> float:
    return len(settings(run)) * (len(LOADS) * (_seconds(run) + 1) + 5)


def measure(run: Run) -> Answer:
    answer = Answer()
    real = calibrated(COST)
    full_rate = MAX_BATCH / real(MAX_BATCH)
    seen: dict[tuple[str, float | None], list[Outcome]] = {}
    cost = f"{COST.kind} {COST.a_ms} {COST.k_ms}"
    for peer, window in settings(run):
        options = {"cost": cost} if window is None else {"cost": cost, "window_ms": f"{window:g}"}
        label = peer.name if window is None else f"{peer.name}, {window:g} ms"
        with run.reporting(answer, label), run.server(peer, **options) as server:
            outcomes = [_at(run, server, peer, load * full_rate) for load in LOADS]
            seen[peer.name, window] = outcomes
        run.step(label, len(LOADS) * (_seconds(run) + 1) + 5)
    _report(answer, seen)
    return answer


def _at(run: Run, server: Server, peer: Peer, rate: float) -> Outcome:
    due = poisson(rate, _seconds(run) + WARM_S, _SEED)
    return open_loop.run(server, [peer.call], [(at, 0) for at in due])


def _mean_ms(outcome: Outcome) -> float:
    kept = outcome.latencies(skip_s=WARM_S)
    return fmean(kept) * 1e3 if kept else float("inf")


def _report(answer: Answer, seen: dict[tuple[str, float | None], list[Outcome]]) -> None:
    ours = seen.get((peers.OURS.name, None))
    if ours is None:
        return
    others = {key: outcomes for key, outcomes in seen.items() if key[1] is not None}
    void = open_loop.voids(outcome for several in seen.values() for outcome in several)
    if others:
        # A setting beats ours only if it is better at both ends, so each counts by its better half.
        worse = {
            key: max(_mean_ms(o) / _mean_ms(mine) for o, mine in zip(outcomes, ours, strict=True))
            for key, outcomes in others.items()
        }
        name, window = min(worse, key=lambda key: worse[key])
        answer.read("8 peers", worse[name, window], f"{name} with {window:g} ms", void)
    rows = tuple(
        (
            name if window is None else f"{name}, {window:g} ms",
            *(
                figure
                for outcome in outcomes
                for figure in (
                    _mean_ms(outcome),
                    quantile(outcome.latencies(skip_s=WARM_S), 0.95) * 1e3,
                    len(outcome.status) - outcome.count(200),
                )
            ),
        )
        for (name, window), outcomes in seen.items()
    )
    columns = (
        "server, window",
        *(f"{what} at {load:.0%}" for load in LOADS for what in ("mean ms", "p95 ms", "not 200")),
    )
    title = f"Windows: Poisson, c(n) = {COST.a_ms:g} + {COST.k_ms:g}·n ms, sleep"
    answer.tables.append(Table(title, columns, rows, void))
