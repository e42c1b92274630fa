from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalamus_lite.errors import WeightNotFound, WeightUnreachable
from thalamus_lite.weights.transfer.retry import (
    METADATA,
    RetryPolicy,
    SpeedGate,
    Unanswered,
    call,
    is_retryable,
    parse_retry_after,
)


def longest(low, high):
    return high


def test_delays_double_up_to_their_limit():
    policy = RetryPolicy()
    delays = [policy.delay_s(n, None, longest) for n in range(1, 9)]
    assert delays == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, None]


@given(st.integers(1, 10_000), st.floats(0, 1e6) | st.none())
def test_a_delay_is_bounded(failures, retry_after):
    delay = RetryPolicy(attempts=10_001).delay_s(failures, retry_after)
    assert delay is not None
    assert 0 <= delay <= 120
    assert delay >= min(retry_after or 0, 120)


def test_jitter_is_full():
    asked = []
    RetryPolicy().delay_s(3, None, lambda low, high: asked.append((low, high)) or 0.0)
    assert asked == [(0.0, 2.0)]


def test_retry_after_is_the_least_delay():
    policy = RetryPolicy()
    assert policy.delay_s(1, 10.0, longest) == 10.0
    assert policy.delay_s(1, 0.1, longest) == 0.5
    assert policy.delay_s(1, 1e9, longest) == 120.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 90.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        *((text, None) for text in (None, "", "soon", "-1", "1e3", "9" * 5000, "٣")),
        ("Thu, 01 Jan 1970 00:01:40", None),
        ("Thu, 99 Jan 1970 00:01:40 GMT", None),
    ],
)
def test_retry_after_is_read(text, expected):
    assert parse_retry_after(text, now=10.0) == expected


@given(st.binary().map(lambda raw: raw.decode("latin-1")))
def test_any_retry_after_is_read_or_none(text):
    parse_retry_after(text, 0.0)


def flaky(*errors):
    left = list(errors)

    def ask():
        if left:
            raise left.pop(0)
        return "answer"

    return ask


def test_listing_does_not_wait_for_minutes():
    assert METADATA.delay_s(1, 1e9, longest) == 15.0


def test_call_tries_again_while_it_may():
    slept = []
    errors = [Unanswered("a", retry_after_s=5.0), Unanswered("b")]
    assert call(flaky(*errors), sleep=slept.append) == "answer"
    assert slept[0] == 5.0
    assert len(slept) == 2


def test_call_gives_up_with_the_last_error():
    with pytest.raises(Unanswered, match="3"):
        call(flaky(*(Unanswered(str(i)) for i in range(9))), METADATA, lambda s: None)


@pytest.mark.parametrize("error", [WeightUnreachable("no"), WeightNotFound("no"), ValueError()])
def test_call_passes_on_what_will_not_change(error):
    slept = []
    with pytest.raises(type(error)):
        call(flaky(error), sleep=slept.append)
    assert slept == []
    assert not is_retryable(error)


def test_gate_judges_whole_windows():
    gate = SpeedGate(0.0, bytes_per_s=10, window_s=30)
    gate.received(299)
    assert not gate.too_slow(29.0)
    assert gate.too_slow(30.0)
    gate.received(299)
    assert not gate.too_slow(59.0)
    gate.received(1)
    assert not gate.too_slow(60.0)
    assert gate.too_slow(90.0)


def test_gate_counts_a_late_look_for_its_whole_time():
    gate = SpeedGate(0.0, bytes_per_s=10, window_s=30)
    gate.received(2_999)
    assert gate.too_slow(300.0)
    gate.received(3_000)
    assert not gate.too_slow(600.0)


def test_standstill_is_slow_whatever_the_speed():
    gate = SpeedGate(0.0, bytes_per_s=0, window_s=30)
    gate.received(1)
    assert not gate.too_slow(31.0)
    assert gate.too_slow(62.0)
