"""How near do batches come to the best when N clients ask in a loop? Row 7."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks import closed_loop, oracle, peers
from benchmarks.answer import Answer, Plot, Table
from benchmarks.rounds import Rounds
from benchmarks.servers.work import MAX_BATCH, Cost

if TYPE_CHECKING:
    from benchmarks.closed_loop import Closed
    from benchmarks.processes import Call
    from benchmarks.run import Run

COSTS = (Cost("sleep", 4, 0.25), Cost("sleep", 10, 0.1))
CLIENTS = (1, 8, 24, 32, 64, 256)
_WARM_S = 1


def clients(run: Run) -> tuple[int, ...]:
    return (1, 24, 64) if run.quick else CLIENTS


def _costs(run: Run) -> tuple[Cost, ...]:
    return COSTS[:1] if run.quick else COSTS


def estimate_s(run: Run) -> float:
    cells = len(_costs(run)) * len(clients(run))
    return cells * run.pick(4, 2) * (_seconds(run) + _WARM_S + 0.3) + 6


def _seconds(run: Run) -> int:
    return int(run.pick(2, 1))


def measure(run: Run) -> Answer:
    answer = Answer()
    models = ",".join(f"{cost.kind} {cost.a_ms} {cost.k_ms}" for cost in COSTS)
    cells: dict[tuple[Cost, int], Rounds[Closed]] = {}
    with (
        run.reporting(answer, "closed loop"),
        run.server(peers.ORACLE) as best,
        run.server(peers.OURS, models=models) as ours,
    ):
        servers = {"oracle": best, "thalamus-lite": ours}
        for cost in _costs(run):
            for count in clients(run):
                rounds: Rounds[Closed] = Rounds([{}])
                for name in run.order(*servers):
                    call = call_for(name, cost, count)
                    sample = closed_loop.run(servers[name], call, count, _seconds(run), _WARM_S)
                    rounds.add(name, sample)
                    run.step(f"{name}: {cost.name}, {count}", _seconds(run) + _WARM_S + 0.3)
                cells[cost, count] = rounds
        _report(answer, cells)
    return answer


def call_for(name: str, cost: Cost, clients: int) -> Call:
    if name != "oracle":
        return peers.predict(cost.name)
    told = {"X-Cost": f"{cost.kind} {cost.a_ms} {cost.k_ms}", "X-Clients": str(clients)}
    return replace(peers.ORACLE.call, headers={**peers.JSON, **told})


def _rps(closed: Closed) -> float:
    return closed.rps


def _report(answer: Answer, cells: dict[tuple[Cost, int], Rounds[Closed]]) -> None:
    rows = []
    worst: tuple[float, str] = (float("inf"), "")
    for (cost, count), rounds in cells.items():
        share = rounds.ratio("thalamus-lite", "oracle", _rps)
        ideal = oracle.closed_loop_rps(count, cost.seconds, MAX_BATCH)
        rows.append(
            (
                f"{cost.a_ms:g} + {cost.k_ms:g}·n ms, N = {count}",
                round(ideal),
                round(rounds.figure("oracle", _rps)),
                round(rounds.figure("thalamus-lite", _rps)),
                share,
                rounds.figure("oracle", lambda closed: closed.p99_us / 1000),
                rounds.figure("thalamus-lite", lambda closed: closed.p99_us / 1000),
            )
        )
        worst = min(worst, (share, rows[-1][0]))
    answer.read("7", worst[0], f"the worst cell is {worst[1]}")
    columns = ("c(n), N", "formula", "oracle", "thalamus-lite", "share", "oracle p99 ms", "p99 ms")
    note = (
        "Requests a second. The oracle is a raw ASGI batcher that knows N; the formula"
        f" min(N/c(N), B/c(B)), B = {MAX_BATCH}, leaves out the round trip."
    )
    title = "N clients in a closed loop"
    answer.tables.append(Table(title, columns, tuple(rows), note))
    for cost in dict.fromkeys(cost for cost, _ in cells):
        mine = {count: rounds for (of, count), rounds in cells.items() if of == cost}
        series = {
            "ideal by the formula": tuple(
                (count, oracle.closed_loop_rps(count, cost.seconds, MAX_BATCH)) for count in mine
            ),
            "oracle that knows N": tuple((n, r.figure("oracle", _rps)) for n, r in mine.items()),
            "thalamus-lite": tuple((n, r.figure("thalamus-lite", _rps)) for n, r in mine.items()),
        }
        answer.plots.append(
            Plot(
                f"closed_{cost.name}".replace(".", "_"),
                f"Closed loop, c(n) = {cost.a_ms:g} + {cost.k_ms:g}·n ms",
                "clients",
                "requests a second",
                series,
                log_x=True,
            )
        )
