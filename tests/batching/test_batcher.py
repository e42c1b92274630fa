"""The batcher, with lanes driven by hand and a clock of its own: a request is answered once."""

import asyncio
import contextvars
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from thalamus_lite.batching.batcher import Batcher
from thalamus_lite.batching.channel import Channel
from thalamus_lite.batching.disconnects import WATCH_AFTER_S
from thalamus_lite.batching.group import LaneGroup, PendingRequest
from thalamus_lite.batching.lane import Hooks, Lane
from thalamus_lite.batching.queue import QueuePolicy, Scheduler
from thalamus_lite.devices.streams import NoStreams
from thalamus_lite.errors import (
    ClientDisconnected,
    DeadlineExceeded,
    Draining,
    LaneHung,
    ModelError,
    ModelUnloading,
    QueueFull,
)


class HandLane(Lane):
    """Its jobs run when the test says so, in the test's own thread."""

    def __init__(self, name: str = "hand") -> None:
        super().__init__(name, "cpu", NoStreams())
        self.jobs: list[Any] = []

    def post(self, job: Any) -> None:
        self.jobs.append(job)

    def run(self) -> None:
        self.jobs.pop(0)(self)


class Model:
    def __init__(self, predict: Callable[[list[Any]], Any]) -> None:
        self.predict = predict


class Bench:
    """A batcher with one model on lanes driven by hand."""

    def __init__(
        self,
        predict: Any = lambda inputs: list(inputs),
        lanes: int = 1,
        *,
        policy: QueuePolicy | None = None,
        **options: bool,
    ) -> None:
        self.now = 100.0
        self.batcher = Batcher(Scheduler(), asyncio.get_running_loop())
        self.batcher.clock = lambda: self.now
        self.lanes = [HandLane(f"hand {n}") for n in range(lanes)]
        hooks = [Hooks(Model(predict))] * lanes
        self.group = LaneGroup(
            "m",
            list(self.lanes),
            hooks,
            policy or QueuePolicy(4, max_queue_size=64, rebound=False),
            **{"idempotent": True, "streams": False, "on_loop": False, **options},
        )
        self.observed: list[Any] = []
        self.group.observe = lambda batch, report: self.observed.append((batch.size, report))
        self.batcher.add(self.group)

    def submit(self, *inputs: Any, deadline: float | None = None, gone: Any = None) -> Any:
        pending = PendingRequest(list(inputs), 0.0, deadline, gone)
        if self.group.streams:
            pending.channel = Channel(self.batcher.loop)
        self.batcher.submit(pending, self.group)
        return pending


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.001)


async def turn(times: int = 3) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


async def test_arrivals_of_one_turn_run_as_one_batch() -> None:
    bench = Bench()
    requests = [bench.submit(number) for number in range(3)]
    assert bench.lanes[0].jobs == []
    await turn()
    assert len(bench.lanes[0].jobs) == 1
    bench.lanes[0].run()
    await turn()
    for number, pending in enumerate(requests):
        assert pending.future.result() is None
        assert pending.outputs == [number]
        assert (pending.times.executed, pending.queue_s) == (3, 0.0)
    assert bench.group.idle
    assert bench.observed[0][0] == 3


async def test_request_that_is_refused_is_nobodys() -> None:
    bench = Bench(policy=QueuePolicy(1, max_queue_size=1))
    bench.submit(1)
    await turn()
    bench.submit(2)
    with pytest.raises(QueueFull):
        bench.submit(3)
    assert len(bench.group.live) == 2


async def test_cancelled_request_that_waits_never_runs_and_one_that_runs_is_thrown_away() -> None:
    ran: list[Any] = []

    def predict(inputs: list[Any]) -> list[Any]:
        ran.extend(inputs)
        return inputs

    bench = Bench(predict, policy=QueuePolicy(1, rebound=False))
    first, second, third = (bench.submit(n) for n in (1, 2, 3))
    await turn()
    bench.batcher.cancel(second, ClientDisconnected())
    bench.batcher.cancel(first, DeadlineExceeded())
    bench.batcher.cancel(first, Draining())
    with pytest.raises(ClientDisconnected):
        await second.future
    with pytest.raises(DeadlineExceeded):
        await first.future
    bench.lanes[0].run()
    await turn()
    bench.lanes[0].run()
    await turn()
    assert third.outputs == [3]
    assert ran == [1, 3]
    assert bench.group.idle


async def test_lane_that_dies_in_a_batch_fails_it_and_nothing_else() -> None:
    class Dying(Exception):
        pass

    bench = Bench()
    pending = bench.submit(1)
    await turn()
    # Not a hook's doing: as if another thread had raised it into the lane.
    bench.group.hooks = None  # type: ignore[assignment]
    with pytest.raises(TypeError):
        bench.lanes[0].run()
    bench.group.hooks = [Hooks(Model(lambda inputs: list(inputs)))]
    await turn()
    with pytest.raises(ModelError):
        await pending.future
    assert bench.group.idle
    again = bench.submit(2)
    await turn()
    bench.lanes[0].run()
    await turn()
    assert again.outputs == [2]


async def test_deadline_answers_a_request_wherever_it_is() -> None:
    bench = Bench(policy=QueuePolicy(1, rebound=False))
    runs = bench.submit(1, deadline=100.01)
    waits = bench.submit(2, deadline=100.01)
    await turn()
    for pending in (runs, waits):
        with pytest.raises(DeadlineExceeded):
            await pending.future
    assert bench.group.live == set()
    assert not bench.group.idle
    bench.lanes[0].run()
    await turn()
    assert bench.group.idle
    assert bench.lanes[0].jobs == []


async def test_what_the_policy_finds_expired_is_answered() -> None:
    bench = Bench(policy=QueuePolicy(1, rebound=False))
    first = bench.submit(1)
    await turn()
    late = bench.submit(2, deadline=1000.0)
    bench.now = 1001.0
    bench.lanes[0].run()
    await turn()
    assert first.outputs == [1]
    with pytest.raises(DeadlineExceeded):
        await late.future


async def test_lane_learns_only_from_batches_that_went_well_in_one_pass() -> None:
    fail = True

    def predict(inputs: list[Any]) -> list[Any]:
        if fail and len(inputs) > 1:
            raise ValueError
        return inputs

    bench = Bench(predict)
    cost = bench.group.queue.cost
    for _ in range(30):
        bench.submit(1)
        bench.submit(2)
        await turn()
        bench.lanes[0].run()
        await turn()
    assert not cost.learned
    fail = False
    for size in (1, 2, 3, 4) * 10:
        bench.submit(*range(size))
        await turn()
        # The lane's own time counts, not that until the loop came round.
        bench.now += 5
        bench.lanes[0].run()
        bench.now += 5
        await turn()
    assert cost.learned
    assert cost.of(4) < 1


async def test_hung_lane_is_lost_to_the_policy_until_it_comes_back() -> None:
    told: list[str] = []
    bench = Bench(lanes=2, policy=QueuePolicy(1, rebound=False))
    bench.group.on_hung = lambda: told.append("hung")
    bench.group.on_recovered = lambda: told.append("recovered")
    hung = bench.submit(1)
    await turn()
    (stuck,) = (lane for lane in bench.lanes if lane.jobs)
    (other,) = (lane for lane in bench.lanes if not lane.jobs)
    stuck.busy_since = 1.0
    other.busy_since = 1.0
    bench.batcher.check_lanes(5.0)
    bench.batcher.check_lanes(5.0)
    # The other one is busy with no batch of the policy's: that is not for the watchdog.
    assert list(bench.group.hung) == [bench.lanes.index(stuck)]
    assert told == []
    second, third = bench.submit(2), bench.submit(3, deadline=1e6)
    fourth = bench.submit(4)
    await turn()
    assert len(other.jobs) == 1
    bench.batcher.check_lanes(5.0)
    assert told == ["hung"]
    with pytest.raises(LaneHung):
        await fourth.future
    assert not third.future.done()
    other.run()
    await turn()
    assert second.outputs == [2]
    other.run()
    await turn()
    assert third.outputs == [3]
    stuck.run()
    await turn()
    assert hung.outputs == [1]
    assert told == ["hung", "recovered", "recovered"]
    assert bench.group.hung == {}
    assert bench.group.idle
    assert bench.group.queue.free == 2


async def test_unload_waits_until_answered_and_free_and_the_queue_takes_no_more() -> None:
    bench = Bench()
    await bench.group.drained()
    pending = bench.submit(1)
    await turn()
    drained = asyncio.ensure_future(bench.group.drained())
    twice = asyncio.ensure_future(bench.group.drained())
    await turn()
    assert not drained.done()
    bench.batcher.cancel(pending, Draining())
    await turn()
    # Answered, but its lane is not free yet.
    assert not drained.done()
    bench.lanes[0].run()
    await turn()
    assert drained.done()
    assert twice.done()
    bench.batcher.remove(bench.group)
    with pytest.raises(ModelUnloading):
        bench.submit(2)
    with pytest.raises(Draining):
        await pending.future


async def test_removed_queue_answers_what_still_waits() -> None:
    bench = Bench(policy=QueuePolicy(1, rebound=False))
    bench.submit(1)
    waiting = bench.submit(2)
    await turn()
    bench.batcher.remove(bench.group)
    with pytest.raises(ModelUnloading):
        await waiting.future


async def test_fail_queued_spares_what_runs_and_stop_dispatches_no_more() -> None:
    bench = Bench(policy=QueuePolicy(1, rebound=False))
    runs, waits = bench.submit(1), bench.submit(2)
    await turn()
    bench.batcher.stop()
    bench.batcher.fail_queued(Draining())
    with pytest.raises(Draining):
        await waits.future
    bench.lanes[0].run()
    await turn()
    assert runs.outputs == [1]
    left = bench.submit(3)
    await turn()
    assert bench.lanes[0].jobs == []
    bench.batcher.fail_all(Draining())
    assert isinstance(left.future.exception(), Draining)


class Client:
    """A client whose leaving can be seen, and who counts its watchers."""

    def __init__(self) -> None:
        self.left = asyncio.Event()
        self.watchers = 0

    async def gone(self) -> None:
        self.watchers += 1
        await self.left.wait()


async def test_only_those_who_wait_long_are_watched_and_whoever_leaves_never_runs() -> None:
    bench = Bench(policy=QueuePolicy(1, rebound=False))
    runs, waits, leaves = Client(), Client(), Client()
    bench.submit(1, gone=runs.gone)
    second = bench.submit(2, gone=waits.gone)
    third = bench.submit(3, gone=leaves.gone)
    bench.submit(4)
    await turn()
    assert waits.watchers == 0
    bench.now += 1.5 * WATCH_AFTER_S
    await until(lambda: waits.watchers)
    bench.now += 0.75 * WATCH_AFTER_S
    late = Client()
    bench.submit(5, gone=late.gone)
    await asyncio.sleep(WATCH_AFTER_S * 2)
    assert late.watchers == 0
    bench.now += 1.5 * WATCH_AFTER_S
    await until(lambda: late.watchers)
    await turn()
    assert (runs.watchers, waits.watchers, leaves.watchers) == (0, 1, 1)
    leaves.left.set()
    with pytest.raises(ClientDisconnected):
        await third.future
    for _ in range(4):
        bench.lanes[0].run()
        await turn()
    assert second.outputs == [2]
    # The watcher of a request that was answered is gone with it.
    assert second.watcher is None
    assert not bench.batcher.tasks._running


async def test_request_that_was_answered_in_time_is_not_watched() -> None:
    bench = Bench(policy=QueuePolicy(1, rebound=False))
    client = Client()
    bench.submit(1)
    pending = bench.submit(2, gone=client.gone)
    await turn()
    bench.lanes[0].run()
    await turn()
    bench.lanes[0].run()
    bench.now += 1.5 * WATCH_AFTER_S
    await asyncio.sleep(WATCH_AFTER_S * 2)
    assert pending.outputs == [2]
    assert client.watchers == 0
    bench.batcher.disconnects.watch([pending])
    assert client.watchers == 0


async def test_nothing_of_a_request_that_waited_stays_behind_its_answer() -> None:
    class Input:
        pass

    bench = Bench(policy=QueuePolicy(1, rebound=False))
    requests = [bench.submit(Input(), gone=Client().gone) for _ in range(2)]
    inputs = [weakref.ref(pending.inputs[0]) for pending in requests]
    del requests
    await turn()
    gc.disable()
    try:
        for _ in range(2):
            bench.lanes[0].run()
            await turn()
        bench.observed.clear()
        assert [ref() for ref in inputs] == [None, None]
    finally:
        gc.enable()


async def test_coroutine_cancelled_before_its_first_step_still_frees_its_lane() -> None:
    async def predict(inputs: list[Any]) -> list[Any]:
        return inputs

    bench = Bench(predict, on_loop=True)
    pending = bench.submit(1)
    # The dispatch makes the task; this comes behind it in the same turn, ahead of the task's step.
    bench.batcher.loop.call_soon(bench.batcher.cancel, pending, DeadlineExceeded())
    bench.batcher.loop.call_soon(bench.group.cancel_unwanted)
    with pytest.raises(DeadlineExceeded):
        await pending.future
    await turn()
    assert bench.group.idle
    again = bench.submit(2)
    await again.future
    assert again.outputs == [2]


async def test_coroutine_that_somebody_still_waits_for_is_not_cancelled() -> None:
    release = asyncio.Event()

    async def predict(inputs: list[Any]) -> list[Any]:
        await release.wait()
        return inputs

    bench = Bench(predict, on_loop=True)
    first, mate = bench.submit(1, deadline=100.01), bench.submit(2)
    with pytest.raises(DeadlineExceeded):
        await first.future
    release.set()
    await mate.future
    assert mate.outputs == [2]


@pytest.mark.parametrize("how", ["fail_all", "aclose"])
async def test_coroutines_are_ended_with_the_batcher(how: str) -> None:
    ended: list[bool] = []

    async def predict(inputs: list[Any]) -> list[Any]:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)
        return inputs

    bench = Bench(predict, on_loop=True)
    pending = bench.submit(1)
    await turn()
    if how == "fail_all":
        bench.batcher.fail_all(Draining())
        with pytest.raises(Draining):
            await pending.future
    else:
        await bench.batcher.aclose()
        with pytest.raises(ModelError):
            await pending.future
    await turn()
    assert ended == [True]
    assert bench.group.idle
    await bench.batcher.aclose()


async def test_generator_is_closed_once_even_where_its_end_takes_time() -> None:
    steps: list[str] = []

    async def predict(inputs: list[Any]) -> Any:
        try:
            await asyncio.Event().wait()
            yield 1
        finally:
            steps.append("closing")
            await asyncio.sleep(0)
            steps.append("closed")

    bench = Bench(predict, on_loop=True, streams=True, policy=QueuePolicy(1, merges=False))
    pending = bench.submit(1)
    await turn()
    bench.batcher.cancel(pending, ClientDisconnected())
    bench.batcher.cancel(pending, Draining())
    bench.batcher.fail_all(Draining())
    await turn(6)
    assert steps == ["closing", "closed"]
    assert isinstance(pending.channel.error, ClientDisconnected)
    assert bench.group.idle


async def test_batcher_goes_on_under_another_loop() -> None:
    bench = Bench()
    bench.submit(1)
    await turn()
    bench.lanes[0].run()
    await turn()
    bench.batcher.rebind(asyncio.get_running_loop())
    pending = bench.submit(2)
    await turn()
    bench.lanes[0].run()
    await pending.future
    assert pending.outputs == [2]


async def test_alarm_rings_at_the_earliest_of_its_times() -> None:
    from thalamus_lite.batching.alarm import Alarm

    loop = asyncio.get_running_loop()
    rang: list[float] = []
    done = asyncio.Event()

    def ring() -> None:
        rang.append(loop.time())
        done.set()

    alarm = Alarm(loop, ring)
    now = loop.time()
    alarm.set(now + 3600, now)
    alarm.set(now + 0.02, now)
    alarm.set(now + 60, now)
    await done.wait()
    assert len(rang) == 1
    assert rang[0] >= now + 0.019
    done.clear()
    alarm.set(now, now + 1)
    await done.wait()
    assert len(rang) == 2


async def test_rest_of_a_long_request_is_dropped_when_its_client_leaves() -> None:
    bench = Bench(policy=QueuePolicy(1, rebound=False))
    client = Client()
    pending = bench.submit(*range(5), gone=client.gone)
    await turn()
    assert bench.group.queue.depth == 4
    bench.now += 1
    await until(lambda: client.watchers)
    client.left.set()
    await until(lambda: bench.group.queue.depth == 0)
    bench.lanes[0].run()
    await turn()
    assert bench.lanes[0].jobs == []
    assert isinstance(pending.future.exception(), ClientDisconnected)
    assert bench.group.idle


async def test_rest_of_a_long_request_is_answered_when_no_lane_is_left_for_it() -> None:
    bench = Bench(policy=QueuePolicy(1, rebound=False))
    long = bench.submit(1, 2)
    await turn()
    bench.lanes[0].busy_since = 1.0
    bench.batcher.check_lanes(5.0)
    with pytest.raises(LaneHung):
        await long.future


async def test_request_of_a_coroutine_has_nothing_of_the_context_of_another() -> None:
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")
    seen: list[str] = []

    async def predict(inputs: list[Any]) -> list[Any]:
        seen.append(tenant.get())
        return list(inputs)

    bench = Bench(predict, on_loop=True, policy=QueuePolicy(1, merges=False))

    async def ask(name: str) -> None:
        tenant.set(name)
        await bench.submit(name).future

    await asyncio.gather(ask("one"), ask("two"))
    assert seen == ["nobody", "nobody"]


async def test_failed_request_and_its_error_are_no_ring() -> None:
    class Input:
        pass

    def predict(inputs: list[Any]) -> list[Any]:
        raise ValueError

    async def coroutine(inputs: list[Any]) -> list[Any]:
        await asyncio.Event().wait()
        return inputs

    async def ask(bench: Bench, pending: PendingRequest) -> None:
        try:
            await pending.future
        finally:
            # As the route does: the error's traceback knows this frame.
            del pending

    gc.collect()
    gc.disable()
    try:
        bench = Bench(predict)
        pending = bench.submit(Input())
        left = [weakref.ref(pending.inputs[0])]
        task = asyncio.ensure_future(ask(bench, pending))
        del pending
        await turn()
        bench.lanes[0].run()
        with pytest.raises(ModelError):
            await task
        cancelled = Bench(coroutine, on_loop=True)
        pending = cancelled.submit(Input())
        left.append(weakref.ref(pending.inputs[0]))
        task = asyncio.ensure_future(ask(cancelled, pending))
        await turn()
        cancelled.batcher.cancel(pending, DeadlineExceeded())
        cancelled.group.cancel_unwanted()
        del pending
        with pytest.raises(DeadlineExceeded):
            await task
        await turn()
        del task
        cancelled.observed.clear()
        bench.observed.clear()
        assert [reference() for reference in left] == [None, None]
    finally:
        gc.enable()
