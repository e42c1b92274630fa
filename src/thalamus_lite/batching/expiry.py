"""The deadlines of all that waits: who expires next, in O(1) a request.

A wheel of coarse buckets rather than a heap: a heap keeps what was served until its deadline comes
up (with 30 s deadlines, a minute's traffic and all its inputs), or is rebuilt in one long stall. A
ticket is filed under the end of its bucket, so a bucket that is due holds only expired tickets; the
exact deadline is what ``ModelQueue.take`` looks at before anything runs.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thalamus_lite.batching.ticket import Ticket

_PER_SECOND = 64
# Deadlines further away are filed at the horizon and filed again there, so that clients who name
# deadlines years ahead cannot make the wheel grow.
_HORIZON_S = 64.0


class Deadlines:
    """Tickets by the 1/64 s in which they expire. ``order`` is empty when there are none."""

    __slots__ = ("_buckets", "order")

    def __init__(self) -> None:
        self._buckets: dict[int, dict[Ticket, None]] = {}
        self.order: list[int] = []

    def add(self, ticket: Ticket, deadline: float, now: float) -> None:
        horizon = now + _HORIZON_S
        due = int((deadline if deadline < horizon else horizon) * _PER_SECOND) + 1
        ticket.due = due
        bucket = self._buckets.get(due)
        if bucket is None:
            bucket = self._buckets[due] = {}
            heappush(self.order, due)
        bucket[ticket] = None

    def discard(self, ticket: Ticket) -> None:
        """Forget a ticket that was added; ``due`` may have taken it out before."""
        bucket = self._buckets.get(ticket.due)
        if bucket is not None:
            bucket.pop(ticket, None)

    def due(self, now: float) -> list[Ticket]:
        """Take out the tickets whose deadline has passed, at the latest 1/64 s after it has."""
        expired: list[Ticket] = []
        order = self.order
        while order and order[0] <= now * _PER_SECOND:
            for ticket in self._buckets.pop(heappop(order)):
                deadline = ticket.deadline
                if deadline is not None and deadline > now:
                    self.add(ticket, deadline, now)
                else:
                    expired.append(ticket)
        return expired

    def next_due(self) -> float | None:
        """When ``due`` has something to give; None while no ticket has a deadline."""
        order = self.order
        while order:
            if self._buckets[order[0]]:
                return order[0] / _PER_SECOND
            del self._buckets[heappop(order)]
        return None
