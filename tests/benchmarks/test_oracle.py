from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import oracle


def cost(n: int) -> float:
    return 4.0 + n


def test_trace_that_was_worked_out_by_hand() -> None:
    # 0 starts alone and ends at 5. 1, 2 and 3 wait for it and run as three until 12. 12 comes as
    # they end and runs alone until 17; 30 finds it idle.
    found = oracle.latencies([0.0, 1.0, 2.0, 3.0, 12.0, 30.0], cost, max_batch=8)
    assert found == pytest.approx([5.0, 11.0, 10.0, 9.0, 5.0, 5.0])


def test_batch_takes_no_more_than_its_most() -> None:
    # 0: alone until 5. Then two of the three that wait, until 11; then the last, until 16.
    found = oracle.latencies([0.0, 1.0, 1.0, 1.0], cost, max_batch=2)
    assert found == pytest.approx([5.0, 10.0, 10.0, 15.0])


def test_arrivals_at_one_time_run_together() -> None:
    assert oracle.latencies([2.0, 2.0, 2.0], cost, max_batch=8) == pytest.approx([7.0] * 3)


def test_nobody_waits_for_nothing() -> None:
    assert oracle.latencies([], cost, max_batch=8) == []


@given(st.lists(st.floats(0, 100), max_size=60), st.integers(1, 8))
def test_nobody_is_faster_than_a_batch_of_one(times: list[float], most: int) -> None:
    found = oracle.latencies(sorted(times), cost, most)
    assert len(found) == len(times)
    assert all(latency >= cost(1) - 1e-9 for latency in found)


@pytest.mark.parametrize(("clients", "expected"), [(1, 1 / 5), (8, 8 / 12), (9, 8 / 12)])
def test_formula_of_the_closed_loop(clients: int, expected: float) -> None:
    assert oracle.closed_loop_rps(clients, cost, max_batch=8) == pytest.approx(expected)
