"""What runs again when a pass fails, and the ways between a lane and the event loop."""

import asyncio
import gc
import math
import threading
import weakref
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalamus_lite.batching.execution import (
    call,
    clear_frames,
    failed,
    run_in_lane,
    run_job,
    run_on_loop,
    settle,
    tame,
    tell,
)
from thalamus_lite.batching.lane import Hooks, Lane, Ran
from thalamus_lite.batching.passes import Failed, Report, passes
from thalamus_lite.batching.times import Times
from thalamus_lite.devices.streams import NoStreams


class Memory(MemoryError):
    pass


class Lost(RuntimeError):
    pass


class Backend(NoStreams):
    emptied = 0

    def is_out_of_memory(self, error: BaseException) -> bool:
        return isinstance(error, Memory)

    def is_fatal(self, error: BaseException) -> bool:
        return isinstance(error, Lost)

    def empty_cache(self, device: str) -> None:
        self.emptied += 1


def drive(units: list[list[Any]], model: Any, idempotent: bool = True) -> tuple[Report, list[Any]]:
    """Run ``passes`` with ``model(inputs)``, which returns outputs or an error; and its calls."""
    calls: list[list[Any]] = []
    plan = passes(units, idempotent)
    inputs = next(plan)
    while True:
        calls.append(inputs)
        outcome = model(list(inputs))
        sent: Ran | Failed
        if isinstance(outcome, BaseException):
            sent = Failed(outcome, isinstance(outcome, Memory), isinstance(outcome, Lost))
        else:
            sent = Ran(outcome, Times(0.1, 0.2, 0.3))
        try:
            inputs = plan.send(sent)
        except StopIteration as end:
            return end.value, calls


SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=40)


def units_of(sizes: list[int]) -> list[list[int]]:
    numbers = iter(range(sum(sizes)))
    return [[next(numbers) for _ in range(size)] for size in sizes]


@given(sizes=SIZES, bad=st.sets(st.integers(0, 60)))
def test_only_units_with_a_bad_input_fail_and_the_others_get_their_own(
    sizes: list[int], bad: set[int]
) -> None:
    units = units_of(sizes)

    def model(inputs: list[int]) -> Any:
        return ValueError() if bad & set(inputs) else [-number for number in inputs]

    report, calls = drive(units, model)
    at_fault = 0
    for unit, outputs, error in zip(units, report.outputs, report.errors, strict=True):
        if bad & set(unit):
            at_fault += 1
            assert outputs is None
            assert isinstance(error, ValueError)
        else:
            assert outputs == [-number for number in unit]
            assert error is None
    assert report.passes == len(calls) <= 2 * len(units) - 1
    if at_fault == 1:
        assert len(calls) <= 2 * math.ceil(math.log2(len(units))) + 1
    assert report.clean == (at_fault == 0)
    assert report.oom_sizes == []


@given(
    sizes=SIZES,
    room=st.integers(0, 40),
    huge=st.sets(st.integers(0, 60), max_size=2),
    bad=st.sets(st.integers(0, 60), max_size=2),
)
def test_everything_that_fits_alone_is_answered_however_little_fits_at_once(
    sizes: list[int], room: int, huge: set[int], bad: set[int]
) -> None:
    units = units_of(sizes)

    def model(inputs: list[int]) -> Any:
        if len(inputs) > room or huge & set(inputs):
            return Memory()
        return ValueError() if bad & set(inputs) else list(inputs)

    report, _ = drive(units, model)
    for unit, outputs, error in zip(units, report.outputs, report.errors, strict=True):
        if room and not (huge | bad) & set(unit):
            assert (outputs, error) == (unit, None)
        else:
            assert outputs is None
            assert error is not None
    nothing = all(outputs is None for outputs in report.outputs)
    for size in report.oom_sizes:
        # A size is held against the memory when its halves fit, or when nothing did.
        assert size > room or nothing or huge


@given(sizes=SIZES)
def test_what_is_not_idempotent_runs_once_whatever_happens(sizes: list[int]) -> None:
    for error in (ValueError(), Memory(), Lost()):
        report, calls = drive(units_of(sizes), lambda _inputs, error=error: error, False)
        assert len(calls) == 1
        assert report.errors == [error] * len(sizes)
        assert report.oom_sizes == ([sum(sizes)] if isinstance(error, Memory) else [])


@given(sizes=SIZES, after=st.integers(1, 5))
def test_fatal_error_ends_everything_at_once(sizes: list[int], after: int) -> None:
    calls = 0

    def model(inputs: list[int]) -> Any:
        nonlocal calls
        calls += 1
        return Lost() if calls == after else ValueError()

    report, made = drive(units_of(sizes), model)
    if report.fatal is not None:
        assert len(made) == after
    assert all(error is not None for error in report.errors)


def test_huge_input_is_not_held_against_the_others() -> None:
    report, _ = drive([[number] for number in range(8)], lambda i: Memory() if 3 in i else list(i))
    assert [n for n, error in enumerate(report.errors) if error] == [3]
    assert report.oom_sizes == []


def test_times_are_sums_over_all_passes() -> None:
    report, calls = drive([[1], [2]], lambda i: ValueError() if len(i) > 1 else i)
    assert len(calls) == 3
    assert (report.times.preprocess_s, report.times.predict_s) == (0.2, 0.4)
    assert report.times.seconds == pytest.approx(1.2)
    assert not report.clean


@pytest.fixture
def lane() -> Any:
    made = Lane("lane", "cpu", Backend())
    made.start()
    yield made
    made.stop()
    made._thread.join(10)


class Model:
    def __init__(self, predict: Any) -> None:
        self.predict = predict


def hooks_of(predict: Any) -> Hooks:
    return Hooks(Model(predict))


def test_each_pass_is_progress(lane: Lane) -> None:
    since: list[float | None] = []

    def predict(inputs: list[int]) -> list[int]:
        since.append(lane.busy_since)
        if len(inputs) > 1:
            raise ValueError
        return inputs

    report = run_in_lane(lane, hooks_of(predict), [[1], [2]], True)
    assert report.outputs == [[1], [2]]
    first, *later = since
    assert first is None
    assert all(later)


async def test_batch_of_a_coroutine_model_that_is_cancelled_says_so(lane: Lane) -> None:
    async def predict(inputs: list[int]) -> list[int]:
        await asyncio.Event().wait()
        return inputs

    task = asyncio.ensure_future(run_on_loop(lane, hooks_of(predict), [[1]], True))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_coroutine_that_awaits_what_it_cancelled_fails_for_the_input_at_fault(
    lane: Lane,
) -> None:
    async def predict(inputs: list[int]) -> list[int]:
        if 3 in inputs:
            helper = asyncio.ensure_future(asyncio.sleep(10))
            helper.cancel()
            await helper
        return inputs

    report = await run_on_loop(lane, hooks_of(predict), [[n] for n in range(5)], True)
    assert report.outputs == [[0], [1], [2], None, [4]]
    assert isinstance(report.errors[3], asyncio.CancelledError)


async def test_hook_in_a_lane_is_waited_for_though_its_caller_is_cancelled(lane: Lane) -> None:
    door = threading.Event()
    task = asyncio.ensure_future(call(lane, door.wait, 10))
    await asyncio.sleep(0)
    task.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()
    door.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    door.clear()
    again = asyncio.ensure_future(call(lane, door.wait, 10))
    await asyncio.sleep(0)
    again.cancel()
    await asyncio.sleep(0)
    again.cancel()
    with pytest.raises(asyncio.CancelledError):
        await again
    door.set()


async def test_postprocess_that_yields_runs_in_the_lane(lane: Lane) -> None:
    threads: set[int] = set()

    class Yields:
        async def predict(self, inputs: list[int]) -> list[int]:
            return inputs

        def postprocess(self, outputs: list[int]) -> Any:
            for output in outputs:
                threads.add(threading.get_ident())
                yield output + 1

    report = await run_on_loop(lane, Hooks(Yields()), [[1], [2]], True)
    assert report.outputs == [[2], [3]]
    assert threads == {lane._thread.ident}


class Held:
    """What a hook works with, and must let go when it has failed."""


class Raised(ValueError):
    """One that can be looked for."""


async def test_failed_coroutine_and_its_error_are_no_ring(lane: Lane) -> None:
    held: list[weakref.ref[Any]] = []

    async def predict(inputs: list[int]) -> list[int]:
        local = Held()
        held.append(weakref.ref(local))
        raise Raised

    gc.collect()
    gc.disable()
    try:
        report = await run_on_loop(lane, hooks_of(predict), [[1]], True)
        errors = [weakref.ref(error) for error in report.errors]
        assert held[0]() is None
        del report
        assert errors[0]() is None
    finally:
        gc.enable()


async def test_what_a_lane_returns_or_raises_comes_back_to_the_loop(lane: Lane) -> None:
    assert await run_job(lane, lambda _lane: 5) == 5
    assert await call(lane, lambda a, b: a + b, 1, 2) == 3
    with pytest.raises(ZeroDivisionError):
        await run_job(lane, lambda _lane: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        await call(lane, lambda: 1 / 0)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration])
async def test_what_would_end_a_loop_comes_back_tamed(
    lane: Lane, error: type[BaseException]
) -> None:
    def work(_lane: Lane) -> None:
        raise error("no")

    with pytest.raises(RuntimeError, match=error.__name__) as caught:
        await run_job(lane, work)
    assert isinstance(caught.value.__cause__, error)
    assert isinstance(tame(StopAsyncIteration()), RuntimeError)


async def test_result_that_nobody_waits_for_any_more_is_dropped(lane: Lane) -> None:
    door = threading.Event()
    task = asyncio.ensure_future(run_job(lane, lambda _lane: door.wait(10)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    door.set()
    assert await run_job(lane, lambda _lane: "next") == "next"
    future = asyncio.get_running_loop().create_future()
    settle(future, 1, None)
    settle(future, None, ValueError())
    assert future.result() == 1


def test_telling_a_closed_loop_is_no_error() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    tell(loop, print)


def test_frames_of_an_error_and_of_its_causes_let_go_of_what_they_hold() -> None:
    import weakref

    class Tensor:
        pass

    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()

    def inner() -> None:
        scratch = Tensor()
        alive.add(scratch)
        raise Memory

    def outer() -> None:
        kept = Tensor()
        alive.add(kept)
        try:
            inner()
        except Memory as error:
            other = Tensor()
            alive.add(other)
            raise ValueError from error

    try:
        outer()
    except ValueError as error:
        caught = error
    assert len(alive) == 3
    # A ring of causes ends too.
    assert caught.__cause__ is not None
    caught.__cause__.__context__ = caught
    clear_frames(caught)
    assert not alive
    found = failed(caught, Backend())
    assert (found.out_of_memory, found.fatal) == (False, False)


@pytest.mark.parametrize("merged", [1, 2])
def test_list_that_the_model_uses_again_is_not_the_answer(lane: Lane, merged: int) -> None:
    own: list[int] = []

    def predict(inputs: list[int]) -> list[int]:
        own[:] = inputs
        return own

    first = run_in_lane(lane, hooks_of(predict), [[n] for n in range(merged)], True)
    run_in_lane(lane, hooks_of(predict), [[n + 10] for n in range(merged)], True)
    assert first.outputs == [[n] for n in range(merged)]
