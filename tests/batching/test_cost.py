from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalamus_lite.batching.cost import CostModel


def taught(samples: list[tuple[int, float]]) -> CostModel:
    cost = CostModel()
    for n, seconds in samples:
        cost.observe(n, seconds)
    return cost


@pytest.mark.parametrize(("a", "k"), [(4e-3, 0.25e-3), (10e-3, 0.1e-3), (0.0, 1e-3), (5e-3, 0.0)])
def test_a_line_is_learned_from_batches_of_many_sizes(a: float, k: float) -> None:
    rng = Random(1)
    cost = taught([(n, a + k * n) for n in (rng.randint(1, 32) for _ in range(200))])
    assert cost.a == pytest.approx(a, abs=1e-4)
    assert cost.k == pytest.approx(k, abs=1e-5)


def test_a_line_is_learned_through_jitter() -> None:
    rng = Random(2)
    sizes = [rng.randint(1, 32) for _ in range(300)]
    cost = taught([(n, (4e-3 + 0.25e-3 * n) * rng.gauss(1, 0.05)) for n in sizes])
    assert cost.of(16) == pytest.approx(8e-3, rel=0.1)
    assert cost.of(32) == pytest.approx(12e-3, rel=0.1)


def test_nothing_is_expected_before_the_first_batch() -> None:
    cost = CostModel()
    assert cost.of(32) == 0.0
    assert not cost.learned


def test_one_size_alone_leaves_most_of_the_time_fixed() -> None:
    cost = taught([(8, 0.01)] * 50)
    assert cost.of(8) == pytest.approx(0.01)
    assert cost.a == pytest.approx(0.008)


def test_a_slope_once_learned_survives_batches_of_one_size() -> None:
    cost = taught([(n, 4e-3 + 0.25e-3 * n) for n in (1, 32) * 20])
    slope = cost.k
    for _ in range(1000):
        cost.observe(16, 8e-3)
    assert cost.k == pytest.approx(slope, rel=0.05)
    assert cost.of(16) == pytest.approx(8e-3, rel=0.01)


def test_a_slow_first_batch_is_soon_forgotten() -> None:
    cost = taught([(1, 5.0)] + [(1, 0.01)] * 4)
    assert cost.of(1) < 0.1


def test_one_stall_does_not_move_the_estimate_far() -> None:
    cost = taught([(n, 0.01) for n in (1, 2, 4, 8) * 10])
    cost.observe(4, 30.0)
    assert cost.of(4) < 0.015


def test_a_model_that_has_become_slower_is_followed() -> None:
    cost = taught([(4, 0.01)] * 50)
    for _ in range(100):
        cost.observe(4, 0.05)
    assert cost.of(4) == pytest.approx(0.05, rel=0.1)


def test_an_estimate_counts_as_learned_after_eight_batches() -> None:
    cost = taught([(1, 0.01)] * 7)
    assert not cost.learned
    cost.observe(1, 0.01)
    assert cost.learned


@given(st.lists(st.tuples(st.integers(1, 1000), st.floats(0.0, 100.0)), min_size=1, max_size=80))
def test_both_terms_stay_finite_and_at_or_above_zero(samples: list[tuple[int, float]]) -> None:
    cost = taught(samples)
    most = max(seconds for _, seconds in samples)
    assert 0.0 <= cost.a <= most * 1.0001 + 1e-12
    assert 0.0 <= cost.k < float("inf")


@given(st.floats(0.0, 1.0), st.floats(0.0, 0.1), st.floats(0.0, 10.0))
def test_the_largest_batch_within_a_time_fits_it(a: float, k: float, seconds: float) -> None:
    cost = CostModel()
    cost.a, cost.k = a, k
    n = cost.largest_within(seconds)
    if n == 0:
        assert cost.of(1) > seconds
    else:
        assert cost.of(n) <= seconds * (1 + 1e-9) + 1e-12
        assert n == 1_000_000_000 or cost.of(n + 1) >= seconds * (1 - 1e-9)
