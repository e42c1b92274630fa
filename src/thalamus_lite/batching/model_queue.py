"""One model's waiting requests: admission, order, and what the next batch takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thalamus_lite.batching.ceiling import Ceiling
from thalamus_lite.batching.cost import CostModel
from thalamus_lite.batching.drain import DrainRate
from thalamus_lite.batching.fifo import Fifo
from thalamus_lite.batching.policy import QueueCounts
from thalamus_lite.batching.rebound import Rebound
from thalamus_lite.batching.ticket import DONE, QUEUED, RUNNING, Chunk

if TYPE_CHECKING:
    from thalamus_lite.batching.expiry import Deadlines
    from thalamus_lite.batching.fairness import Share
    from thalamus_lite.batching.policy import QueuePolicy
    from thalamus_lite.batching.ticket import LaneSlot, Ticket

# A request is dropped before its deadline only when even this part of the expected time is too
# much.
_CERTAIN = 0.8
# Below this a batch is quick, and not each of them is learned from.
_QUICK_S = 2e-3
# How many of them one dispatch looks at, so that no dispatch walks a long queue.
_LATE_AT_ONCE = 1024


class ModelQueue:
    """The requests of one model in order of arrival, and what has been learned of it.

    ``depth`` counts the waiting inputs, ``free`` the lanes that could start a batch. Only the
    scheduler calls what changes it.
    """

    __slots__ = (
        "_calls",
        "_deadlines",
        "active",
        "ceiling",
        "closed",
        "cost",
        "counts",
        "depth",
        "drain",
        "free",
        "held_from",
        "held_until",
        "key",
        "lanes",
        "policy",
        "rebound",
        "shares",
        "waiting",
    )

    def __init__(self, key: str, policy: QueuePolicy, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._calls = 0
        self.key = key
        self.policy = policy
        self.cost = CostModel()
        self.ceiling = Ceiling(policy.max_batch_size)
        self.drain = DrainRate()
        self.rebound = Rebound() if policy.merges and policy.rebound else None
        self.counts = QueueCounts()
        self.shares: list[Share] = []
        self.lanes: list[LaneSlot] = []
        self.waiting = Fifo()
        self.depth = 0
        self.free = 0
        # Every share with a free lane has entered its device's heap.
        self.active = False
        self.closed = False
        self.held_until: float | None = None
        # When a hold began, and with how many inputs.
        self.held_from = (0.0, 0)

    @property
    def effective_max_batch(self) -> int:
        """The most inputs one ``predict`` call sees now; 1 where requests are not merged."""
        return self.ceiling.now if self.policy.merges else 1

    def activate(self) -> None:
        """Compete for every device on which there is a free lane."""
        self.active = True
        for share in self.shares:
            if share.free and not share.entered:
                share.device.enter(share)

    def learn(self, size: int, took_s: float) -> None:
        """A call with ``size`` inputs took that long and succeeded."""
        cost = self.cost
        # Quick batches come by the thousand: one in four tells enough.
        self._calls += 1
        if took_s > _QUICK_S or self._calls & 3 == 0 or not cost.learned:
            cost.observe(size, took_s)
        if self.ceiling.now < self.ceiling.declared:
            self.ceiling.succeeded(size)

    def busy_since(self, now: float) -> float:
        """When the oldest batch that runs began; where none does, when the head came."""
        started = [lane.batch.started_at for lane in self.lanes if lane.batch is not None]
        if started:
            return min(started)
        head = self.waiting.head
        return now if head is None else min(now, head.enqueued_at)

    def latest_start(self) -> float | None:
        """When the next batch must start for the head to meet its deadline; None without one."""
        head = self.waiting.head
        if head is None or head.deadline is None:
            return None
        size = min(self.depth, self.ceiling.now) if self.policy.merges else head.size
        return head.deadline - self.cost.of(size)

    def cannot_answer(self, size: int, within_s: float) -> bool:
        """Whether ``size`` more inputs would be late by two optimistic guesses, both of them.

        One is the learned cost of full batches, which knows nothing of other models on the device;
        the other is the measured drain rate, which is low when batches were small.
        """
        cost = self.cost
        lanes = len(self.lanes)
        if self.policy.merges:
            cap = self.ceiling.now
            inputs = self.depth + size
            full = (inputs - 1) // cap
            by_cost = full * (cost.a + cost.k * cap) / lanes + cost.of(inputs - full * cap)
        else:
            by_cost = (len(self.waiting) * cost.a + self.depth * cost.k) / lanes + cost.of(size)
        if by_cost <= within_s:
            return False
        rate = self.drain.per_second()
        return rate <= 0.0 or self.depth + size > rate * within_s

    def push(self, ticket: Ticket, now: float) -> None:
        ticket.state = QUEUED
        ticket.queue = self
        ticket.enqueued_at = now
        self.waiting.append(ticket)
        self.depth += ticket.size
        self.counts.admitted += ticket.size
        if ticket.deadline is not None:
            self._deadlines.add(ticket, ticket.deadline, now)
        if self.rebound is not None:
            self.rebound.arrived(ticket.size, now)

    def drop(self, ticket: Ticket) -> int:
        """Take ``ticket``, or what is left of it, out of the queue; how many inputs that was."""
        left = self._forget(ticket)
        if ticket.pending_chunks == 0:
            ticket.state = DONE
        return left

    def expire(self, ticket: Ticket) -> None:
        """``drop`` what is too late to be run."""
        self.counts.expired += self.drop(ticket)

    def take(self, now: float, expired: list[Ticket]) -> tuple[list[Chunk], int]:
        """The chunks of the next batch and their inputs in all; what is too late goes to
        ``expired``.

        Nothing whose deadline has passed is ever in a chunk. No chunks: nothing waits any more.
        """
        if not self.policy.merges:
            return self._take_one(now, expired)
        late: list[Ticket] = []
        chunks, size = self._fill(now, self._too_late(now), late, expired)
        if not late:
            return chunks, size
        if not chunks:
            # Nothing better waits: an estimate that is wrong must not keep itself from being put
            # right.
            return self._fill(now, now, [], expired)
        for ticket in late:
            self.expire(ticket)
        expired += late
        return chunks, size

    def _take_one(self, now: float, expired: list[Ticket]) -> tuple[list[Chunk], int]:
        while (ticket := self.waiting.head) is not None:
            if ticket.deadline is None or ticket.deadline > now:
                return [self._whole(ticket)], ticket.size
            self.expire(ticket)
            expired.append(ticket)
        return [], 0

    def _too_late(self, now: float) -> float:
        """Deadlines up to here are not worth a place in a batch, since others wait for it."""
        if self.depth > self.ceiling.now and self.cost.learned:
            return now + _CERTAIN * self.cost.of(self.ceiling.now)
        return now

    def _affordable(self, left_s: float) -> int:
        """How many inputs the next batch may have for its head to be answered within ``left_s``.

        Only where no backlog stands: a smaller batch then costs a little device time; under a
        backlog it would cost throughput, and with it the deadlines of all behind.
        """
        cap = self.ceiling.now
        if self.depth > cap or not self.cost.learned or self.cost.of(self.depth) <= left_s:
            return cap
        return min(cap, self.cost.largest_within(left_s) or cap)

    def _fill(
        self, now: float, too_late: float, late: list[Ticket], expired: list[Ticket]
    ) -> tuple[list[Chunk], int]:
        room = cap = self.ceiling.now
        chunks: list[Chunk] = []
        size = 0
        ticket = self.waiting.head
        while ticket is not None and size < room and len(late) < _LATE_AT_ONCE:
            following = ticket.after
            deadline = ticket.deadline
            left = ticket.size - ticket.taken
            if deadline is not None and not chunks and deadline > too_late:
                room = self._affordable(deadline - now)
            if deadline is not None and deadline <= too_late:
                if deadline <= now:
                    self.expire(ticket)
                    expired.append(ticket)
                else:
                    late.append(ticket)
            elif left <= room - size or (left <= cap and not chunks):
                chunks.append(self._whole(ticket))
                size += left
            elif left > cap:
                chunks.append(self._part(ticket, room - size))
                size = room
            else:
                break
            ticket = following
        return chunks, size

    def _whole(self, ticket: Ticket) -> Chunk:
        """All that is left of a ticket."""
        start, size = ticket.taken, ticket.size
        self._forget(ticket)
        ticket.taken = size
        ticket.state = RUNNING
        ticket.pending_chunks += 1
        return Chunk(ticket, start, size)

    def _part(self, ticket: Ticket, count: int) -> Chunk:
        """One chunk a turn: the rest of a long request waits behind the others."""
        self.waiting.remove(ticket)
        self.waiting.append(ticket)
        self.depth -= count
        start = ticket.taken
        ticket.taken += count
        ticket.state = RUNNING
        ticket.pending_chunks += 1
        return Chunk(ticket, start, ticket.taken)

    def _forget(self, ticket: Ticket) -> int:
        self.waiting.remove(ticket)
        left = ticket.size - ticket.taken
        self.depth -= left
        ticket.queue = None
        if ticket.deadline is not None:
            self._deadlines.discard(ticket)
        return left
