"""What does serving cost beside the floor and the field? Rows 1 to 4."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from benchmarks import closed_loop, peers
from benchmarks.answer import Answer, Plot, Table
from benchmarks.rounds import Rounds

if TYPE_CHECKING:
    from benchmarks.closed_loop import Closed
    from benchmarks.peers import Peer
    from benchmarks.processes import Server
    from benchmarks.run import Run

MANY = 64
WARM_S = 1
ONE_S = 1


class Sample(NamedTuple):
    many: Closed
    one: Closed


def _rps(sample: Sample) -> float:
    return sample.many.rps


def _cpu_us(sample: Sample) -> float:
    return sample.many.cpu_us


def _p50_us(sample: Sample) -> float:
    return sample.one.p50_us


OURS = (peers.OURS, peers.OURS_ASYNC)


def _chosen(run: Run, answer: Answer) -> list[tuple[Peer, int]]:
    """Who is measured, and in how many rounds: more where the goals are finer."""
    ours = [(peer, run.rounds(3)) for peer in OURS]
    close = (peers.MOSEC, peers.THALAMUS_SERVE)
    return ours + [(peer, run.rounds(2 if peer in close else 1)) for peer in run.field(answer)]


def estimate_s(run: Run) -> float:
    sample_s = run.pick(2, 1) + ONE_S + 1.5
    chosen = _chosen(run, Answer())
    return sum(rounds * (run.pick(4, 2) * sample_s + 6) for _, rounds in chosen)


def measure(run: Run) -> Answer:
    answer = Answer()
    rounds: Rounds[Sample] = Rounds()
    for peer, count in _chosen(run, answer):
        with run.reporting(answer, peer.name):
            for _ in range(count):
                _one_round(run, peer, rounds)
    names = [peer.name for peer in peers.ALL if any(peer.name in r for r in rounds.rounds)]
    _readings(answer, rounds, names)
    answer.tables.append(_table(rounds, names))
    answer.plots += _plots(rounds, names)
    return answer


def _one_round(run: Run, peer: Peer, rounds: Rounds[Sample]) -> None:
    """Floor, peer, peer, floor. The peer runs only while it is measured: some are never idle."""
    kept: Rounds[Sample] = Rounds([{}])
    with run.server(peers.FLOOR) as floor:
        kept.add("floor", _sample(run, floor, peers.FLOOR))
        with run.server(peer) as server:
            kept.add(peer.name, _sample(run, server, peer))
            if not run.quick:
                kept.add(peer.name, _sample(run, server, peer))
        if not run.quick:
            kept.add("floor", _sample(run, floor, peers.FLOOR))
    rounds.rounds += kept.rounds
    run.step(f"{peer.name}: stopped", 6)


def _sample(run: Run, server: Server, peer: Peer) -> Sample:
    seconds = run.pick(2, 1)
    many = closed_loop.run(server, peer.call, MANY, seconds, WARM_S)
    one = closed_loop.run(server, peer.call, 1, ONE_S)
    run.step(f"{peer.name}: 64 and 1 connections", seconds + ONE_S + 1.5)
    return Sample(many, one)


def _readings(answer: Answer, rounds: Rounds[Sample], names: list[str]) -> None:
    ours = peers.OURS.name
    if ours not in names:
        return
    answer.read("1", rounds.ratio(ours, "floor", _rps))
    answer.read("3 floor", rounds.ratio(ours, "floor", _cpu_us))
    for goal, name in (("4 lane", ours), ("4 async", peers.OURS_ASYNC.name)):
        if name in names:
            answer.read(goal, rounds.difference(name, "floor", _p50_us))
    for peer in peers.FIELD:
        if peer.name in names:
            # Both against the floor of their own rounds, which lie minutes apart.
            by_floor = rounds.ratio(ours, "floor", _rps) / rounds.ratio(peer.name, "floor", _rps)
            answer.read(f"2 {peer.name}", by_floor)
    for peer in (peers.MOSEC, peers.MOSEC_SINGLE):
        if peer.name in names:
            theirs = rounds.ratio(peer.name, "floor", _cpu_us)
            answer.read(f"3 {peer.name}", rounds.ratio(ours, "floor", _cpu_us) / theirs)


def _table(rounds: Rounds[Sample], names: list[str]) -> Table:
    rows = tuple(
        (
            name,
            round(rounds.figure(name, _rps)),
            rounds.ratio(name, "floor", _rps),
            round(rounds.figure(name, lambda s: s.one.rps)),
            round(rounds.figure(name, _p50_us)),
            round(rounds.figure(name, lambda s: s.one.p99_us)),
            round(rounds.figure(name, lambda s: s.many.p99_us)),
            round(rounds.figure(name, _cpu_us)),
            rounds.ratio(name, "floor", _cpu_us),
        )
        for name in names
    )
    columns = (
        "server",
        "rps, 64 conn.",
        "of the floor",
        "rps, 1 conn.",
        "p50 µs, 1 conn.",
        "p99 µs, 1 conn.",
        "p99 µs, 64 conn.",
        "CPU µs/request, 64 conn.",
        "of the floor",
    )
    note = (
        "One text record in, a label and a score out; batching on. Medians over rounds of floor,"
        " server, server, floor; ratios to the floor of the same round."
    )
    return Table("A request's cost, closed loop", columns, rows, note)


def _plots(rounds: Rounds[Sample], names: list[str]) -> list[Plot]:
    by_rps = tuple((name, rounds.figure(name, _rps)) for name in names)
    plots = [
        Plot(
            "throughput",
            "Throughput, 64 connections",
            "",
            "requests a second",
            {"rps": by_rps},
            kind="bar",
            log_y=True,
        )
    ]
    spread = {
        name: tuple(
            (p, rounds.figure(name, lambda s, p=p: s.one.latency_us[p]) / 1000)  # type: ignore[misc]
            for p in closed_loop.PERCENTILES
        )
        for name in names
    }
    plots.append(Plot("latency", "Latency, 1 connection", "percentile", "ms", spread, log_y=True))
    return plots
