"""When may what failed be tried again?"""

from __future__ import annotations

FIRST_S = 1.0
LONGEST_S = 60.0


class Backoff:
    """Waits 1, 2, 4 ... up to 60 seconds from one failure to the next try, until one succeeds."""

    def __init__(self) -> None:
        self._failures = 0
        self._retry_at = 0.0

    def failed(self, now: float) -> None:
        # The exponent is bounded too: 2 to the power of a month's failures is no float.
        wait_s = min(FIRST_S * 2 ** min(self._failures, 10), LONGEST_S)
        self._failures += 1
        self._retry_at = now + wait_s

    def succeeded(self) -> None:
        self._failures = 0
        self._retry_at = 0.0

    def left_s(self, now: float) -> float:
        """Seconds until the next try; 0.0 when it may be made."""
        return max(self._retry_at - now, 0.0)
