"""The scheduling policy, sans-IO: an event and the time in, what to run and what to drop out.

No thread, clock or event loop is known here. The batcher feeds it and does what it is told:

    ready = scheduler.arrive(queue, ticket, now)    raises what the client is to be told
    plan = scheduler.dispatch(now)                  run plan.batches, answer plan.expired, and call
                                                    again at plan.wake_at if nothing else does
    scheduler.done(batch, now)                      then dispatch, and only then write the answers

The rules (docs/adr/0010 and 0011 have the reasons):

* Work-conserving: a free lane on an open device never waits while its queue does, but for the
  rebound rule (rebound.py).
* A device serves the queue that has had the least of it, unless a deadline is about to break
  (fairness.py). A batch goes to the least loaded device on which its queue has a free lane.
* A request longer than a batch runs as chunks, one a turn; no shorter one is ever split.
* What is cancelled or expired never runs (expiry.py, ``ModelQueue.take``).
* ``max_queue_size`` bounds the inputs that must wait. Those that free lanes are about to take do
  not count, so a full tick of arrivals at an idle model is not turned away (admission.py).
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, NamedTuple

from thalamus_lite.batching.admission import Admission
from thalamus_lite.batching.expiry import Deadlines
from thalamus_lite.batching.fairness import Device, Share
from thalamus_lite.batching.holds import Holds
from thalamus_lite.batching.model_queue import ModelQueue
from thalamus_lite.batching.policy import QueueCounts, QueuePolicy
from thalamus_lite.batching.ticket import (
    DONE,
    QUEUED,
    Batch,
    Chunk,
    LaneSlot,
    Ticket,
    TicketState,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = [
    "Batch",
    "Chunk",
    "LaneSlot",
    "ModelQueue",
    "Plan",
    "QueueCounts",
    "QueuePolicy",
    "Scheduler",
    "Ticket",
    "TicketState",
]


class Plan(NamedTuple):
    """What ``dispatch`` decided. ``wake_at``: when it has something new to say by itself."""

    batches: list[Batch]
    expired: list[Ticket]
    wake_at: float | None


def _unlimited(device: str) -> int | None:
    return None


class Scheduler:
    """All queues, lanes and devices of one process."""

    def __init__(
        self,
        device_slots: Callable[[str], int | None] = _unlimited,
        random: Random | None = None,
    ) -> None:
        """``device_slots(key)``: the batches that may run at once on a device; None: no limit."""
        self._device_slots = device_slots
        self._admission = Admission(Random() if random is None else random)
        self._devices: dict[tuple[str, bool], Device] = {}
        self._deadlines = Deadlines()
        self._holds = Holds()

    def add(self, key: str, policy: QueuePolicy, lanes: Iterable[tuple[str, int]]) -> ModelQueue:
        """A queue with ``lanes`` = (device, index), in ``ModelQueue.lanes`` in this order."""
        queue = ModelQueue(key, policy, self._deadlines)
        shares: dict[str, Share] = {}
        for device_key, index in lanes:
            share = shares.get(device_key)
            if share is None:
                device = self._device(device_key, policy.takes_slot)
                share = shares[device_key] = Share(queue, device)
            slot = LaneSlot(share, index)
            share.free.append(slot)
            queue.lanes.append(slot)
        queue.shares = list(shares.values())
        queue.free = len(queue.lanes)
        return queue

    def remove(self, queue: ModelQueue, now: float) -> list[Ticket]:
        """Close the queue and give back what waits, for the caller to answer; what runs goes on.

        A ticket of which chunks still run may be among them.
        """
        queue.closed = True
        self._holds.end(queue, now)
        left = list(queue.waiting)
        for ticket in left:
            queue.counts.withdrawn += queue.drop(ticket)
        return left

    def arrive(self, queue: ModelQueue, ticket: Ticket, now: float) -> bool:
        """Admit ``ticket``; whether a dispatch would now have something to start.

        Raises:
            RequestTooLarge: more inputs than ``max_queue_size``.
            QueueFull: with ``retry_after_s``.
            DeadlineExceeded: the deadline has passed, or will have by all that has been learned.
            ModelUnloading: the queue was removed.
        """
        self._admission.check(queue, ticket, now)
        queue.push(ticket, now)
        if queue.free == 0:
            return False
        if queue.held_until is not None:
            return self._holds.end_for(queue, queue.held_until, ticket, now)
        if not queue.active:
            queue.activate()
        return True

    def cancel(self, ticket: Ticket, now: float) -> bool:
        """Drop what of ``ticket`` still waits. True: none of it has run, and none will."""
        queue = ticket.queue
        if queue is None:
            return False
        whole = ticket.state is QUEUED
        queue.counts.cancelled += queue.drop(ticket)
        return whole

    def dispatch(self, now: float) -> Plan:
        """Start all that can start, each batch bound to its lane, and drop what is too late."""
        batches: list[Batch] = []
        # Most services set no deadlines and hold nothing: then neither is asked.
        expired = self._deadlines.due(now) if self._deadlines.order else []
        for ticket in expired:
            # Among the deadlines only while in a queue.
            ticket.queue.expire(ticket)  # type: ignore[union-attr]
        if self._holds.heap:
            self._holds.end_due(now)
        for device in self._devices.values():
            while (share := device.pick(now)) is not None:
                if not self._holds.begin(share.queue, now):
                    self._start(share, now, batches, expired)
        return Plan(batches, expired, self._wake_at())

    def done(
        self, batch: Batch, now: float, ran: int | None = None, took_s: float | None = None
    ) -> None:
        """``batch`` has come back, well or not: its lane is free, its tickets move on.

        ``ran``: how many inputs the one call had that took the time, where that is not all of them;
        0 where there was no such call (it failed, or was bisected): nothing is learned from it.
        ``took_s``: the lane's own measure, better than the time until the loop came round to this.

        Raises:
            RuntimeError: it has been reported before.
        """
        if not batch.open:
            raise RuntimeError("a batch is done once")
        batch.open = False
        queue, lane = batch.queue, batch.lane
        took = now - batch.started_at if took_s is None else took_s
        answered = self._settle(batch)
        inputs = batch.size if ran is None else ran
        if inputs:
            queue.learn(inputs, took)
        queue.drain.ran(batch.size, batch.started_at, now)
        if queue.rebound is not None and answered:
            queue.rebound.answered(answered, now, queue.cost.a)
        lane.batch = None
        if not lane.lost:
            lane.share.device.ended(lane.share, batch.expected_s, took)
            self._free(lane, now)

    def shrink(self, queue: ModelQueue, failed_size: int, now: float) -> None:
        """A batch of ``failed_size`` inputs ran out of memory: batches become smaller."""
        queue.ceiling.failed(failed_size)
        if queue.depth >= queue.ceiling.now:
            self._holds.end(queue, now)

    def lane_lost(self, lane: LaneSlot, now: float) -> Batch | None:
        """Take a hung or broken lane out of service, so that the others on its device go on.

        What it runs, if anything, is returned and remains its own: ``done`` is still owed for it.
        """
        if lane.lost:
            return lane.batch
        lane.lost = True
        share = lane.share
        if lane.batch is None:
            share.free.remove(lane)
            share.queue.free -= 1
            if share.queue.free == 0:
                # No lane is left to hold a batch for.
                self._holds.end(share.queue, now)
        else:
            expected = lane.batch.expected_s
            share.device.ended(share, expected, max(expected, now - lane.batch.started_at))
        return lane.batch

    def lane_restored(self, lane: LaneSlot, now: float) -> None:
        """The lane is back, free unless ``done`` is still owed for its batch."""
        if not lane.lost:
            return
        lane.lost = False
        if lane.batch is None:
            self._free(lane, now)
        else:
            lane.share.device.started(lane.share, lane.batch.expected_s)

    def retry_after_s(self, queue: ModelQueue, now: float) -> float:
        """Seconds until the backlog should be gone, jittered, in [1, 60]."""
        return self._admission.retry_after_s(queue, now)

    def _device(self, key: str, limited: bool) -> Device:
        device = self._devices.get((key, limited))
        if device is None:
            slots = self._device_slots(key) if limited else None
            device = self._devices[key, limited] = Device(key, slots)
        return device

    def _free(self, lane: LaneSlot, now: float) -> None:
        lane.share.free.append(lane)
        queue = lane.share.queue
        queue.free += 1
        if queue.held_until is not None:
            self._holds.end(queue, now)
        elif queue.depth:
            queue.activate()
        else:
            # This share has not entered, and whoever arrives next must see to that.
            queue.active = False

    def _start(self, share: Share, now: float, batches: list[Batch], expired: list[Ticket]) -> None:
        queue = share.queue
        if len(queue.shares) > 1:
            share = min((s for s in queue.shares if s.startable), key=_load)
        chunks, size = queue.take(now, expired)
        if not chunks:
            return
        lane = share.free.pop()
        queue.free -= 1
        batch = Batch(queue, lane, chunks, size)
        lane.batch = batch
        batch.started_at = now
        batch.expected_s = queue.cost.of(size)
        share.device.started(share, batch.expected_s)
        queue.counts.started += size
        batches.append(batch)
        if queue.depth and queue.free:
            queue.activate()

    def _settle(self, batch: Batch) -> int:
        """Move the tickets of ``batch`` on; the inputs of those that are answered by it."""
        answered = 0
        for chunk in batch.chunks:
            ticket = chunk.ticket
            ticket.pending_chunks -= 1
            queue = ticket.queue
            if queue is not None:
                if not ticket.failed:
                    continue
                queue.counts.cancelled += queue.drop(ticket)
            if ticket.pending_chunks == 0:
                ticket.state = DONE
                answered += ticket.size
        return answered

    def _wake_at(self) -> float | None:
        due = self._deadlines.next_due() if self._deadlines.order else None
        held = self._holds.next_due() if self._holds.heap else None
        if held is None or (due is not None and due < held):
            return due
        return held


def _load(share: Share) -> float:
    return share.device.load_s
