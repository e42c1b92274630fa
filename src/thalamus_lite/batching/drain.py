"""How fast a queue drains: inputs a second, over the time in which it had something to run."""

from __future__ import annotations

_DECAY = 0.9


class DrainRate:
    """A decayed ratio of sums, so that a batch weighs by its time and not by its being one."""

    __slots__ = ("_inputs", "_last", "_seconds")

    def __init__(self) -> None:
        self._inputs = 0.0
        self._seconds = 0.0
        self._last = 0.0

    def ran(self, size: int, started_at: float, now: float) -> None:
        """A batch ended. Before ``started_at``, with nothing else running, was idleness."""
        since = started_at if started_at > self._last else self._last
        self._inputs = self._inputs * _DECAY + size
        self._seconds = self._seconds * _DECAY + (now - since)
        self._last = now

    def per_second(self) -> float:
        """0.0 while unknown."""
        return self._inputs / self._seconds if self._seconds > 0.0 else 0.0

    def per_second_now(self, busy_since: float, now: float) -> float:
        """The same while the queue is busy, and has been since ``busy_since`` at least: a lane that
        hangs lowers it.
        """
        if self._seconds <= 0.0:
            return 0.0
        since = busy_since if busy_since > self._last else self._last
        return self._inputs / (self._seconds + max(0.0, now - since))
