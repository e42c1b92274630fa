from __future__ import annotations

import sys
from random import Random
from typing import TYPE_CHECKING

import pytest

from thalamus_lite.batching.queue import Batch, ModelQueue, QueuePolicy, Scheduler, Ticket
from thalamus_lite.batching.ticket import DONE, QUEUED, RUNNING
from thalamus_lite.errors import DeadlineExceeded, ModelUnloading, QueueFull, RequestTooLarge

if TYPE_CHECKING:
    from collections.abc import Sequence

CPU = (("cpu", 0),)


class World:
    """A scheduler with the time at hand."""

    def __init__(self, **slots: int | None) -> None:
        self.scheduler = Scheduler(lambda device: slots.get(device), Random(0))
        self.now = 100.0
        self.wake_at: float | None = None
        self.expired: list[Ticket] = []

    def queue(
        self,
        max_batch_size: int = 8,
        max_queue_size: int = 1000,
        lanes: Sequence[tuple[str, int]] = CPU,
        merges: bool = True,
    ) -> ModelQueue:
        policy = QueuePolicy(max_batch_size, merges, max_queue_size, rebound=False)
        return self.scheduler.add("model", policy, lanes)

    def arrive(
        self, queue: ModelQueue, *sizes: int, timeout_s: float | None = None
    ) -> list[Ticket]:
        deadline = None if timeout_s is None else self.now + timeout_s
        tickets = [Ticket(size, deadline) for size in sizes]
        for ticket in tickets:
            self.scheduler.arrive(queue, ticket, self.now)
        return tickets

    def dispatch(self) -> list[Batch]:
        batches, expired, self.wake_at = self.scheduler.dispatch(self.now)
        self.expired += expired
        return batches

    def one(self) -> Batch:
        (batch,) = self.dispatch()
        return batch

    def done(self, batch: Batch, took_s: float = 0.01, ran: int | None = None) -> None:
        self.now += took_s
        self.scheduler.done(batch, self.now, ran)

    def teach(self, queue: ModelQueue, a: float, k: float) -> None:
        for n in (1, queue.ceiling.now) * 10:
            queue.learn(n, a + k * n)


@pytest.fixture
def world() -> World:
    return World()


def parts(batch: Batch) -> list[tuple[Ticket, int, int]]:
    return [(chunk.ticket, chunk.start, chunk.stop) for chunk in batch.chunks]


class TestStarting:
    def test_a_lone_request_starts_at_once(self, world: World) -> None:
        queue = world.queue()
        (ticket,) = world.arrive(queue, 1)
        batch = world.one()
        assert parts(batch) == [(ticket, 0, 1)]
        assert batch.lane is queue.lanes[0]
        assert batch.started_at == world.now
        assert ticket.state is RUNNING
        assert world.wake_at is None

    def test_arrivals_of_one_tick_run_together_in_their_order(self, world: World) -> None:
        tickets = world.arrive(world.queue(), 1, 3, 2)
        assert parts(world.one()) == [(tickets[0], 0, 1), (tickets[1], 0, 3), (tickets[2], 0, 2)]

    def test_what_arrives_while_the_lane_is_busy_waits_and_runs_next(self, world: World) -> None:
        queue = world.queue()
        world.arrive(queue, 1)
        batch = world.one()
        later = world.arrive(queue, 1, 1)
        assert world.dispatch() == []
        world.done(batch)
        assert [chunk.ticket for chunk in world.one().chunks] == later

    def test_a_batch_never_exceeds_the_maximum(self, world: World) -> None:
        queue = world.queue(8)
        world.arrive(queue, *[1] * 20)
        assert world.one().size == 8
        assert queue.depth == 12

    def test_arrive_says_whether_a_dispatch_is_worth_its_while(self, world: World) -> None:
        queue = world.queue()
        assert world.scheduler.arrive(queue, Ticket(1), world.now)
        assert world.scheduler.arrive(queue, Ticket(1), world.now)
        world.dispatch()
        assert not world.scheduler.arrive(queue, Ticket(1), world.now)

    def test_a_request_that_does_not_fit_any_more_waits_whole(self, world: World) -> None:
        queue = world.queue(8)
        first, second = world.arrive(queue, 5, 6)
        batch = world.one()
        assert parts(batch) == [(first, 0, 5)]
        world.done(batch)
        assert parts(world.one()) == [(second, 0, 6)]

    def test_a_finished_request_is_done_and_an_idle_model_is_empty(self, world: World) -> None:
        queue = world.queue()
        (ticket,) = world.arrive(queue, 1)
        world.done(world.one())
        assert ticket.state is DONE
        assert world.dispatch() == []
        assert (queue.depth, queue.free, queue.busy_since(world.now)) == (0, 1, world.now)

    def test_without_merging_every_request_is_a_batch_of_its_own_size(self, world: World) -> None:
        queue = world.queue(1, lanes=[("cpu", 0), ("cpu", 1)], merges=False)
        tickets = world.arrive(queue, 50, 1, 7)
        assert [parts(b) for b in world.dispatch()] == [[(tickets[0], 0, 50)], [(tickets[1], 0, 1)]]
        assert queue.effective_max_batch == 1

    def test_the_same_ticket_cannot_arrive_twice(self, world: World) -> None:
        queue = world.queue()
        (ticket,) = world.arrive(queue, 1)
        with pytest.raises(RuntimeError, match="once"):
            world.scheduler.arrive(queue, ticket, world.now)

    def test_a_ticket_without_inputs_is_refused(self, world: World) -> None:
        with pytest.raises(ValueError, match="at least one input"):
            world.arrive(world.queue(), 0)

    def test_a_batch_cannot_be_done_twice(self, world: World) -> None:
        queue = world.queue()
        world.arrive(queue, 1)
        batch = world.one()
        world.done(batch)
        with pytest.raises(RuntimeError, match="once"):
            world.done(batch)

    def test_a_policy_without_room_is_refused(self) -> None:
        with pytest.raises(ValueError, match="at least 1"):
            QueuePolicy(0)
        with pytest.raises(ValueError, match="at least 1"):
            QueuePolicy(1, max_queue_size=0)


class TestLongRequests:
    def test_it_is_split_by_offset(self, world: World) -> None:
        queue = world.queue(8)
        (ticket,) = world.arrive(queue, 20)
        seen = []
        while (batches := world.dispatch()) != []:
            seen += parts(batches[0])
            world.done(batches[0])
        assert seen == [(ticket, 0, 8), (ticket, 8, 16), (ticket, 16, 20)]
        assert ticket.state is DONE

    def test_it_runs_one_chunk_a_turn_while_others_wait(self, world: World) -> None:
        queue = world.queue(4)
        long, *short = world.arrive(queue, 10, 1, 1)
        order = []
        while (batches := world.dispatch()) != []:
            order.append(parts(batches[0]))
            world.done(batches[0])
        assert order == [
            [(long, 0, 4)],
            [(short[0], 0, 1), (short[1], 0, 1), (long, 4, 6)],
            [(long, 6, 10)],
        ]

    def test_its_chunks_run_side_by_side_on_several_lanes(self, world: World) -> None:
        queue = world.queue(4, lanes=[("cpu", 0), ("cpu", 1)])
        (ticket,) = world.arrive(queue, 10)
        first, second = world.dispatch()
        assert parts(first) + parts(second) == [(ticket, 0, 4), (ticket, 4, 8)]
        world.done(second)
        last = world.one()
        assert parts(last) == [(ticket, 8, 10)]
        world.done(last)
        assert ticket.state is RUNNING
        world.done(first)
        assert ticket.state is DONE

    def test_a_failed_chunk_drops_the_rest(self, world: World) -> None:
        queue = world.queue(4)
        (ticket,) = world.arrive(queue, 10)
        batch = world.one()
        ticket.failed = True
        world.done(batch)
        assert ticket.state is DONE
        assert queue.depth == 0
        assert queue.counts.cancelled == 6
        assert world.dispatch() == []

    def test_cancelling_it_half_way_stops_further_chunks(self, world: World) -> None:
        queue = world.queue(4)
        (ticket,) = world.arrive(queue, 10)
        batch = world.one()
        assert not world.scheduler.cancel(ticket, world.now)
        assert (queue.depth, ticket.state) == (0, RUNNING)
        world.done(batch)
        assert ticket.state is DONE
        assert world.dispatch() == []

    def test_cancelling_it_between_two_chunks_ends_it(self, world: World) -> None:
        queue = world.queue(4)
        (ticket,) = world.arrive(queue, 10)
        world.done(world.one())
        assert not world.scheduler.cancel(ticket, world.now)
        assert ticket.state is DONE

    def test_it_expires_half_way(self, world: World) -> None:
        queue = world.queue(4)
        (ticket,) = world.arrive(queue, 10, timeout_s=0.05)
        batch = world.one()
        world.done(batch, took_s=0.1)
        assert world.dispatch() == []
        assert world.expired == [ticket]
        assert ticket.state is DONE
        assert queue.counts.expired == 6


class TestAdmission:
    def test_a_full_queue_refuses_with_an_honest_retry(self, world: World) -> None:
        queue = world.queue(8, max_queue_size=100)
        for _ in range(3):
            world.arrive(queue, 4)
            world.done(world.one(), took_s=1.0)
        world.arrive(queue, 4)
        world.dispatch()
        world.arrive(queue, *[10] * 10)
        with pytest.raises(QueueFull) as full:
            world.arrive(queue, 1)
        # 100 inputs at 4 a second, and up to a quarter longer.
        assert full.value.retry_after_s is not None
        assert 25.0 <= full.value.retry_after_s <= 31.25
        assert queue.counts.refused_full == 1
        assert queue.depth == 100

    def test_retry_after_is_jittered_within_one_second_and_a_minute(self, world: World) -> None:
        queue = world.queue(8, max_queue_size=10**6)
        unknown = {world.scheduler.retry_after_s(queue, world.now) for _ in range(50)}
        assert len(unknown) > 40
        assert all(1.0 <= s <= 1.25 for s in unknown)
        world.arrive(queue, 8)
        world.done(world.one(), took_s=1.0)
        world.arrive(queue, 100_000)
        endless = {world.scheduler.retry_after_s(queue, world.now) for _ in range(50)}
        assert len(endless) > 40
        assert all(48.0 <= s <= 60.0 for s in endless)

    def test_a_request_larger_than_the_queue_is_refused_for_good(self, world: World) -> None:
        queue = world.queue(8, max_queue_size=10)
        ticket = Ticket(11)
        with pytest.raises(RequestTooLarge, match="max_queue_size"):
            world.scheduler.arrive(queue, ticket, world.now)
        assert ticket.state is DONE
        world.arrive(queue, 10)

    def test_a_full_tick_at_an_idle_model_is_not_turned_away(self, world: World) -> None:
        queue = world.queue(8, max_queue_size=2)
        world.arrive(queue, *[1] * 10)
        with pytest.raises(QueueFull):
            world.arrive(queue, 1)
        assert world.one().size == 8
        assert queue.depth == 2
        with pytest.raises(QueueFull):
            world.arrive(queue, 1)

    def test_what_free_lanes_take_whole_does_not_count_either(self, world: World) -> None:
        queue = world.queue(1, max_queue_size=5, merges=False, lanes=[("cpu", 0), ("cpu", 1)])
        world.arrive(queue, 5, 5)
        with pytest.raises(QueueFull):
            world.arrive(queue, 1)
        assert len(world.dispatch()) == 2
        world.arrive(queue, 5)

    def test_a_full_device_counts_as_no_free_lane(self) -> None:
        world = World(gpu=1)
        busy = world.queue(lanes=[("gpu", 0)])
        queue = world.queue(8, max_queue_size=2, lanes=[("gpu", 0)])
        world.arrive(busy, 1)
        world.dispatch()
        world.arrive(queue, 2)
        with pytest.raises(QueueFull):
            world.arrive(queue, 1)

    def test_a_deadline_that_has_passed_is_refused(self, world: World) -> None:
        queue = world.queue()
        with pytest.raises(DeadlineExceeded):
            world.arrive(queue, 1, timeout_s=0.0)
        assert (queue.depth, queue.counts.refused_late) == (0, 1)

    def test_a_hopeless_deadline_is_refused_once_the_cost_is_known(self, world: World) -> None:
        queue = world.queue(8)
        world.arrive(queue, 8)
        world.dispatch()
        world.arrive(queue, *[8] * 5, timeout_s=0.5)
        world.teach(queue, a=0.1, k=0.0)
        world.arrive(queue, 1, timeout_s=0.7)
        with pytest.raises(DeadlineExceeded):
            world.arrive(queue, 1, timeout_s=0.5)

    def test_a_cold_estimate_refuses_no_one(self, world: World) -> None:
        queue = world.queue(8)
        for _ in range(7):
            queue.learn(1, 100.0)
        world.arrive(queue, 8)
        world.dispatch()
        world.arrive(queue, *[8] * 50, timeout_s=0.001)

    def test_an_idle_model_tries_whatever_its_estimate_says(self, world: World) -> None:
        queue = world.queue(8)
        world.teach(queue, a=100.0, k=0.0)
        (ticket,) = world.arrive(queue, 1, timeout_s=0.5)
        assert parts(world.one()) == [(ticket, 0, 1)]

    def test_a_drain_that_beats_the_estimate_admits(self, world: World) -> None:
        queue = world.queue(8)
        for _ in range(3):
            world.arrive(queue, 8)
            world.done(world.one(), took_s=0.01, ran=0)
        world.teach(queue, a=1.0, k=0.0)
        world.arrive(queue, 8)
        world.dispatch()
        world.arrive(queue, 8, timeout_s=0.5)
        with pytest.raises(DeadlineExceeded):
            world.arrive(queue, 8, timeout_s=0.015)

    def test_requests_that_run_alone_are_estimated_one_by_one(self, world: World) -> None:
        queue = world.queue(1, merges=False)
        world.teach(queue, a=0.1, k=0.0)
        world.arrive(queue, 1)
        world.dispatch()
        world.arrive(queue, *[1] * 5)
        world.arrive(queue, 1, timeout_s=0.7)
        with pytest.raises(DeadlineExceeded):
            world.arrive(queue, 1, timeout_s=0.5)


class TestDeadlines:
    def test_an_expired_request_never_runs(self, world: World) -> None:
        queue = world.queue(1)
        world.arrive(queue, 1)
        batch = world.one()
        (late,) = world.arrive(queue, 1, timeout_s=0.1)
        (patient,) = world.arrive(queue, 1)
        world.done(batch, took_s=0.101)
        assert parts(world.one()) == [(patient, 0, 1)]
        assert world.expired == [late]
        assert late.state is DONE

    def test_an_expired_request_that_runs_alone_never_runs(self, world: World) -> None:
        queue = world.queue(1, merges=False)
        world.arrive(queue, 1)
        batch = world.one()
        (late,) = world.arrive(queue, 1, timeout_s=0.1)
        (patient,) = world.arrive(queue, 1)
        world.done(batch, took_s=0.1001)
        assert parts(world.one()) == [(patient, 0, 1)]
        assert world.expired == [late]

    def test_a_queue_of_which_all_has_expired_is_empty(self, world: World) -> None:
        for merges in (True, False):
            queue = world.queue(1, merges=merges)
            world.arrive(queue, 1)
            batch = world.one()
            tickets = world.arrive(queue, 1, 1, timeout_s=0.1)
            world.done(batch, took_s=0.1001)
            world.expired.clear()
            assert world.dispatch() == []
            assert world.expired == tickets
            assert (queue.depth, queue.free) == (0, 1)

    def test_waiting_requests_expire_while_the_lane_is_stuck(self, world: World) -> None:
        queue = world.queue()
        world.arrive(queue, 1)
        world.dispatch()
        tickets = world.arrive(queue, 1, 1, timeout_s=0.5)
        world.dispatch()
        assert world.wake_at == pytest.approx(world.now + 0.5, abs=1 / 64)
        world.now = world.wake_at
        assert world.dispatch() == []
        assert world.expired == tickets
        assert queue.depth == 0
        assert world.wake_at is None

    def test_the_batch_is_made_small_enough_for_its_head(self, world: World) -> None:
        queue = world.queue(8)
        world.teach(queue, a=0.1, k=0.1)
        world.arrive(queue, 1)
        batch = world.one()
        world.arrive(queue, 1, timeout_s=0.55)
        world.arrive(queue, *[1] * 6)
        world.done(batch, took_s=0.04)
        assert world.one().size == 4

    def test_a_head_that_cannot_be_saved_makes_no_small_batch(self, world: World) -> None:
        queue = world.queue(8)
        world.teach(queue, a=0.1, k=0.1)
        world.arrive(queue, 1, timeout_s=0.05)
        world.arrive(queue, *[1] * 6)
        assert world.one().size == 7

    def test_under_a_backlog_a_full_batch_runs_without_those_it_cannot_save(
        self, world: World
    ) -> None:
        queue = world.queue(8)
        world.arrive(queue, 1)
        batch = world.one()
        hopeless = world.arrive(queue, 1, 1, timeout_s=0.5)
        world.arrive(queue, *[1] * 20)
        world.teach(queue, a=0.1, k=0.1)
        world.done(batch)
        assert world.one().size == 8
        assert world.expired == hopeless
        assert all(ticket.state is DONE for ticket in hopeless)

    def test_a_wrong_estimate_cannot_keep_a_model_from_running(self, world: World) -> None:
        queue = world.queue(8, max_queue_size=5000)
        world.arrive(queue, 1)
        batch = world.one()
        tickets = world.arrive(queue, *[1] * 2000, timeout_s=0.5)
        world.teach(queue, a=1000.0, k=0.0)
        world.done(batch)
        assert [chunk.ticket for chunk in world.one().chunks] == tickets[:8]
        assert world.expired == []

    def test_one_dispatch_looks_at_no_more_than_1024_hopeless_requests(self, world: World) -> None:
        queue = world.queue(8, max_queue_size=5000)
        world.arrive(queue, 1)
        batch = world.one()
        hopeless = world.arrive(queue, *[1] * 1024, timeout_s=0.5)
        (patient,) = world.arrive(queue, 1)
        world.teach(queue, a=1000.0, k=0.0)
        world.done(batch)
        batch = world.one()
        assert [chunk.ticket for chunk in batch.chunks] == hopeless[:8]
        world.done(batch)
        assert [chunk.ticket for chunk in world.one().chunks] == [patient]
        assert world.expired == hopeless[8:]


class TestCancelling:
    def test_a_cancelled_request_never_runs(self, world: World) -> None:
        queue = world.queue()
        first, second, third = world.arrive(queue, 1, 1, 1)
        assert world.scheduler.cancel(second, world.now)
        assert second.state is DONE
        assert [chunk.ticket for chunk in world.one().chunks] == [first, third]

    def test_cancelling_again_or_too_late_says_no(self, world: World) -> None:
        queue = world.queue()
        queued, running = world.arrive(queue, 1, 1)
        world.scheduler.cancel(queued, world.now)
        assert not world.scheduler.cancel(queued, world.now)
        batch = world.one()
        assert not world.scheduler.cancel(running, world.now)
        assert running.state is RUNNING
        world.done(batch)
        assert not world.scheduler.cancel(running, world.now)
        assert not world.scheduler.cancel(Ticket(1), world.now)

    def test_a_queue_that_was_cancelled_empty_starts_again(self, world: World) -> None:
        queue = world.queue()
        (ticket,) = world.arrive(queue, 1)
        world.scheduler.cancel(ticket, world.now)
        assert world.dispatch() == []
        world.arrive(queue, 1)
        assert world.one().size == 1

    def test_a_cancelled_request_leaves_nothing_behind(self, world: World) -> None:
        queue = world.queue()
        world.arrive(queue, 1)
        world.dispatch()
        for ticket in world.arrive(queue, *[1] * 500, timeout_s=30.0):
            world.scheduler.cancel(ticket, world.now)
        world.dispatch()
        assert len(queue.waiting) == queue.depth == 0
        assert world.wake_at is None


class TestLanesAndDevices:
    def test_a_batch_goes_to_the_least_loaded_device(self) -> None:
        world = World()
        other = world.queue(lanes=[("gpu0", 0)])
        world.teach(other, a=1.0, k=0.0)
        world.arrive(other, 1)
        world.dispatch()
        queue = world.queue(1, lanes=[("gpu0", 0), ("gpu0", 1), ("gpu1", 2)])
        world.teach(queue, a=0.4, k=0.0)
        world.arrive(queue, 1)
        assert world.one().lane.device == "gpu1"
        world.arrive(queue, 1)
        assert world.one().lane.device == "gpu0"

    def test_a_device_that_has_finished_is_the_least_loaded_again(self, world: World) -> None:
        queue = world.queue(1, lanes=[("gpu0", 0), ("gpu0", 1), ("gpu1", 2), ("gpu1", 3)])
        world.teach(queue, a=0.1, k=0.0)
        world.arrive(queue, 1, 1, 1)
        batches = world.dispatch()
        assert [batch.lane.device for batch in batches] == ["gpu0", "gpu1", "gpu0"]
        world.done(batches[0])
        world.done(batches[2])
        world.arrive(queue, 1)
        assert world.one().lane.device == "gpu0"

    def test_a_replica_on_a_full_device_waits_for_none(self) -> None:
        world = World(gpu0=1)
        other = world.queue(lanes=[("gpu0", 0)])
        world.arrive(other, 1)
        world.dispatch()
        queue = world.queue(1, lanes=[("gpu0", 0), ("gpu1", 1)])
        world.arrive(queue, 1, 1)
        assert [batch.lane.device for batch in world.dispatch()] == ["gpu1"]
        assert queue.depth == 1

    def test_a_device_runs_no_more_batches_than_it_has_slots(self) -> None:
        world = World(gpu=2)
        queues = [world.queue(1, lanes=[("gpu", 0)]) for _ in range(3)]
        for queue in queues:
            world.arrive(queue, 1)
        batches = world.dispatch()
        assert len(batches) == 2
        assert world.dispatch() == []
        world.done(batches[0])
        assert world.one().queue is queues[2]

    def test_a_lost_lane_gives_its_device_to_the_others(self) -> None:
        world = World(gpu=1)
        hung, healthy = (world.queue(1, lanes=[("gpu", 0)]) for _ in range(2))
        world.arrive(hung, 1)
        batch = world.one()
        world.arrive(healthy, 1)
        assert world.dispatch() == []
        assert world.scheduler.lane_lost(batch.lane, world.now) is batch
        assert world.one().queue is healthy
        world.arrive(hung, 1)
        assert world.dispatch() == []
        assert not batch.lane.free

    def test_a_lane_that_comes_back_late_serves_again(self, world: World) -> None:
        queue = world.queue(1)
        world.arrive(queue, 1, 1)
        batch = world.one()
        world.scheduler.lane_lost(batch.lane, world.now)
        world.done(batch, took_s=60.0)
        assert world.dispatch() == []
        world.scheduler.lane_restored(batch.lane, world.now)
        assert world.one().lane is batch.lane

    def test_a_lane_restored_before_its_batch_is_done_is_still_busy(self) -> None:
        world = World(gpu=1)
        queue = world.queue(1, lanes=[("gpu", 0), ("gpu", 1)])
        world.arrive(queue, 1, 1)
        batch = world.one()
        world.scheduler.lane_lost(batch.lane, world.now)
        world.scheduler.lane_restored(batch.lane, world.now)
        assert world.dispatch() == []
        world.done(batch)
        assert len(world.dispatch()) == 1

    def test_losing_a_free_lane_leaves_the_rest(self, world: World) -> None:
        queue = world.queue(1, lanes=[("cpu", 0), ("cpu", 1)])
        assert world.scheduler.lane_lost(queue.lanes[1], world.now) is None
        assert world.scheduler.lane_lost(queue.lanes[1], world.now) is None
        world.arrive(queue, 1, 1)
        assert world.one().lane is queue.lanes[0]
        world.scheduler.lane_restored(queue.lanes[1], world.now)
        world.scheduler.lane_restored(queue.lanes[1], world.now)
        assert world.one().lane is queue.lanes[1]

    def test_lane_that_is_freed_while_nobody_waits_takes_who_comes_next(self) -> None:
        # Another device is full, and the queue has competed for it all the while.
        world = World(full=1, open=2)
        other = world.queue(lanes=[("full", 0)])
        queue = world.queue(1, lanes=[("full", 0), ("open", 1)])
        world.arrive(queue, 1, 1)
        first, second = world.dispatch()
        assert (first.lane.device, second.lane.device) == ("full", "open")
        world.done(first)
        world.arrive(other, 1)
        assert world.one().queue is other
        (waiting,) = world.arrive(queue, 1)
        assert world.dispatch() == []
        world.scheduler.cancel(waiting, world.now)
        world.done(second)
        world.arrive(queue, 1)
        assert world.one().lane.device == "open"

    def test_requests_of_a_model_without_lanes_in_service_expire(self, world: World) -> None:
        queue = world.queue()
        world.scheduler.lane_lost(queue.lanes[0], world.now)
        (ticket,) = world.arrive(queue, 1, timeout_s=0.1)
        world.now += 0.2
        assert world.dispatch() == []
        assert world.expired == [ticket]


class TestRemoving:
    def test_what_waits_is_given_back_and_what_runs_goes_on(self, world: World) -> None:
        queue = world.queue(1)
        running, *waiting = world.arrive(queue, 1, 1, 1)
        batch = world.one()
        assert world.scheduler.remove(queue, world.now) == waiting
        assert [ticket.state for ticket in waiting] == [DONE, DONE]
        assert (queue.depth, queue.counts.withdrawn) == (0, 2)
        world.done(batch)
        assert running.state is DONE
        assert world.dispatch() == []

    def test_a_removed_queue_refuses(self, world: World) -> None:
        queue = world.queue()
        world.scheduler.remove(queue, world.now)
        with pytest.raises(ModelUnloading):
            world.arrive(queue, 1)


class TestMemoryPressure:
    def test_a_failed_size_halves_later_batches(self, world: World) -> None:
        queue = world.queue(32)
        world.scheduler.shrink(queue, 32, world.now)
        assert queue.effective_max_batch == 16
        (ticket, _) = world.arrive(queue, 20, 4)
        assert parts(world.one()) == [(ticket, 0, 16)]

    def test_it_creeps_back(self, world: World) -> None:
        queue = world.queue(4)
        world.scheduler.shrink(queue, 4, world.now)
        for _ in range(500):
            world.arrive(queue, *[1] * queue.effective_max_batch)
            world.done(world.one())
        assert queue.effective_max_batch == 4


class TestLearning:
    def test_a_failed_call_teaches_nothing(self, world: World) -> None:
        queue = world.queue()
        world.arrive(queue, 1)
        world.done(world.one(), ran=0)
        assert queue.cost.batches == 0

    def test_the_lanes_own_measure_is_preferred(self, world: World) -> None:
        queue = world.queue()
        world.arrive(queue, 1)
        world.scheduler.done(world.one(), world.now + 5.0, took_s=0.5)
        assert queue.cost.of(1) == pytest.approx(0.5)

    def test_of_quick_batches_one_in_four_teaches_and_of_others_each(self, world: World) -> None:
        for seconds, learned in ((0.001, 10), (0.003, 40)):
            queue = world.queue()
            world.teach(queue, a=seconds, k=0.0)
            before = queue.cost.batches
            for _ in range(40):
                queue.learn(1, seconds)
            assert queue.cost.batches - before == learned

    def test_a_queue_without_a_batch_is_busy_since_its_head_came(self, world: World) -> None:
        queue = world.queue()
        (ticket,) = world.arrive(queue, 1)
        world.now += 3.0
        world.arrive(queue, 1)
        assert queue.busy_since(world.now) == pytest.approx(world.now - 3.0)
        assert ticket.state is QUEUED


def operations(world: World, queue: ModelQueue, count: int) -> int:
    """How many function calls it takes to serve ``count`` requests, one cancelled beside each."""
    calls = 0

    def trace(frame: object, event: str, arg: object) -> None:
        nonlocal calls
        calls += event == "call"

    running = world.dispatch()
    sys.setprofile(trace)
    try:
        for _ in range(count):
            kept, dropped = world.arrive(queue, 1, 1, timeout_s=1e9)
            world.scheduler.cancel(dropped, world.now)
            assert kept.queue is queue
            for batch in running:
                world.done(batch)
            running = world.dispatch()
    finally:
        sys.setprofile(None)
    return calls


def test_a_request_costs_the_same_work_with_100_000_waiting() -> None:
    work = []
    for waiting in (1, 100_000):
        world = World()
        queue = world.queue(1, max_queue_size=10**6)
        world.arrive(queue, *[1] * waiting, timeout_s=1e9)
        operations(world, queue, 50)
        work.append(operations(world, queue, 100))
    assert work[1] <= work[0] * 1.1


def test_a_request_costs_the_same_work_among_10_000_models() -> None:
    work = []
    for models in (1, 10_000):
        world = World(gpu=1)
        queues = [world.queue(1, lanes=[("gpu", 0)]) for _ in range(models)]
        operations(world, queues[0], 50)
        work.append(operations(world, queues[0], 100))
    assert work[1] <= work[0] * 1.1
