"""When to try again, and after how long. Pure: time and chance are arguments."""

from __future__ import annotations

import random
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, TypeVar

from thalamus_lite.errors import WeightUnreachable
from thalamus_lite.weights.transfer.giving_up import pause

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Unanswered(WeightUnreachable):
    """This attempt failed; another may not: a timeout, a broken connection, 408, 425, 429, 5xx."""

    retryable = True


def is_retryable(error: BaseException) -> bool:
    return bool(getattr(error, "retryable", False))


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Full jitter, a uniform part of ``base_s * 2**n``: clients do not come back in step."""

    attempts: int = 8
    base_s: float = 0.5
    max_s: float = 30.0
    retry_after_max_s: float = 120.0

    def delay_s(
        self,
        failures: int,
        retry_after_s: float | None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> float | None:
        """How long to wait after ``failures`` failures in a row (1 is the first); None: give up."""
        if failures >= self.attempts:
            return None
        # The exponent is bounded so that a policy of very many attempts stays a float.
        delay = uniform(0.0, min(self.max_s, self.base_s * 2.0 ** min(failures - 1, 32)))
        if retry_after_s is None:
            return delay
        return max(delay, min(retry_after_s, self.retry_after_max_s))


# Somebody waits for a listing, and nothing can cancel it: fewer attempts, and shorter ones.
METADATA = RetryPolicy(attempts=4, retry_after_max_s=15.0)


def call(
    ask: Callable[[], T],
    policy: RetryPolicy = METADATA,
    sleep: Callable[[float], object] | None = None,
) -> T:
    """``ask()``, again while it fails retryably and the policy allows."""
    failures = 0
    while True:
        try:
            return ask()
        except WeightUnreachable as error:
            failures += 1
            delay = policy.delay_s(failures, error.retry_after_s)
            if delay is None or not is_retryable(error):
                raise
        (sleep or pause)(delay)


def parse_retry_after(value: str | None, now: float) -> float | None:
    """``Retry-After`` in seconds from ``now`` (seconds since 1970); None when it says nothing."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit() and len(value) < 10:
        return float(value)
    try:
        when = parsedate_to_datetime(value)
        # timestamp() of a date without a zone would read it as local time.
        seconds = when.timestamp() if when.tzinfo is not None else None
    except (ValueError, TypeError, OverflowError, OSError):
        return None
    return None if seconds is None else max(0.0, seconds - now)


class SpeedGate:
    """Says when a connection stayed below ``bytes_per_s`` for a whole window of ``window_s``.

    0 bytes a second: when it stood still.
    """

    __slots__ = ("_least", "_seen", "_since", "_window_s")

    def __init__(self, now: float, bytes_per_s: float, window_s: float) -> None:
        self._least = bytes_per_s * window_s
        self._window_s = window_s
        self._since = now
        self._seen = 0

    def received(self, n: int) -> None:
        self._seen += n

    def too_slow(self, now: float) -> bool:
        if now - self._since < self._window_s:
            return False
        slow = not self._seen or self._seen < self._least * (now - self._since) / self._window_s
        self._since = now
        self._seen = 0
        return slow
