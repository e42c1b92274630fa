"""Queues whose next batch is held for a rebound (rebound.py), and when to look at them again."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thalamus_lite.batching.model_queue import ModelQueue
    from thalamus_lite.batching.rebound import Rebound
    from thalamus_lite.batching.ticket import Ticket


class Holds:
    """A held queue is in no device's heap; ``end`` puts it back. ``heap`` is empty without any."""

    __slots__ = ("_count", "heap")

    def __init__(self) -> None:
        self._count = 0
        # (until, number, queue); stale where the queue's hold has ended before.
        self.heap: list[tuple[float, int, ModelQueue]] = []

    def begin(self, queue: ModelQueue, now: float) -> bool:
        """Whether the queue has to wait for the clients that its last batch answered."""
        if queue.held_until is not None:
            return True
        rebound = queue.rebound
        if rebound is None or queue.depth >= queue.ceiling.now:
            return False
        until = rebound.hold_until(now)
        if until is None or _is_whole(queue, rebound):
            return False
        latest = queue.latest_start()
        if latest is not None and latest < until:
            return False
        queue.held_until = until
        queue.held_from = (now, queue.depth)
        queue.counts.holds += 1
        self._count += 1
        heappush(self.heap, (until, self._count, queue))
        return True

    def end(self, queue: ModelQueue, now: float) -> None:
        """End the queue's hold, if there is one."""
        if queue.held_until is None:
            return
        began, depth = queue.held_from
        queue.held_until = None
        queue.counts.held_s += now - began
        queue.counts.hold_gain += max(0, queue.depth - depth)
        queue.activate()

    def end_for(self, queue: ModelQueue, until: float, ticket: Ticket, now: float) -> bool:
        """Whether ``ticket`` ends a hold: the batch is full, all are back, or it cannot wait."""
        rebound = queue.rebound
        deadline = ticket.deadline
        if rebound is not None and not _is_whole(queue, rebound):
            if deadline is not None and until + queue.cost.of(queue.depth) > deadline:
                # Without this the next dispatch would begin another hold.
                rebound.expect_no_more()
            elif queue.depth < queue.ceiling.now:
                return False
        self.end(queue, now)
        return True

    def end_due(self, now: float) -> None:
        heap = self.heap
        while heap and heap[0][0] <= now:
            until, _, queue = heappop(heap)
            if queue.held_until == until:
                self.end(queue, now)

    def next_due(self) -> float | None:
        heap = self.heap
        while heap and heap[0][2].held_until != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else None


def _is_whole(queue: ModelQueue, rebound: Rebound) -> bool:
    """Whether what waits is the share of one lane in what waits and is still to come back.

    With one free lane: whether all are back. With more, to merge all into one batch would leave the
    others idle.
    """
    return rebound.expected - rebound.back <= queue.depth * (queue.free - 1)
