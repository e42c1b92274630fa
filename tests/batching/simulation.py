"""A discrete-event simulation of one model behind the event loop, on virtual time.

The loop is a server of its own: every request costs it time coming in and going out, what arrives
while it is busy is handled together in its next tick, and a batch is dispatched at the end of a
tick, before the answers of that tick are written. Clients see a round trip. The same world drives
the real scheduler and the batchers that it is compared with, and nothing in it reads a clock.

``python tests/batching/simulation.py`` prints the tables of docs/adr/0010-rebound-rule.md.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from heapq import heappop, heappush
from statistics import fmean
from typing import TYPE_CHECKING, Protocol

from thalamus_lite.batching.queue import Batch, QueuePolicy, Scheduler, Ticket

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Started = tuple[object, list["Request"]]


@dataclass(frozen=True)
class World:
    """Costs in seconds. ``jitter`` is the relative spread of a batch's time."""

    a: float
    k: float
    batch: int = 32
    loop_s: float = 60e-6
    trip_s: float = 0.25e-3
    trip_spread_s: float = 0.15e-3
    jitter: float = 0.02

    def cost(self, n: int) -> float:
        return self.a + self.k * n

    @property
    def capacity(self) -> float:
        """Requests a second in full batches."""
        return self.batch / self.cost(self.batch)


class Request(Ticket):
    __slots__ = ("sent_at",)

    def __init__(self, sent_at: float) -> None:
        super().__init__(1)
        self.sent_at = sent_at


class Batcher(Protocol):
    def arrive(self, request: Request, now: float) -> None: ...
    def dispatch(self, now: float) -> tuple[list[Started], float | None]: ...
    def done(self, token: object, now: float) -> None: ...


class Real:
    """The package's scheduler: one queue, and lanes that run side by side at full speed."""

    def __init__(self, world: World, rebound: bool = True, lanes: int = 1) -> None:
        self.scheduler = Scheduler(random=random.Random(0))
        policy = QueuePolicy(world.batch, max_queue_size=10**9, rebound=rebound)
        self.queue = self.scheduler.add("model", policy, [("cpu", lane) for lane in range(lanes)])

    def arrive(self, request: Request, now: float) -> None:
        self.scheduler.arrive(self.queue, request, now)

    def dispatch(self, now: float) -> tuple[list[Started], float | None]:
        plan = self.scheduler.dispatch(now)
        return [(b, [c.ticket for c in b.chunks]) for b in plan.batches], plan.wake_at  # type: ignore[misc]

    def done(self, token: object, now: float) -> None:
        assert isinstance(token, Batch)
        self.scheduler.done(token, now)


class Threshold:
    """Starts when ``least`` wait, however long that takes: with N known, the best is an oracle."""

    def __init__(self, world: World, least: int = 1) -> None:
        self.waiting: deque[Request] = deque()
        self.cap = world.batch
        self.least = least
        self.free = True

    def arrive(self, request: Request, now: float) -> None:
        self.waiting.append(request)

    def dispatch(self, now: float) -> tuple[list[Started], float | None]:
        if not self.free or len(self.waiting) < self.least:
            return [], None
        self.free = False
        count = min(self.cap, len(self.waiting))
        return [(None, [self.waiting.popleft() for _ in range(count)])], None

    def done(self, token: object, now: float) -> None:
        self.free = True


ARRIVE, DONE, WAKE = range(3)


class Simulation:
    def __init__(self, world: World, batcher: Batcher, seed: int) -> None:
        self.world = world
        self.batcher = batcher
        self.random = random.Random(seed)
        self.events: list[tuple[float, int, int, object]] = []
        self.number = 0
        self.free_at = 0.0
        self.sizes: list[int] = []
        self.answered: list[tuple[float, float]] = []
        self.on_answer: Callable[[Request, float], None] = lambda request, now: None

    def at(self, when: float, kind: int, what: object) -> None:
        self.number += 1
        heappush(self.events, (when, self.number, kind, what))

    def send(self, when: float) -> None:
        self.at(when, ARRIVE, Request(when))

    def trip(self) -> float:
        return self.world.trip_s + self.random.expovariate(1 / self.world.trip_spread_s)

    def run(self, until: float) -> None:
        half = self.world.loop_s / 2
        events, batcher = self.events, self.batcher
        while events and events[0][0] < until:
            start = now = max(events[0][0], self.free_at)
            answers: list[Request] = []
            while events and events[0][0] <= start:
                _, _, kind, what = heappop(events)
                if kind == ARRIVE:
                    assert isinstance(what, Request)
                    now += half
                    batcher.arrive(what, now)
                elif kind == DONE:
                    token, requests = what  # type: ignore[misc]
                    batcher.done(token, now)
                    answers += requests
            self.dispatch(now)
            for request in answers:
                now += half
                self.answered.append((request.sent_at, now))
                self.on_answer(request, now)
            self.free_at = now

    def dispatch(self, now: float) -> None:
        started, wake_at = self.batcher.dispatch(now)
        for token, requests in started:
            self.sizes.append(len(requests))
            spread = 1 + self.world.jitter * self.random.gauss(0, 1)
            took = self.world.cost(len(requests)) * max(0.5, spread)
            self.at(now + took, DONE, (token, requests))
        if wake_at is not None:
            self.at(max(wake_at, now), WAKE, None)


def closed_loop(
    world: World, batcher: Batcher, clients: int, seed: int = 1, seconds: float = 6.0
) -> float:
    """Requests a second in the steady state of ``clients`` that ask again when answered."""
    simulation = Simulation(world, batcher, seed)
    simulation.on_answer = lambda request, now: simulation.send(now + simulation.trip())
    for _ in range(clients):
        simulation.send(simulation.random.uniform(0.0, 0.02))
    simulation.run(seconds)
    warm = seconds / 3
    return sum(1 for _, at in simulation.answered if at > warm) / (seconds - warm)


def oracle(
    world: World, clients: int, thresholds: Sequence[int] | None = None, seconds: float = 6.0
) -> float:
    """The best that any fixed threshold reaches with ``clients`` known."""
    most = min(clients, world.batch)
    least = range(1, most + 1) if thresholds is None else thresholds
    return max(
        closed_loop(world, Threshold(world, m), clients, seconds=seconds)
        for m in least
        if m <= most
    )


def poisson(rate: float, count: int, seed: int) -> list[float]:
    rng = random.Random(seed)
    now, trace = 0.0, []
    for _ in range(count):
        now += rng.expovariate(rate)
        trace.append(now)
    return trace


def bursts(
    rate: float, count: int, seed: int, on_s: float = 0.05, off_s: float = 0.2
) -> list[float]:
    """Poisson at ``rate`` while on, silence while off; both exponential."""
    rng = random.Random(seed)
    now, trace = 0.0, []
    end = rng.expovariate(1 / on_s)
    while len(trace) < count:
        now += rng.expovariate(rate)
        while now > end:
            gap = rng.expovariate(1 / off_s)
            now, end = now + gap, end + gap + rng.expovariate(1 / on_s)
        trace.append(now)
    return trace


def open_loop(world: World, batcher: Batcher, trace: Sequence[float], seed: int = 1) -> list[float]:
    """Latencies in seconds, from the intended time, of a trace; the first tenth is warm-up."""
    simulation = Simulation(world, batcher, seed)
    for when in trace:
        simulation.send(when)
    simulation.run(float("inf"))
    latencies = [at - sent for sent, at in sorted(simulation.answered)]
    assert len(latencies) == len(trace)
    return latencies[len(latencies) // 10 :]


def quantile(values: Sequence[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


WORLDS = {
    "4 + 0.25n": World(4e-3, 0.25e-3),
    "10 + 0.1n": World(10e-3, 0.1e-3),
    "4 + 0.25n, wide": World(4e-3, 0.25e-3, trip_spread_s=1.5e-3),
    "10 + 0.1n, wide": World(10e-3, 0.1e-3, trip_spread_s=1.5e-3),
}
CLIENTS = (1, 8, 24, 32, 64, 256)
LOADS = (0.1, 0.3, 0.5, 0.7, 0.9, 0.95)
BURSTS = (0.5, 0.95, 2.0, 5.0)


def free_of_loop(world: World) -> World:
    return World(world.a, world.k, world.batch, loop_s=0.0, jitter=world.jitter)


def main() -> None:
    print("closed loop: requests a second, and the share of the oracle")
    for name, world in WORLDS.items():
        for clients in CLIENTS:
            best = oracle(world, clients)
            plain = closed_loop(world, Real(world, rebound=False), clients)
            real = Real(world)
            ours = closed_loop(world, real, clients)
            print(
                f"| {name} | {clients} | {best:.0f} | {plain / best:.3f} | {ours / best:.3f} |"
                f" a={real.queue.cost.a * 1e3:.2f} k={real.queue.cost.k * 1e3:.3f}"
                f" h={real.queue.rebound.hold_for * 1e3 if real.queue.rebound else 0:.2f} ms"
            )
    print("closed loop on two lanes: work-conserving, with the rule, ratio")
    for name, world in list(WORLDS.items())[:2]:
        for clients in CLIENTS:
            plain = closed_loop(world, Real(world, rebound=False, lanes=2), clients)
            ours = closed_loop(world, Real(world, lanes=2), clients)
            print(f"| {name} | {clients} | {plain:.0f} | {ours:.0f} | {ours / plain:.2f} |")
    print("Poisson and bursts: mean and p99 over (zero-overhead; work-conserving in the same loop)")
    for name, world in list(WORLDS.items())[:2]:
        for kind, make, loads in (("poisson", poisson, LOADS), ("bursts", bursts, BURSTS)):
            for load in loads:
                trace = make(load * world.capacity, 20000, 7)
                free = open_loop(free_of_loop(world), Threshold(world), trace)
                plain_l = open_loop(world, Threshold(world), trace)
                real = Real(world)
                ours_l = open_loop(world, real, trace)
                held = real.queue.counts.holds
                print(
                    f"| {name} | {kind} {load:.2f} | {fmean(ours_l) / fmean(free):.3f} |"
                    f" {quantile(ours_l, 0.99) / quantile(free, 0.99):.3f} |"
                    f" {fmean(ours_l) / fmean(plain_l):.3f} |"
                    f" {quantile(ours_l, 0.99) / quantile(plain_l, 0.99):.3f} | holds {held}"
                )


if __name__ == "__main__":
    main()
