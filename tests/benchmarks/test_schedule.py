from __future__ import annotations

from itertools import pairwise
from statistics import fmean, pstdev

import pytest
from benchmarks.load.schedule import ARRIVALS, bursts, even, merge, poisson
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize("name", sorted(ARRIVALS))
def test_the_same_seed_gives_the_same_arrivals(name: str) -> None:
    assert ARRIVALS[name](200, 5, 7) == ARRIVALS[name](200, 5, 7)


@pytest.mark.parametrize("name", ["poisson", "bursts"])
def test_another_seed_gives_other_arrivals(name: str) -> None:
    assert ARRIVALS[name](200, 5, 7) != ARRIVALS[name](200, 5, 8)


@given(
    name=st.sampled_from(sorted(ARRIVALS)),
    rate=st.floats(0.1, 500),
    seconds=st.floats(0.01, 3),
    seed=st.integers(0, 1000),
)
def test_arrivals_are_in_order_and_within_the_time(
    name: str, rate: float, seconds: float, seed: int
) -> None:
    due = ARRIVALS[name](rate, seconds, seed)
    assert due == sorted(due)
    assert all(0 <= at < seconds for at in due)


def test_poisson_gaps_are_exponential() -> None:
    due = poisson(1000, 60, 3)
    gaps = [later - earlier for earlier, later in pairwise(due)]
    assert len(due) == pytest.approx(60_000, rel=0.02)
    assert fmean(gaps) == pytest.approx(1e-3, rel=0.02)
    # Of an exponential, and of few other things, mean and deviation are the same.
    assert pstdev(gaps) == pytest.approx(fmean(gaps), rel=0.03)
    # No memory: 1/e of the gaps are longer than the mean.
    assert sum(gap > 1e-3 for gap in gaps) / len(gaps) == pytest.approx(0.368, abs=0.01)


def test_bursts_keep_the_mean_rate_and_are_silent_in_between() -> None:
    due = bursts(500, 200, 4, on_s=0.05, off_s=0.2)
    gaps = [later - earlier for earlier, later in pairwise(due)]
    assert len(due) == pytest.approx(100_000, rel=0.1)
    silent = sum(gap for gap in gaps if gap > 0.02)
    assert silent / 200 == pytest.approx(0.75, abs=0.1)
    # Within a burst they come five times as fast.
    assert fmean(gap for gap in gaps if gap <= 0.02) == pytest.approx(1 / 2500, rel=0.1)


def test_even_arrivals_have_one_gap() -> None:
    assert even(4, 1) == [0.0, 0.25, 0.5, 0.75]


def test_merged_streams_stay_in_order_and_know_where_they_came_from() -> None:
    assert merge([0.1, 0.3], [0.2]) == [(0.1, 0), (0.2, 1), (0.3, 0)]
