"""Everything that can happen to the scheduler, in any order, against a ledger of every input.

100,000 steps by default; ``THALAMUS_SOAK=1`` makes it a million.
"""

from __future__ import annotations

import os
from random import Random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from thalamus_lite.batching.queue import (
    Batch,
    LaneSlot,
    ModelQueue,
    QueuePolicy,
    Scheduler,
    Ticket,
    TicketState,
)
from thalamus_lite.batching.ticket import MOVES
from thalamus_lite.errors import DeadlineExceeded, ModelUnloading, QueueFull, RequestTooLarge

SLOTS = {"cpu": None, "gpu:0": 1, "gpu:1": 2}
LANES = [
    [("cpu", 0)],
    [("gpu:0", 0)],
    [("gpu:0", 0), ("gpu:0", 1)],
    [("gpu:1", 0), ("gpu:1", 1), ("gpu:1", 2)],
    [("gpu:0", 0), ("gpu:1", 1), ("cpu", 2)],
]
POLICIES = [
    QueuePolicy(8, max_queue_size=32),
    QueuePolicy(4, max_queue_size=6, rebound=False),
    QueuePolicy(1, max_queue_size=20),
    QueuePolicy(1, merges=False, max_queue_size=16),
    QueuePolicy(32, max_queue_size=1024),
]


class Tracked(Ticket):
    """A ticket whose states are checked against the table, and whose inputs are accounted for."""

    __slots__ = ("_state", "born", "dropped", "home", "ran")

    def __init__(self, size: int, deadline: float | None, born: int, home: ModelQueue) -> None:
        super().__init__(size, deadline)
        self.born = born
        self.home = home
        self.ran = 0
        self.dropped: str | None = None

    @property
    def state(self) -> TicketState:
        return self._state

    @state.setter
    def state(self, new: TicketState) -> None:
        old = getattr(self, "_state", None)
        assert old is None or new is old or new in MOVES[old], (old, new)
        self._state = new


class SchedulerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(SLOTS.__getitem__, Random(0))
        self.now = 1000.0
        self.queues: list[ModelQueue] = []
        self.all_queues: list[ModelQueue] = []
        self.tickets: list[Tracked] = []
        self.batches: list[Batch] = []
        self.born = 0

    def waiting(self) -> list[Tracked]:
        return [t for t in self.tickets if t.queue is not None]

    @precondition(lambda self: len(self.queues) < 4)
    @rule(policy=st.sampled_from(POLICIES), lanes=st.sampled_from(LANES))
    def add(self, policy: QueuePolicy, lanes: list[tuple[str, int]]) -> None:
        queue = self.scheduler.add(f"model-{len(self.all_queues)}", policy, lanes)
        self.queues.append(queue)
        self.all_queues.append(queue)

    @precondition(lambda self: self.queues)
    @rule(
        which=st.integers(0, 3),
        sizes=st.lists(st.one_of(st.just(1), st.integers(1, 40)), min_size=1, max_size=12),
        patience=st.one_of(st.none(), st.floats(-0.01, 0.5)),
    )
    def arrive(self, which: int, sizes: list[int], patience: float | None) -> None:
        queue = self.queues[which % len(self.queues)]
        for size in sizes:
            deadline = None if patience is None else self.now + patience
            self.arrive_one(queue, size, deadline)

    def arrive_one(self, queue: ModelQueue, size: int, deadline: float | None) -> None:
        self.born += 1
        ticket = Tracked(size, deadline, self.born, queue)
        depth, most = queue.depth, queue.policy.max_queue_size
        try:
            self.scheduler.arrive(queue, ticket, self.now)
        except RequestTooLarge:
            assert size > most
        except QueueFull:
            assert depth + size > most
            assert 1.0 <= self.scheduler.retry_after_s(queue, self.now) <= 60.0
        except DeadlineExceeded:
            assert deadline is not None
            assert deadline <= self.now or queue.cost.learned
        else:
            self.tickets.append(ticket)
            assert size <= most
            assert deadline is None or deadline > self.now
            assert queue.depth == depth + size
            assert queue.depth <= most + len(queue.lanes) * queue.policy.max_batch_size or (
                not queue.policy.merges and depth <= most * len(queue.lanes)
            )
            return
        assert ticket.state is TicketState.DONE
        assert queue.depth == depth

    @precondition(lambda self: self.tickets)
    @rule(which=st.integers(0, 10_000), any_ticket=st.booleans())
    def cancel(self, which: int, any_ticket: bool) -> None:
        tickets = self.tickets if any_ticket else self.waiting() or self.tickets
        ticket = tickets[which % len(tickets)]
        untouched = ticket.state is TicketState.QUEUED
        waited = ticket.queue is not None
        assert self.scheduler.cancel(ticket, self.now) == untouched
        assert ticket.queue is None
        if waited:
            ticket.dropped = "cancelled"

    @rule(dt=st.one_of(st.floats(1e-5, 2e-3), st.floats(1e-3, 0.4)))
    def time_passes(self, dt: float) -> None:
        self.now += dt

    @rule()
    def dispatch(self) -> None:
        running = {q: [lane.batch for lane in q.lanes] for q in self.all_queues}
        plan = self.scheduler.dispatch(self.now)
        for ticket in plan.expired:
            assert isinstance(ticket, Tracked)
            assert ticket.deadline is not None
            assert ticket.dropped is None
            assert ticket.queue is None
            ticket.dropped = "expired"
        for batch in plan.batches:
            self.check_batch(batch, running)
        self.batches += plan.batches
        self.check_order(plan.batches)
        self.check_conserves_work()
        self.check_wake(plan.wake_at)

    def check_batch(self, batch: Batch, running: dict[ModelQueue, list[Batch | None]]) -> None:
        queue = batch.queue
        assert queue in self.queues
        assert batch.lane.batch is batch
        assert running[queue][queue.lanes.index(batch.lane)] is None
        assert not batch.lane.lost
        assert batch.size == sum(c.stop - c.start for c in batch.chunks)
        if queue.policy.merges:
            assert 1 <= batch.size <= queue.ceiling.now <= queue.policy.max_batch_size
        else:
            (chunk,) = batch.chunks
            assert (chunk.start, chunk.stop) == (0, chunk.ticket.size)
        for chunk in batch.chunks:
            ticket = chunk.ticket
            assert isinstance(ticket, Tracked)
            assert ticket.home is queue
            assert ticket.dropped is None
            assert ticket.deadline is None or ticket.deadline > self.now
            # In order, without a gap, and nothing twice.
            assert chunk.start == ticket.ran < chunk.stop <= ticket.size
            ticket.ran = chunk.stop

    def check_order(self, batches: list[Batch]) -> None:
        for batch in batches:
            begun = [c.ticket.born for c in batch.chunks if c.start == 0]  # type: ignore[attr-defined]
            assert begun == sorted(begun)
            untouched = [t.born for t in batch.queue.waiting if not t.taken]  # type: ignore[attr-defined]
            assert not begun or not untouched or max(begun) < min(untouched)

    def check_conserves_work(self) -> None:
        for queue in self.queues:
            if queue.held_until is not None:
                assert queue.held_until > self.now
                assert queue.depth < queue.ceiling.now
            elif queue.depth:
                assert not any(share.startable for share in queue.shares)

    def check_wake(self, wake_at: float | None) -> None:
        due = [t.deadline + 1 / 64 for t in self.waiting() if t.deadline is not None]
        due += [q.held_until for q in self.queues if q.held_until is not None]
        if wake_at is None:
            assert not due
        else:
            assert self.now < wake_at <= min(due) + 1e-6

    @precondition(lambda self: self.batches)
    @rule(which=st.integers(0, 100), taught=st.booleans(), fault=st.booleans())
    def done(self, which: int, taught: bool, fault: bool) -> None:
        batch = self.batches.pop(which % len(self.batches))
        rest = [c.ticket for c in batch.chunks if c.ticket.queue is not None]
        if fault:
            batch.chunks[0].ticket.failed = True
        self.scheduler.done(batch, self.now, ran=None if taught else 0)
        for ticket in rest:
            assert isinstance(ticket, Tracked)
            if ticket.queue is None:
                assert ticket.failed
                ticket.dropped = "failed"
        assert batch.lane.batch is None
        assert batch.lane.lost or batch.lane in batch.lane.share.free
        with pytest.raises(RuntimeError):
            self.scheduler.done(batch, self.now)

    @precondition(lambda self: self.batches)
    @rule(dt=st.floats(1e-3, 0.05))
    def run_on(self, dt: float) -> None:
        """Often enough, batches end in time, so that costs are learned and holds happen."""
        for _ in range(len(self.batches)):
            self.now += dt
            self.done(0, taught=True, fault=False)
            self.dispatch()

    @precondition(lambda self: self.queues)
    @rule(which=st.integers(0, 3), clients=st.integers(1, 8), rounds=st.integers(1, 4))
    def clients_come_back(self, which: int, clients: int, rounds: int) -> None:
        """A closed loop: what makes the rebound rule hold."""
        queue = self.queues[which % len(self.queues)]
        for number in range(rounds):
            self.now += 0.02
            while self.batches:
                self.done(0, taught=True, fault=False)
            self.dispatch()
            for client in range(clients):
                self.now += 1e-4
                self.arrive_one(queue, 1, self.now + 0.025 if client == 5 else None)
                if client % 3 == number % 3:
                    self.dispatch()
            self.dispatch()

    def lane(self, which: int) -> LaneSlot:
        lanes = [lane for queue in self.all_queues for lane in queue.lanes]
        return lanes[which % len(lanes)]

    @precondition(lambda self: self.all_queues)
    @rule(which=st.integers(0, 100))
    def lane_lost(self, which: int) -> None:
        lane = self.lane(which)
        assert self.scheduler.lane_lost(lane, self.now) is lane.batch
        assert not lane.free

    @precondition(lambda self: self.all_queues)
    @rule(which=st.integers(0, 100))
    def lane_restored(self, which: int) -> None:
        lane = self.lane(which)
        self.scheduler.lane_restored(lane, self.now)
        assert lane.free == (lane.batch is None)

    @precondition(lambda self: self.queues)
    @rule(which=st.integers(0, 3), size=st.integers(1, 40))
    def shrink(self, which: int, size: int) -> None:
        queue = self.queues[which % len(self.queues)]
        self.scheduler.shrink(queue, size, self.now)
        assert 1 <= queue.ceiling.now <= queue.policy.max_batch_size

    @precondition(lambda self: len(self.queues) > 2)
    @rule(which=st.integers(0, 3))
    def remove(self, which: int) -> None:
        queue = self.queues.pop(which % len(self.queues))
        waiting = {t for t in self.waiting() if t.home is queue}
        left = self.scheduler.remove(queue, self.now)
        assert set(left) == waiting
        for ticket in waiting:
            ticket.dropped = "withdrawn"
        with pytest.raises(ModelUnloading):
            self.scheduler.arrive(queue, Ticket(1), self.now)

    @invariant()
    def books_balance(self) -> None:
        for queue in self.all_queues:
            waiting = sum(t.size - t.taken for t in queue.waiting)
            counts = queue.counts
            assert queue.depth == waiting
            assert counts.admitted == (
                counts.started + counts.expired + counts.cancelled + counts.withdrawn + waiting
            )
            assert queue.free == sum(lane.free for lane in queue.lanes)
            assert queue.free == sum(len(share.free) for share in queue.shares)
            assert counts.held_s >= 0.0
            assert counts.hold_gain >= 0
        for device in self.scheduler._devices.values():
            in_service = [
                lane
                for queue in self.all_queues
                for lane in queue.lanes
                if lane.device == device.key and lane.batch is not None and not lane.lost
            ]
            assert device.running == len(in_service)

    def teardown(self) -> None:
        """Let everything come to its end: then nothing may be left anywhere."""
        for queue in self.all_queues:
            for lane in queue.lanes:
                self.scheduler.lane_restored(lane, self.now)
        for _ in range(10_000):
            self.now += 0.01
            while self.batches:
                self.done(0, taught=True, fault=False)
            self.dispatch()
            if not self.batches and not self.waiting():
                break
        assert not self.waiting()
        for ticket in self.tickets:
            assert ticket.state is TicketState.DONE
            assert ticket.pending_chunks == 0
            assert ticket.dropped is not None or ticket.ran == ticket.size
        assert all(queue.depth == 0 for queue in self.all_queues)
        assert self.scheduler.dispatch(self.now + 1.0).wake_at is None


_TIMES = 10 if os.environ.get("THALAMUS_SOAK") == "1" else 1

TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(
    max_examples=530 * _TIMES,
    stateful_step_count=200,
    deadline=None,
    derandomize=_TIMES == 1,
    database=None,
    suppress_health_check=list(HealthCheck),
)
