"""Several models on one device that runs one batch at a time, on virtual time."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from thalamus_lite.batching.fairness import Device
from thalamus_lite.batching.queue import Batch, ModelQueue, QueuePolicy, Scheduler, Ticket


class OneDevice:
    """Runs whatever the scheduler starts, for the time that its model takes."""

    def __init__(self, slots: int | None = 1) -> None:
        self.scheduler = Scheduler(lambda device: slots, Random(0))
        self.now = 0.0
        self.costs: dict[ModelQueue, float] = {}
        self.device_s: Counter[str] = Counter()
        self.running: list[tuple[float, Batch]] = []
        self.order: list[str] = []
        self.waits: dict[str, list[float]] = {}
        self.expired: list[Ticket] = []

    def model(self, key: str, seconds: float, max_batch_size: int = 1) -> ModelQueue:
        policy = QueuePolicy(max_batch_size, max_queue_size=10**9, rebound=False)
        queue = self.scheduler.add(key, policy, [("gpu", 0)])
        for _ in range(10):
            queue.learn(1, seconds)
        self.costs[queue] = seconds
        self.waits[key] = []
        return queue

    def arrive(self, queue: ModelQueue, count: int = 1, deadline: float | None = None) -> None:
        for _ in range(count):
            self.scheduler.arrive(queue, Ticket(1, deadline), self.now)
        self.start()

    def start(self) -> None:
        plan = self.scheduler.dispatch(self.now)
        self.expired += plan.expired
        for batch in plan.batches:
            self.order.append(batch.queue.key)
            self.running.append((self.now + self.costs[batch.queue], batch))

    def run(self, until: float) -> None:
        while self.running and min(self.running, key=lambda r: r[0])[0] <= until:
            self.running.sort(key=lambda r: r[0])
            self.now, batch = self.running.pop(0)
            self.device_s[batch.queue.key] += self.now - batch.started_at
            for chunk in batch.chunks:
                self.waits[batch.queue.key].append(self.now - chunk.ticket.enqueued_at)
            self.scheduler.done(batch, self.now)
            self.start()
        self.now = until


def test_two_busy_models_get_the_same_device_time_whatever_their_costs() -> None:
    world = OneDevice()
    slow, quick = world.model("slow", 0.05), world.model("quick", 0.01)
    world.arrive(slow, 1000)
    world.arrive(quick, 1000)
    world.run(10.0)
    assert world.device_s["slow"] == pytest.approx(world.device_s["quick"], rel=0.05)


def test_shares_are_settled_by_the_time_taken_and_not_by_the_estimate() -> None:
    world = OneDevice()
    liar, honest = world.model("liar", 0.001), world.model("honest", 0.02)
    world.costs[liar] = 0.02
    world.arrive(liar, 1000)
    world.arrive(honest, 1000)
    world.run(10.0)
    assert world.device_s["liar"] == pytest.approx(world.device_s["honest"], rel=0.05)


def test_idleness_banks_no_credit() -> None:
    world = OneDevice()
    late, busy = world.model("late", 0.01), world.model("busy", 0.01)
    world.arrive(busy, 10_000)
    world.run(10.0)
    world.arrive(late, 1000)
    world.order.clear()
    world.run(10.4)
    assert 15 <= Counter(world.order)["late"] <= 25


def test_a_lone_busy_model_is_not_punished_later_for_an_idle_device() -> None:
    world = OneDevice()
    first, second = world.model("first", 0.01), world.model("second", 0.01)
    world.arrive(first, 1000)
    world.run(20.0)
    world.arrive(second, 1000)
    world.run(40.0)
    world.arrive(first, 100)
    world.arrive(second, 100)
    world.order.clear()
    world.run(40.4)
    assert 15 <= Counter(world.order)["first"] <= 25


def test_the_quiet_one_of_two_models_waits_for_one_batch_of_the_other() -> None:
    world = OneDevice()
    rng = Random(3)
    big, small = world.model("big", 0.02, max_batch_size=32), world.model("small", 0.002)
    # The device takes 32 of the big one in 20 ms; for one of the small one, 100 of them come.
    at, arrivals = 0.0, []
    while len(arrivals) < 40_000:
        at += rng.expovariate(1500.0)
        arrivals.append((at, small if len(arrivals) % 100 == 0 else big))
    for when, queue in arrivals:
        world.run(when)
        world.arrive(queue)
    world.run(at + 10.0)
    waits = sorted(world.waits["small"])
    assert len(waits) == 400
    assert waits[int(0.99 * len(waits))] <= 0.02 + 2 * 0.002


def test_a_deadline_about_to_break_goes_first() -> None:
    world = OneDevice()
    running, patient, urgent = (world.model(key, 0.1) for key in ("running", "patient", "urgent"))
    world.arrive(running)
    world.arrive(patient)
    # Device time of its own puts the urgent one behind, but for its deadline.
    urgent.shares[0].virtual = 0.05
    world.arrive(urgent, deadline=world.now + 0.25)
    world.run(1.0)
    assert world.order == ["running", "urgent", "patient"]


def test_a_deadline_that_can_wait_waits() -> None:
    world = OneDevice()
    running, patient, relaxed = (world.model(key, 0.1) for key in ("running", "patient", "relaxed"))
    world.arrive(running)
    world.arrive(patient)
    relaxed.shares[0].virtual = 0.05
    world.arrive(relaxed, deadline=world.now + 0.9)
    world.run(1.0)
    assert world.order == ["running", "patient", "relaxed"]


def test_the_earliest_of_two_urgent_deadlines_goes_first() -> None:
    world = OneDevice()
    running, later, sooner = (world.model(key, 0.1) for key in ("running", "later", "sooner"))
    world.arrive(running)
    world.run(0.05)
    world.arrive(later, deadline=0.30)
    world.arrive(sooner, deadline=0.29)
    world.run(1.0)
    assert world.order == ["running", "sooner", "later"]


def test_a_deadline_that_cannot_be_met_has_no_precedence() -> None:
    world = OneDevice()
    running, patient, hopeless = (world.model(key, 0.1) for key in ("running", "patient", "lost"))
    world.arrive(running)
    world.arrive(patient)
    hopeless.shares[0].virtual = 0.05
    world.arrive(hopeless, deadline=world.now + 0.19)
    world.run(0.15)
    assert world.order == ["running", "patient"]


def test_a_model_of_urgent_requests_borrows_time_but_takes_no_more_than_its_share() -> None:
    world = OneDevice()
    pushy, patient = world.model("pushy", 0.01), world.model("patient", 0.01)
    world.arrive(patient, 2000)
    while world.now < 10.0:
        world.run(world.now + 0.001)
        if pushy.depth == 0:
            # Always due at the very next turn.
            world.arrive(pushy, deadline=world.now + 0.0215)
    assert world.device_s["patient"] >= 0.45 * 10.0


def test_a_cancelled_urgent_request_lends_its_urgency_to_no_one() -> None:
    world = OneDevice()
    running, patient, other = (world.model(key, 0.1) for key in ("running", "patient", "other"))
    world.arrive(running)
    world.run(0.05)
    world.arrive(patient)
    other.shares[0].virtual = 0.2
    urgent = Ticket(1, 0.29)
    world.scheduler.arrive(other, urgent, world.now)
    world.scheduler.arrive(other, Ticket(1, 9.0), world.now)
    world.scheduler.cancel(urgent, world.now)
    world.run(1.0)
    assert world.order == ["running", "patient", "other"]


def test_urgent_entries_do_not_pile_up() -> None:
    world = OneDevice()
    queue = world.model("model", 0.001)
    for _ in range(5000):
        world.arrive(queue, deadline=world.now + 3600.0)
        world.run(world.now + 0.002)
    (device,) = world.scheduler._devices.values()
    assert isinstance(device, Device)
    assert len(device._urgent) < 100
    assert len(device._fair) <= 1


def test_urgent_entries_do_not_pile_up_behind_one_that_waits() -> None:
    world = OneDevice()
    waiting, busy = world.model("waiting", 0.001), world.model("busy", 0.001)
    world.arrive(busy, deadline=world.now + 3600.0)
    waiting.shares[0].virtual = 1000.0
    world.arrive(waiting, deadline=100.0)
    for _ in range(5000):
        world.arrive(busy, deadline=world.now + 3600.0)
        world.run(world.now + 0.001)
    assert waiting.depth == 1
    (device,) = world.scheduler._devices.values()
    assert len(device._urgent) < 100


def test_a_device_without_a_limit_starts_everyone_at_once() -> None:
    world = OneDevice(slots=None)
    for key in "abc":
        world.arrive(world.model(key, 0.1))
    assert world.order == ["a", "b", "c"]


def test_what_takes_no_slot_keeps_nobody_from_the_device() -> None:
    scheduler = Scheduler(lambda device: 2, Random(0))
    lanes = [("gpu", number) for number in range(8)]
    waits = scheduler.add("stream", QueuePolicy(1, merges=False, takes_slot=False), lanes)
    for _ in range(8):
        scheduler.arrive(waits, Ticket(1), 0.0)
    assert len(scheduler.dispatch(0.0).batches) == 8
    computes = scheduler.add("batch", QueuePolicy(1, rebound=False), lanes)
    for _ in range(8):
        scheduler.arrive(computes, Ticket(1), 0.0)
    assert len(scheduler.dispatch(0.0).batches) == 2
