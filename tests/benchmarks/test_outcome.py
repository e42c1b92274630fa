from __future__ import annotations

import math

import pytest
from benchmarks.load.outcome import Outcome, quantile
from hypothesis import given
from hypothesis import strategies as st


def outcome(**changes: object) -> Outcome:
    fields: dict[str, object] = {
        "due": [0.0, 1.0, 2.0, 3.0],
        "kind": [0, 1, 0, 1],
        "latency": [0.1, 0.2, 0.3, math.nan],
        "status": [200, 200, 429, -1],
        "late": [0.0, 0.0, 0.0, 0.0],
        "busy": 0.1,
        "connections": 1,
    }
    return Outcome(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(("q", "expected"), [(0.0, 1), (0.5, 5), (0.9, 9), (0.99, 10), (1.0, 10)])
def test_quantile_is_one_of_the_values(q: float, expected: int) -> None:
    assert quantile(list(range(10, 0, -1)), q) == expected


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_at_least_its_share_lies_at_or_below_a_quantile(values: list[float], q: float) -> None:
    at = quantile(values, q)
    assert sum(value <= at for value in values) >= q * len(values) - 1e-9


def test_quantile_of_nothing_is_no_number() -> None:
    assert math.isnan(quantile([], 0.5))


def test_latencies_are_of_the_answers_with_the_status() -> None:
    seen = outcome()
    assert seen.latencies() == [0.1, 0.2]
    assert seen.latencies(status=429) == [0.3]
    assert seen.latencies(skip_s=0.5) == [0.2]


def test_one_kind_alone_keeps_its_own_requests() -> None:
    ones = outcome().of_kind(1)
    assert list(ones.due) == [1.0, 3.0]
    assert list(ones.status) == [200, -1]
    assert ones.busy == 0.1


def test_count_is_by_when_requests_were_due() -> None:
    seen = outcome()
    assert seen.count(200) == 2
    assert seen.count(200, since_s=0.5) == 1
    assert seen.count(200, until_s=1.0) == 1


def test_run_with_headroom_counts() -> None:
    assert outcome().void is None


def test_busy_generator_makes_a_run_void() -> None:
    assert "busy 99%" in str(outcome(busy=0.99).void)


def test_late_generator_makes_a_run_void() -> None:
    assert "5.00 ms late" in str(outcome(late=[0.0, 0.0, 0.0, 0.005]).void)


def test_one_late_request_in_thousands_does_not() -> None:
    count = 1000
    seen = outcome(
        due=[0.0] * count,
        kind=[0] * count,
        latency=[0.1] * count,
        status=[200] * count,
        late=[0.5, *[0.0] * (count - 1)],
    )
    assert seen.void is None


def test_summary_says_all_that_there_is_to_say() -> None:
    summary = outcome().summary()
    assert summary["statuses"] == {"-1": 1, "200": 2, "429": 1}
    assert summary["mean_ms"] == pytest.approx(150)
    assert summary["percentiles_ms"]["100"] == pytest.approx(200)
    assert summary["generator_headroom"] == pytest.approx(0.9)


def test_summary_of_refusals_alone_has_no_times() -> None:
    summary = outcome(status=[429] * 4).summary()
    assert summary["mean_ms"] is None
    assert summary["percentiles_ms"] == {}
