"""How long does the slowest hundredth wait when arrivals do not wait for answers? Row 5."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import closed_loop, open_loop, peers
from benchmarks.answer import Answer, Plot, Row, Table
from benchmarks.load.outcome import POINTS, quantile
from benchmarks.load.schedule import ARRIVALS
from benchmarks.rounds import Rounds

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.load.outcome import Outcome
    from benchmarks.peers import Peer
    from benchmarks.processes import Server
    from benchmarks.run import Run

SHARE = 0.7
CAPACITY_S = 2
POOL = 128
"""Connections, as a balancer has them. Without a bound, what is due during a hiccup of the machine
comes on a thousand new ones, and accepting those is what would be measured.
"""
WARM_S = 0.5


def _arrivals(run: Run) -> dict[str, int]:
    """In how many rounds each."""
    return {"poisson": 1} if run.quick else {"poisson": 2, "bursts": 1}


def estimate_s(run: Run) -> float:
    samples = run.pick(4, 2) * sum(_arrivals(run).values())
    return samples * (run.pick(6, 2) + 1 + CAPACITY_S + 1)


def measure(run: Run) -> Answer:
    answer = Answer()
    with (
        run.reporting(answer, "thalamus-lite"),
        run.server(peers.FLOOR) as floor,
        run.server(peers.OURS) as ours,
    ):
        servers = {"floor": (floor, peers.FLOOR), "thalamus-lite": (ours, peers.OURS)}
        for arrivals, count in _arrivals(run).items():
            # A burst comes at five times its mean rate: its mean is what keeps its peak at 70 %.
            share = 1.0 if arrivals == "poisson" else 0.2
            rounds: Rounds[Outcome] = Rounds()
            for seed in range(count):
                rounds.begin()
                for name in run.order("floor", "thalamus-lite"):
                    server, peer = servers[name]
                    # Anew each time: a machine that has become slower has less to give.
                    rate = _capacity(run, server, peer) * SHARE
                    due = ARRIVALS[arrivals](rate * share, run.pick(6, 2), seed)
                    rounds.add(
                        name, open_loop.run(server, [peer.call], [(at, 0) for at in due], POOL)
                    )
                    run.step(f"{name}: {arrivals} at 70 %", run.pick(6, 2) + 1)
            _report(answer, arrivals, rounds)
    return answer


def _capacity(run: Run, server: Server, peer: Peer) -> float:
    rps = closed_loop.run(server, peer.call, 64, CAPACITY_S, 1).rps
    run.step(f"{peer.name}: capacity", CAPACITY_S + 1)
    return rps


def at_ms(q: float) -> Callable[[Outcome], float]:
    """Reads a quantile in ms, the first half second left out: its connections were being opened."""
    return lambda outcome: quantile(outcome.latencies(skip_s=WARM_S), q) * 1e3


def _rate(outcome: Outcome) -> float:
    return len(outcome.due) / outcome.due[-1]


def _report(answer: Answer, arrivals: str, rounds: Rounds[Outcome]) -> None:
    void = open_loop.voids(rounds.all())
    if arrivals == "poisson":
        answer.read("5", rounds.ratio("thalamus-lite", "floor", at_ms(0.99)), void=void)
    names = ("floor", "thalamus-lite")
    rows: tuple[Row, ...] = tuple(
        (
            name,
            round(rounds.figure(name, _rate)),
            *(rounds.figure(name, at_ms(q)) for q in (0.5, 0.9, 0.99, 0.999)),
            rounds.figure(name, lambda outcome: outcome.headroom),
        )
        for name in names
    )
    columns = ("server", "rate", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "generator headroom")
    title = f"Open loop at 70 % of each one's own capacity, {arrivals}"
    answer.tables.append(Table(title, columns, rows, void))
    series = {
        name: tuple((p, rounds.figure(name, at_ms(p / 100))) for p in POINTS if 1 <= p < 99.95)
        for name in names
    }
    plot = Plot(f"open_loop_{arrivals}", title, "percentile", "ms", series, log_y=True)
    answer.plots.append(plot)
