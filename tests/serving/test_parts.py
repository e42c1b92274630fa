"""The small parts of a model's life: its table of states, back-off, transitions, what it holds."""

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lifecycle_kit import until

from thalamus_lite.batching.lane import Lane
from thalamus_lite.devices.streams import NoStreams
from thalamus_lite.serving.backoff import FIRST_S, LONGEST_S, Backoff
from thalamus_lite.serving.loaded import Loaded
from thalamus_lite.serving.states import MOVES, State, check_move
from thalamus_lite.serving.threads import in_thread
from thalamus_lite.serving.transition import Transition


@pytest.mark.parametrize("old", State)
@pytest.mark.parametrize("new", State)
def test_only_the_moves_of_the_table_are_made(old: State, new: State) -> None:
    if new in MOVES[old]:
        check_move(old, new)
    else:
        with pytest.raises(RuntimeError, match=f"from {old.value} to {new.value}"):
            check_move(old, new)


@given(st.lists(st.floats(0, 100), max_size=2000))
def test_waits_double_up_to_a_minute_and_begin_anew_after_a_success(gaps: list[float]) -> None:
    backoff = Backoff()
    now, expected = 1000.0, FIRST_S
    assert backoff.left_s(now) == 0.0
    for gap in gaps:
        backoff.failed(now)
        assert backoff.left_s(now) == pytest.approx(expected)
        assert backoff.left_s(now + expected) == pytest.approx(0.0, abs=1e-9)
        expected = min(expected * 2, LONGEST_S)
        now += gap
    backoff.succeeded()
    assert backoff.left_s(now) == 0.0
    backoff.failed(now)
    assert backoff.left_s(now) == pytest.approx(FIRST_S)


async def test_transition_is_waited_for_by_anybody_and_is_nobodys() -> None:
    door = asyncio.Event()
    ended: list[Any] = []
    transition = Transition(ended.append)
    await transition.settled()
    assert await transition.settled_or_hung()

    async def work() -> None:
        await door.wait()

    task = transition.begin(work())
    waiters = [asyncio.ensure_future(transition.settled()) for _ in range(3)]
    waiters.append(asyncio.ensure_future(transition.settled_or_hung()))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    waiters[0].cancel()
    door.set()
    assert await waiters[3] is True  # type: ignore[func-returns-value]
    await asyncio.gather(*waiters[1:3])
    assert ended == [task]
    assert transition.task is None


async def test_those_who_want_to_know_are_told_that_it_hangs() -> None:
    door = asyncio.Event()
    transition = Transition(lambda _task: None)

    async def work() -> None:
        await door.wait()

    transition.begin(work())
    patient = asyncio.ensure_future(transition.settled())
    asking = asyncio.ensure_future(transition.settled_or_hung())
    await asyncio.sleep(0)
    transition.hangs()
    transition.hangs()
    assert await asking is False
    assert not patient.done()
    door.set()
    await patient


async def test_transition_that_refuses_to_stop_is_left_to_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("thalamus_lite.serving.transition.CANCEL_PATIENCE_S", 0.01)
    door = asyncio.Event()
    transition = Transition(lambda _task: None)
    await transition.cancel()

    async def work() -> None:
        while not door.is_set():
            try:
                await door.wait()
            except asyncio.CancelledError:
                continue

    task = transition.begin(work())
    await asyncio.sleep(0)
    await transition.cancel()
    assert not task.done()
    door.set()
    await task


class Held:
    """A lease or a place, given back or not."""

    def __init__(self, error: Exception | None = None) -> None:
        self.released = 0
        self.device = "cpu"
        self._error = error

    def release(self) -> None:
        self.released += 1
        if self._error is not None:
            raise self._error


def loaded_with(lanes: int, *held: Held) -> Loaded:
    loaded = Loaded(SimpleNamespace(key="m@1"))  # type: ignore[arg-type]
    for number in range(lanes):
        lane = Lane(f"lane {number}", "cpu", NoStreams())
        lane.start()
        loaded.lanes.append(lane)
    for one in held:
        loaded.hold_lease(one)  # type: ignore[arg-type]
    return loaded


def ended(loaded: Loaded) -> None:
    for lane in loaded.lanes:
        lane._thread.join(10)
        assert not lane._thread.is_alive()


@pytest.mark.parametrize("lanes", [0, 1, 4])
async def test_everything_is_given_back_once_and_the_lanes_end(lanes: int) -> None:
    lease, place = Held(), Held()
    loaded = loaded_with(lanes, lease)
    loaded.hold_places([place])  # type: ignore[list-item]
    assert loaded.device == "cpu"
    await loaded.release(10)
    loaded.let_go()
    assert (lease.released, place.released) == (1, 1)
    ended(loaded)


async def test_what_comes_after_the_release_is_given_back_at_once() -> None:
    loaded = loaded_with(0)
    await loaded.release(10)
    lease, place = Held(), Held()
    loaded.hold_lease(lease)  # type: ignore[arg-type]
    loaded.hold_places([place])  # type: ignore[list-item]
    assert (lease.released, place.released) == (1, 1)
    assert loaded.leases == []


async def test_one_that_cannot_be_given_back_does_not_keep_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    held = [Held(), Held(OSError("no")), Held()]
    loaded = loaded_with(1, *held)
    await loaded.release(10)
    assert [one.released for one in held] == [1, 1, 1]
    assert "m@1 did not give all back" in caplog.text
    ended(loaded)


async def test_lane_that_hangs_keeps_everything_until_it_comes_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lease, door = Held(), threading.Event()
    loaded = loaded_with(2, lease)
    assert not loaded.busy_before(float("inf"))
    loaded.lanes[1].post(lambda _lane: door.wait(10))
    await until(lambda: loaded.busy_before(float("inf")))
    await loaded.release(0.01)
    assert "m@1 has hooks that still run: device and weights are kept" in caplog.text
    assert lease.released == 0
    door.set()
    ended(loaded)
    assert lease.released == 1


async def test_instances_are_dropped_even_those_that_cannot_be_watched() -> None:
    class Slotted:
        __slots__ = ()

    class Plain:
        pass

    kept = Plain()
    loaded = loaded_with(4)
    for lane, instance in zip(loaded.lanes[:0:-1], (Slotted(), Plain(), kept), strict=True):
        loaded.hold_instance(lane, instance)
    del instance
    assert loaded.first_lanes() == loaded.lanes[1:]
    assert [type(instance) for instance in loaded.instances] == [Plain, Plain, Slotted]
    assert loaded.instances[0] is kept
    assert [loaded.drop_instance(lane) for lane in loaded.lanes] == [False, True, False, True]
    assert loaded.instances == loaded.first_lanes() == []
    await loaded.release(10)
    ended(loaded)


async def test_thread_gives_back_what_its_work_returns_or_raises() -> None:
    assert await in_thread(lambda a: a + 1, 1) == 2
    with pytest.raises(ZeroDivisionError):
        await in_thread(lambda: 1 / 0)
    for error in (SystemExit, StopIteration):

        def work(error: type[BaseException] = error) -> None:
            raise error

        with pytest.raises(RuntimeError, match=error.__name__):
            await in_thread(work)


async def test_thread_that_nobody_waits_for_any_more_is_left_to_itself() -> None:
    door, done = threading.Event(), threading.Event()

    def work() -> None:
        door.wait(10)
        done.set()

    task = asyncio.ensure_future(in_thread(work))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    door.set()
    assert await asyncio.to_thread(done.wait, 10)
