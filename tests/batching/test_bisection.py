from __future__ import annotations

from math import ceil, log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalamus_lite.batching.bisection import Bisection


def search(n_units: int, bad: set[int]) -> tuple[Bisection, list[tuple[int, int]]]:
    bisection = Bisection(n_units)
    ran = []
    while (part := bisection.next()) is not None:
        ran.append(part)
        bisection.report(not bad.intersection(range(*part)))
    return bisection, ran


@pytest.mark.parametrize("bad", range(32))
def test_one_bad_unit_of_32_is_found_in_11_calls(bad: int) -> None:
    bisection, _ = search(32, {bad})
    assert bisection.failed == [bad]
    assert bisection.calls <= 11


@given(st.integers(2, 300), st.data())
def test_one_bad_unit_costs_two_calls_a_level(n_units: int, data: st.DataObject) -> None:
    bad = data.draw(st.integers(0, n_units - 1))
    bisection, _ = search(n_units, {bad})
    assert bisection.failed == [bad]
    assert bisection.calls <= 2 * ceil(log2(n_units)) + 1


@given(st.integers(1, 70), st.data())
def test_exactly_the_bad_units_are_found(n_units: int, data: st.DataObject) -> None:
    bad = data.draw(st.sets(st.integers(0, n_units - 1), min_size=1))
    bisection, ran = search(n_units, bad)
    assert bisection.failed == sorted(bad)
    assert bisection.calls == 1 + len(ran) <= max(1, 2 * n_units - 1)
    passed = [unit for part in ran if not bad.intersection(range(*part)) for unit in range(*part)]
    # Whoever is not at fault has run in a call that passed, once.
    assert sorted(passed) == sorted(set(range(n_units)) - bad)


@given(st.integers(1, 40), st.randoms(use_true_random=False))
def test_a_model_that_fails_at_random_is_searched_within_the_bound(n_units: int, rng) -> None:  # type: ignore[no-untyped-def]
    bisection = Bisection(n_units)
    passed: set[int] = set()
    while (part := bisection.next()) is not None:
        ok = rng.random() < 0.5
        bisection.report(ok)
        if ok:
            assert passed.isdisjoint(range(*part))
            passed.update(range(*part))
    assert bisection.calls <= max(1, 2 * n_units - 1)
    assert passed.isdisjoint(bisection.failed)
    assert sorted(passed | set(bisection.failed)) == list(range(n_units))


def test_inputs_that_fail_only_together_are_all_answered() -> None:
    bisection = Bisection(2)
    ran = []
    while (part := bisection.next()) is not None:
        ran.append(part)
        bisection.report(True)
    assert ran == [(0, 1), (1, 2)]
    assert bisection.failed == []


def test_a_request_that_failed_alone_is_not_run_again() -> None:
    bisection = Bisection(1)
    assert bisection.next() is None
    assert bisection.failed == [0]
    assert bisection.calls == 1


def test_next_gives_the_same_range_until_it_is_reported() -> None:
    bisection = Bisection(4)
    assert bisection.next() == bisection.next() == (0, 2)
    assert bisection.calls == 2
    bisection.report(True)
    assert bisection.next() == (2, 3)


def test_a_report_without_a_range_is_refused() -> None:
    bisection = Bisection(4)
    with pytest.raises(RuntimeError, match="next"):
        bisection.report(True)


def test_a_batch_without_units_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Bisection(0)
