"""What happens at ten times the capacity? Goodput, refusals, probes, and how soon it is over."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks import closed_loop, open_loop, peers
from benchmarks.answer import Answer, Plot, Table
from benchmarks.load.outcome import quantile
from benchmarks.load.schedule import even, merge, poisson
from benchmarks.processes import Call
from benchmarks.servers.work import Cost

if TYPE_CHECKING:
    from benchmarks.load.outcome import Outcome
    from benchmarks.run import Run

COST = Cost("sleep", 40, 2)
TIMES = 10
QUEUE = 256
"""About a second of work: with a longer queue its backlog would decide how soon it is over."""

DEADLINE_S = 2.0
"""Of every request: more than the queue holds, so whoever is let in can be answered in time."""

BEFORE_S, AFTER_S = 2.0, 4.0
CALM = 0.25
PROBES_PER_S = 20
PREDICT, HEALTH = range(2)
_BIN_S = 0.5


def overload_s(run: Run) -> float:
    return run.overload_s or run.pick(15, 4)


def estimate_s(run: Run) -> float:
    return overload_s(run) + BEFORE_S + AFTER_S + 8


def measure(run: Run) -> Answer:
    answer = Answer()
    cost = f"{COST.kind} {COST.a_ms} {COST.k_ms}"
    with (
        run.reporting(answer, "overload"),
        run.server(peers.OURS, models=cost, queue=str(QUEUE)) as server,
    ):
        plain = peers.predict(COST.name)
        timed = {"X-Timeout-Ms": f"{DEADLINE_S * 1000:.0f}"}
        call = replace(plain, headers={**plain.headers, **timed})
        peak = closed_loop.run(server, call, 64, 4, 2).rps
        run.step("overload: its peak", 7)
        seconds = overload_s(run)
        whole = BEFORE_S + seconds + AFTER_S
        calm = poisson(CALM * peak, whole, 1)
        storm = [BEFORE_S + at for at in poisson((TIMES - CALM) * peak, seconds, 2)]
        probes = even(PROBES_PER_S, whole)
        trace = [(at, (PREDICT, PREDICT, HEALTH)[n]) for at, n in merge(calm, storm, probes)]
        outcome = open_loop.run(server, [call, Call("/health", method="GET")], trace)
        run.step("overload", estimate_s(run) - 7)
    if "overload" not in answer.missing:
        _report(answer, outcome, peak, seconds)
    return answer


def _report(answer: Answer, outcome: Outcome, peak: float, seconds: float) -> None:
    predicts, health = outcome.of_kind(PREDICT), outcome.of_kind(HEALTH)
    begins, ends = BEFORE_S, BEFORE_S + seconds
    answered = (due + wait for due, wait in predicts.answers(200))
    good = sum(begins <= at < ends for at in answered) / seconds
    refusals = predicts.latencies(begins, 429)
    void = outcome.void or ""
    recovery_s = recovered_after(predicts, ends)
    late = missed(predicts)
    answer.read("overload goodput", good / peak, void=void)
    answer.read("overload refusals", quantile(refusals, 0.99) * 1e3, void=void)
    answer.read("overload health", quantile(health.latencies(begins), 0.99) * 1e3, void=void)
    answer.read("overload recovery", recovery_s, void=void)
    answer.read("overload deadlines", late, void=void)
    statuses = ", ".join(f"{count} x {status}" for status, count in predicts.statuses().items())
    rows = (
        ("peak, closed loop, requests/s", peak),
        ("arrivals, requests/s", predicts_between(predicts, begins, ends) / seconds),
        ("goodput, requests/s", good),
        ("refusals p50, ms", quantile(refusals, 0.5) * 1e3),
        ("refusals p99, ms", quantile(refusals, 0.99) * 1e3),
        ("/health p50, ms", quantile(health.latencies(begins), 0.5) * 1e3),
        ("/health p99, ms", quantile(health.latencies(begins), 0.99) * 1e3),
        ("answers, p99 ms", quantile(predicts.latencies(begins), 0.99) * 1e3),
        ("let in, and not answered by its deadline", late),
        ("normal again after, s", recovery_s),
    )
    title = f"{TIMES} x capacity for {seconds:.0f} s"
    note = (
        f"c(n) = {COST.a_ms:g} + {COST.k_ms:g}·n ms, a queue of {QUEUE}, {DEADLINE_S:g} s for each"
        f" request. {statuses}."
    )
    answer.tables.append(Table(title, ("", ""), rows, note))
    series = {
        name: tuple(
            (start * _BIN_S, predicts.count(status, start * _BIN_S, (start + 1) * _BIN_S) / _BIN_S)
            for start in range(int((ends + AFTER_S) / _BIN_S))
        )
        for name, status in (("answered", 200), ("refused", 429))
    }
    answer.plots.append(
        Plot("overload", title, "seconds, when due", "requests a second", series, log_y=True)
    )


def predicts_between(outcome: Outcome, begins: float, ends: float) -> int:
    return sum(begins <= due < ends for due in outcome.due)


def missed(outcome: Outcome) -> int:
    """Requests that were let in and not answered within their deadline: by anything but a refusal,
    or too late.
    """
    return sum(
        status != 429 and not (status == 200 and latency <= DEADLINE_S)
        for latency, status in zip(outcome.latency, outcome.status, strict=True)
    )


def recovered_after(outcome: Outcome, ends: float) -> float:
    """Seconds from the storm's end until the last request was due that was refused, or waited more
    than twice as long as any of the calm before.
    """
    calm = (wait for due, wait in outcome.answers(200) if due < BEFORE_S - 0.5)
    limit = 2 * max(calm, default=0.0)
    late = [
        due - ends
        for due, latency, status in zip(outcome.due, outcome.latency, outcome.status, strict=True)
        if due >= ends and not (status == 200 and latency <= limit)
    ]
    return max(late, default=0.0)
