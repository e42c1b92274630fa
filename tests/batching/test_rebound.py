from __future__ import annotations

from random import Random

import pytest

from thalamus_lite.batching.queue import ModelQueue, Plan, QueuePolicy, Scheduler, Ticket
from thalamus_lite.batching.rebound import EDGES, Rebound

A = 0.01


def windows(
    rebound: Rebound,
    returns_s: list[float],
    count: int = 40,
    every_s: float = 0.1,
    now: float = 0.0,
) -> float:
    """Batches of ``len(returns_s)`` whose clients come back that long after; the last one's end."""
    for _ in range(count):
        now += every_s
        rebound.answered(len(returns_s), now, A)
        for delay in sorted(returns_s):
            rebound.arrived(1, now + delay)
    return now


def test_nothing_is_held_before_anything_is_known() -> None:
    rebound = Rebound()
    rebound.answered(8, 1.0, A)
    assert rebound.hold_until(1.0) is None


def test_clients_that_come_back_soon_are_waited_for() -> None:
    rebound = Rebound()
    now = windows(rebound, [0.001] * 8)
    rebound.answered(8, now + 1, A)
    until = rebound.hold_until(now + 1)
    assert until is not None
    assert 0.001 <= until - (now + 1) <= 0.0014


def test_the_hold_ends_when_all_are_back() -> None:
    rebound = Rebound()
    now = windows(rebound, [0.001] * 8) + 1
    rebound.answered(8, now, A)
    rebound.arrived(7, now + 0.0005)
    assert rebound.hold_until(now + 0.0005) is not None
    rebound.arrived(1, now + 0.0006)
    assert rebound.hold_until(now + 0.0006) is None


def test_the_hold_ends_with_its_time() -> None:
    rebound = Rebound()
    now = windows(rebound, [0.001] * 8) + 1
    rebound.answered(8, now, A)
    assert rebound.hold_until(now + 0.002) is None


def test_clients_that_never_come_back_are_not_waited_for() -> None:
    rebound = Rebound()
    windows(rebound, [1.0] * 8)
    assert rebound.hold_for == 0.0


def test_clients_that_come_back_too_late_to_pay_are_not_waited_for() -> None:
    rebound = Rebound()
    windows(rebound, [0.95 * A] * 8)
    assert rebound.hold_for == 0.0


def test_a_hold_is_never_longer_than_the_fixed_cost() -> None:
    for delay in (0.1, 0.3, 0.5, 0.7, 0.74, 0.8, 0.9, 0.99):
        rebound = Rebound()
        windows(rebound, [delay * A] * 2)
        assert rebound.hold_for <= A


# 2.9 of 4.15 ms is what 32 clients took on a slow day of the machine of the benchmarks.
@pytest.mark.parametrize("share", [0.65, 2.9 / 4.15, 0.76])
def test_a_slow_loop_whose_clients_all_come_back_is_waited_for(share: float) -> None:
    rebound = Rebound()
    windows(rebound, [share * A * (i + 1) / 32 for i in range(32)], count=100)
    assert rebound.hold_for > share * A


def test_a_long_hold_wants_nearly_every_batch_to_come_back_whole() -> None:
    rebound = Rebound()
    # 15 of 16 inputs, but only half of the batches.
    now = windows(rebound, [0.7 * A] * 8, count=1)
    for _ in range(60):
        now = windows(rebound, [0.77 * A] * 8, count=1, now=now)
        now = windows(rebound, [0.77 * A] * 7 + [5 * A], count=1, now=now)
    assert rebound.hold_for == 0.0


def test_one_client_that_is_gone_costs_no_longer_wait_than_the_others_need() -> None:
    rebound = Rebound()
    windows(rebound, [0.001] * 15 + [0.05])
    assert 0.001 <= rebound.hold_for <= 0.0014


@pytest.mark.parametrize("late_s", [0.0018, 0.0022])
def test_clients_that_are_late_together_now_and_then_are_waited_for(late_s: float) -> None:
    a = 0.004
    rebound = Rebound()
    now = 0.0
    for window in range(200):
        now += 0.1
        rebound.answered(32, now, a)
        # They share one event loop, which is slow at times.
        for _ in range(32):
            rebound.arrived(1, now + (late_s if window % 20 == 19 else 0.0014))
        if window > 40:
            assert rebound.hold_for >= late_s


def test_what_was_learned_is_forgotten_when_clients_change() -> None:
    rebound = Rebound()
    now = windows(rebound, [0.001] * 8)
    assert rebound.hold_for > 0.0
    windows(rebound, [1.0] * 8, count=100, now=now)
    assert rebound.hold_for == 0.0


def test_learning_goes_on_after_a_million_batches() -> None:
    rebound = Rebound()
    now = windows(rebound, [0.001] * 2, count=3000)
    assert rebound._weight < 1e13
    now = windows(rebound, [1.0] * 2, count=100, now=now)
    assert rebound.hold_for == 0.0
    windows(rebound, [0.001] * 2, count=100, now=now)
    assert rebound.hold_for > 0.0


def test_clients_of_a_second_lane_are_waited_for_together() -> None:
    rebound = Rebound()
    rebound.answered(8, 1.0, A)
    rebound.arrived(3, 1.001)
    rebound.answered(4, 1.002, A)
    assert rebound.expected == 9
    rebound.answered(4, 2.0, A)
    assert rebound.expected == 4


@pytest.mark.parametrize("load", [0.05, 0.2, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("k", [0.0, 0.1e-3, 1e-3])
def test_poisson_arrivals_are_hardly_ever_held(load: float, k: float) -> None:
    rng = Random(5)
    rebound = Rebound()
    rate = load * 32 / (A + k * 32)
    now, next_at, holding = 0.0, 0.0, 0
    waiting = 0
    for _ in range(3000):
        if waiting == 0:
            now = max(now, next_at)
        end = now + A + k * max(1, min(32, waiting))
        size = max(1, min(32, waiting))
        waiting = max(0, waiting - size)
        while next_at < end:
            rebound.arrived(1, next_at)
            waiting += 1
            next_at += rng.expovariate(rate)
        now = end
        rebound.answered(size, now, A)
        holding += rebound.hold_for > 0.0
    assert holding <= 0.01 * 3000


def test_a_slow_model_holds_no_longer_than_round_trips_are_counted() -> None:
    rebound = Rebound()
    now = 0.0
    for _ in range(20):
        now += 30.0
        rebound.answered(4, now, 10.0)
        for delay in (0.01, 0.02, 0.1, 5.0):
            rebound.arrived(1, now + delay)
    assert 0.1 <= rebound.hold_for <= 0.125


def test_bucket_edges_span_every_delay_that_is_counted() -> None:
    rebound = Rebound()
    rebound.answered(1, 0.0, 1000.0)
    for delay in (0.0, 1e-9, *EDGES, 0.2, 5.0):
        rebound.arrived(1, delay)
    assert rebound.back == len(EDGES) + 4


def answered_eight(scheduler: Scheduler, lanes: list[tuple[str, int]]) -> ModelQueue:
    """At time 1.0, with a hold of about 1.2 ms due for the eight."""
    queue = scheduler.add("model", QueuePolicy(8), lanes)
    for n in (1, 8) * 10:
        queue.learn(n, A + 0.001 * n)
    assert queue.rebound is not None
    windows(queue.rebound, [0.001] * 8, now=-9.0)
    queue.rebound.answered(8, 1.0, A)
    return queue


class TestHeldQueue:
    """The rule inside the scheduler: eight clients that have just been answered."""

    @pytest.fixture
    def scheduler(self) -> Scheduler:
        return Scheduler(random=Random(0))

    @pytest.fixture
    def queue(self, scheduler: Scheduler) -> ModelQueue:
        return answered_eight(scheduler, [("cpu", 0)])

    @pytest.fixture
    def two_lanes(self, scheduler: Scheduler) -> ModelQueue:
        return answered_eight(scheduler, [("cpu", 0), ("cpu", 1)])

    def arrive(
        self, scheduler: Scheduler, queue: ModelQueue, now: float, patience_s: float | None = None
    ) -> bool:
        deadline = None if patience_s is None else now + patience_s
        return scheduler.arrive(queue, Ticket(1, deadline), now)

    def held(self, scheduler: Scheduler, queue: ModelQueue, count: int = 1) -> Plan:
        for _ in range(count):
            self.arrive(scheduler, queue, 1.0002)
        plan = scheduler.dispatch(1.0002)
        assert plan.batches == []
        assert queue.held_until is not None
        assert plan.wake_at == queue.held_until
        return plan

    def test_the_first_to_come_back_waits_for_the_others(
        self, scheduler: Scheduler, queue: ModelQueue
    ) -> None:
        self.held(scheduler, queue)
        assert not self.arrive(scheduler, queue, 1.0004)
        assert scheduler.dispatch(1.0004).batches == []
        assert queue.counts.holds == 1

    def test_the_batch_starts_when_the_last_is_back(
        self, scheduler: Scheduler, queue: ModelQueue
    ) -> None:
        self.held(scheduler, queue, count=7)
        assert self.arrive(scheduler, queue, 1.0005)
        (batch,) = scheduler.dispatch(1.0005).batches
        assert batch.size == 8
        assert queue.counts.hold_gain == 1
        assert queue.counts.held_s == pytest.approx(0.0003)

    def test_the_batch_starts_when_time_is_up(
        self, scheduler: Scheduler, queue: ModelQueue
    ) -> None:
        plan = self.held(scheduler, queue)
        assert plan.wake_at is not None
        later = scheduler.dispatch(plan.wake_at)
        assert [batch.size for batch in later.batches] == [1]
        assert later.wake_at is None

    def test_a_full_batch_is_not_held(self, scheduler: Scheduler, queue: ModelQueue) -> None:
        scheduler.arrive(queue, Ticket(8), 1.0002)
        assert len(scheduler.dispatch(1.0002).batches) == 1

    def test_two_free_lanes_share_those_who_come_back(
        self, scheduler: Scheduler, two_lanes: ModelQueue
    ) -> None:
        self.held(scheduler, two_lanes, count=3)
        assert self.arrive(scheduler, two_lanes, 1.0003)
        (first,) = scheduler.dispatch(1.0003).batches
        assert first.size == 4
        for _ in range(3):
            self.arrive(scheduler, two_lanes, 1.0004)
            assert scheduler.dispatch(1.0004).batches == []
        assert self.arrive(scheduler, two_lanes, 1.0005)
        (second,) = scheduler.dispatch(1.0005).batches
        assert second.size == 4

    def test_replicas_on_two_devices_are_held_as_one(self, scheduler: Scheduler) -> None:
        queue = answered_eight(scheduler, [("gpu:0", 0), ("gpu:1", 1)])
        plan = self.held(scheduler, queue, count=3)
        assert queue.counts.holds == 1
        assert plan.wake_at is not None
        (batch,) = scheduler.dispatch(plan.wake_at).batches
        assert batch.size == 3

    def test_a_batch_that_fills_up_is_held_no_longer(
        self, scheduler: Scheduler, queue: ModelQueue
    ) -> None:
        assert queue.rebound is not None
        queue.rebound.expected = 100
        self.held(scheduler, queue, count=7)
        assert self.arrive(scheduler, queue, 1.0004)
        assert [batch.size for batch in scheduler.dispatch(1.0004).batches] == [8]

    def test_a_smaller_ceiling_ends_a_hold_that_is_full_by_it(
        self, scheduler: Scheduler, queue: ModelQueue
    ) -> None:
        self.held(scheduler, queue, count=4)
        scheduler.shrink(queue, 8, 1.0003)
        assert [batch.size for batch in scheduler.dispatch(1.0003).batches] == [4]

    def test_a_head_that_cannot_wait_is_not_held(
        self, scheduler: Scheduler, queue: ModelQueue
    ) -> None:
        self.arrive(scheduler, queue, 1.0002, patience_s=A + 0.0011)
        assert len(scheduler.dispatch(1.0002).batches) == 1

    def test_a_newcomer_that_cannot_wait_ends_the_hold(
        self, scheduler: Scheduler, queue: ModelQueue
    ) -> None:
        self.held(scheduler, queue)
        assert not self.arrive(scheduler, queue, 1.0003, patience_s=1.0)
        assert self.arrive(scheduler, queue, 1.0003, patience_s=A + 0.0035)
        assert [batch.size for batch in scheduler.dispatch(1.0003).batches] == [3]

    def test_a_held_model_leaves_its_device_to_others(self) -> None:
        scheduler = Scheduler(lambda device: 1, Random(0))
        queue = answered_eight(scheduler, [("cpu", 0)])
        other = scheduler.add("other", QueuePolicy(8), [("cpu", 0)])
        self.held(scheduler, queue)
        self.arrive(scheduler, other, 1.0003)
        (batch,) = scheduler.dispatch(1.0003).batches
        assert batch.queue is other

    def test_a_queue_cancelled_empty_while_held_goes_on(
        self, scheduler: Scheduler, queue: ModelQueue
    ) -> None:
        ticket = Ticket(1)
        scheduler.arrive(queue, ticket, 1.0002)
        scheduler.dispatch(1.0002)
        scheduler.cancel(ticket, 1.0003)
        plan = scheduler.dispatch(1.1)
        assert plan == ([], [], None)
        self.arrive(scheduler, queue, 1.2)
        assert len(scheduler.dispatch(1.2).batches) == 1

    def test_a_removed_queue_is_held_no_more(self, scheduler: Scheduler, queue: ModelQueue) -> None:
        self.held(scheduler, queue)
        assert len(scheduler.remove(queue, 1.0003)) == 1
        assert scheduler.dispatch(1.0003) == ([], [], None)

    def test_a_batch_that_ends_meanwhile_renews_the_hold(
        self, scheduler: Scheduler, two_lanes: ModelQueue
    ) -> None:
        queue = two_lanes
        scheduler.arrive(queue, Ticket(8), 0.9)
        (running,) = scheduler.dispatch(0.9).batches
        assert queue.rebound is not None
        queue.rebound.answered(8, 1.0, A)
        self.held(scheduler, queue)
        scheduler.done(running, 1.0006, ran=0)
        plan = scheduler.dispatch(1.0006)
        assert plan.batches == []
        assert queue.held_until is not None
        assert queue.held_until > 1.0015
        assert plan.wake_at == queue.held_until
        scheduler.dispatch(1.0015)
        assert queue.counts.holds == 2

    def test_a_renewed_hold_outlasts_the_one_before_it(
        self, scheduler: Scheduler, two_lanes: ModelQueue
    ) -> None:
        queue = two_lanes
        other = scheduler.add("other", QueuePolicy(8), [("cpu", 0)])
        assert other.rebound is not None
        other.learn(1, A)
        windows(other.rebound, [0.001] * 8, now=-9.0)
        other.rebound.answered(8, 0.9999, A)
        scheduler.arrive(queue, Ticket(8), 0.9)
        (running,) = scheduler.dispatch(0.9).batches
        assert queue.rebound is not None
        queue.rebound.answered(8, 1.0, A)
        self.arrive(scheduler, other, 1.0002)
        self.arrive(scheduler, queue, 1.0002)
        assert scheduler.dispatch(1.0002).batches == []
        scheduler.done(running, 1.0006, ran=0)
        assert scheduler.dispatch(1.0006).wake_at == other.held_until
        assert [b.queue for b in scheduler.dispatch(1.0013).batches] == [other]
        assert queue.counts.holds == 2

    def test_a_hold_ends_with_the_last_lane_that_could_run_its_batch(
        self, scheduler: Scheduler, queue: ModelQueue
    ) -> None:
        self.held(scheduler, queue)
        scheduler.lane_lost(queue.lanes[0], 1.0003)
        assert queue.held_until is None
        for _ in range(7):
            self.arrive(scheduler, queue, 1.0004)
        assert scheduler.dispatch(1.0004).wake_at is None
        scheduler.lane_restored(queue.lanes[0], 1.0005)
        (batch,) = scheduler.dispatch(1.0005).batches
        assert batch.size == 8

    def test_the_rule_can_be_switched_off(self, scheduler: Scheduler) -> None:
        queue = scheduler.add("model", QueuePolicy(8, rebound=False), [("cpu", 0)])
        assert queue.rebound is None
