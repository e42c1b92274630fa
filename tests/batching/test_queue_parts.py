"""The small parts of the scheduler: deadlines, ceiling, drain rate, order of arrival."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalamus_lite.batching.ceiling import Ceiling
from thalamus_lite.batching.drain import DrainRate
from thalamus_lite.batching.expiry import Deadlines
from thalamus_lite.batching.fifo import Fifo
from thalamus_lite.batching.ticket import Ticket


def with_deadline(deadlines: Deadlines, deadline: float, now: float) -> Ticket:
    ticket = Ticket(1, deadline)
    deadlines.add(ticket, deadline, now)
    return ticket


@given(st.lists(st.floats(0.001, 500.0), max_size=40), st.lists(st.floats(0.01, 90.0), max_size=30))
def test_every_deadline_comes_up_once_and_within_a_64th_of_a_second(
    waits: list[float], steps: list[float]
) -> None:
    deadlines, now = Deadlines(), 1000.0
    waiting = {with_deadline(deadlines, now + wait, now): now + wait for wait in waits}
    for step in [*steps, 600.0]:
        now += step
        due = deadlines.due(now)
        assert len(set(due)) == len(due)
        for ticket in due:
            assert waiting.pop(ticket) <= now
        assert all(deadline > now - 1 / 64 for deadline in waiting.values())
        next_due = deadlines.next_due()
        assert (next_due is None) == (not waiting)
        assert next_due is None or next_due > now
    assert not waiting


def test_a_deadline_that_was_discarded_does_not_come_up() -> None:
    deadlines = Deadlines()
    kept, gone = (with_deadline(deadlines, 1.0, 0.0) for _ in range(2))
    deadlines.discard(gone)
    assert deadlines.due(1.1) == [kept]
    deadlines.discard(kept)
    assert deadlines.next_due() is None


def test_deadlines_years_away_do_not_make_the_wheel_grow() -> None:
    deadlines = Deadlines()
    for number in range(10_000):
        deadlines.discard(with_deadline(deadlines, 1e9 + number, 0.0))
        deadlines.discard(with_deadline(deadlines, float("inf"), 0.0))
    assert len(deadlines.order) == len(deadlines._buckets) == 1
    far = with_deadline(deadlines, 100.0, 0.0)
    assert deadlines.due(90.0) == []
    assert deadlines.next_due() == pytest.approx(100.0, abs=1 / 32)
    assert deadlines.due(100.1) == [far]


def test_a_failure_halves_the_batch() -> None:
    ceiling = Ceiling(32)
    ceiling.failed(32)
    assert ceiling.now == 16
    ceiling.failed(16)
    assert ceiling.now == 8
    assert ceiling.shrinks == 2


def test_a_batch_of_one_is_the_least() -> None:
    ceiling = Ceiling(32)
    ceiling.failed(1)
    assert ceiling.now == 1


def test_a_late_report_of_a_larger_batch_lifts_nothing() -> None:
    ceiling = Ceiling(32)
    ceiling.failed(8)
    ceiling.failed(32)
    assert ceiling.now == 4


def creep(ceiling: Ceiling, fits: int, batches: int) -> int:
    """Full batches on a device that holds ``fits``; how many failed."""
    failures = 0
    for _ in range(batches):
        if ceiling.now > fits:
            failures += 1
            ceiling.failed(ceiling.now)
        elif ceiling.now < ceiling.declared:
            ceiling.succeeded(ceiling.now)
    return failures


def test_the_ceiling_creeps_back_to_the_declared_size() -> None:
    ceiling = Ceiling(32)
    ceiling.failed(32)
    assert creep(ceiling, fits=32, batches=2000) == 0
    assert ceiling.now == 32


def test_small_batches_prove_nothing() -> None:
    ceiling = Ceiling(32)
    ceiling.failed(32)
    for _ in range(10_000):
        ceiling.succeeded(15)
    assert ceiling.now == 16


def test_the_safe_size_is_remembered_and_failures_become_rare() -> None:
    ceiling = Ceiling(32)
    ceiling.failed(32)
    creep(ceiling, fits=21, batches=3000)
    assert creep(ceiling, fits=21, batches=10_000) <= 10
    assert ceiling.now >= 19


def test_a_safe_size_that_fails_is_safe_no_more() -> None:
    ceiling = Ceiling(32)
    ceiling.failed(32)
    creep(ceiling, fits=21, batches=3000)
    assert ceiling.safe >= 19
    ceiling.failed(ceiling.safe)
    assert ceiling.safe == 0
    assert ceiling.now <= 10


def test_an_unknown_drain_rate_is_zero() -> None:
    assert DrainRate().per_second() == DrainRate().per_second_now(5.0, 5.0) == 0.0


def test_the_drain_rate_counts_busy_time_only() -> None:
    drain = DrainRate()
    for start in (100.0, 200.0, 300.0):
        drain.ran(32, start, start + 0.5)
    assert drain.per_second() == pytest.approx(64.0)


def test_the_drain_rate_of_two_lanes_is_their_sum() -> None:
    drain = DrainRate()
    for number in range(100):
        drain.ran(10, number * 0.5, number * 0.5 + 1.0)
    assert drain.per_second() == pytest.approx(20.0, rel=0.01)


def test_a_lane_that_hangs_lowers_the_rate_of_a_busy_queue() -> None:
    drain = DrainRate()
    drain.ran(10, 0.0, 1.0)
    assert drain.per_second_now(0.0, 1.0) == pytest.approx(10.0)
    assert drain.per_second_now(0.0, 100.0) == pytest.approx(0.1)
    assert drain.per_second() == pytest.approx(10.0)


def test_idle_time_before_a_batch_does_not_lower_the_rate_of_a_busy_queue() -> None:
    drain = DrainRate()
    drain.ran(10, 0.0, 1.0)
    assert drain.per_second_now(3600.0, 3600.0) == pytest.approx(10.0)
    assert drain.per_second_now(3600.0, 3601.0) == pytest.approx(5.0)


@given(st.lists(st.one_of(st.none(), st.integers(0, 30)), max_size=60))
def test_the_fifo_keeps_theorder_of_arrival_whatever_leaves(moves: list[int | None]) -> None:
    fifo, mirror = Fifo(), list[Ticket]()
    for move in moves:
        if move is None or not mirror:
            mirror.append(Ticket(1))
            fifo.append(mirror[-1])
        else:
            ticket = mirror.pop(move % len(mirror))
            fifo.remove(ticket)
            assert ticket.before is ticket.after is None
        assert list(fifo) == mirror
        assert len(fifo) == len(mirror)
        assert fifo.head is (mirror[0] if mirror else None)


def test_the_fifo_may_be_emptied_while_it_is_walked() -> None:
    fifo = Fifo()
    for _ in range(3):
        fifo.append(Ticket(1))
    for ticket in fifo:
        fifo.remove(ticket)
    assert len(fifo) == 0
