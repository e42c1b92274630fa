"""Running one batch to the end: in a lane or on the event loop, and the ways between the two."""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
import traceback
from typing import TYPE_CHECKING, Any

from thalamus_lite.batching.lane import Ran, as_outputs, outlive
from thalamus_lite.batching.passes import Failed, Report, passes
from thalamus_lite.batching.times import Times

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from thalamus_lite.batching.lane import Hooks, Lane
    from thalamus_lite.devices.streams import StreamBackend


def run_in_lane(lane: Lane, hooks: Hooks, units: Sequence[list[Any]], idempotent: bool) -> Report:
    """Run a batch to the end in the calling thread, which is the lane's."""
    plan = passes(units, idempotent)
    inputs = next(plan)
    while True:
        outcome = _attempt(lane, hooks, inputs)
        if isinstance(outcome, Failed) and outcome.out_of_memory:
            # The except block and its traceback, which held the pass's tensors, are gone by now.
            _empty_cache(lane)
        try:
            inputs = plan.send(outcome)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        finally:
            # An error's traceback knows this frame, by way of its own: it must not lead back.
            del outcome
        # Each pass is progress: a search among many inputs is no hang.
        lane.touch()


def _empty_cache(lane: Lane) -> None:
    lane.backend.empty_cache(lane.device)


def _attempt(lane: Lane, hooks: Hooks, inputs: list[Any]) -> Ran | Failed:
    try:
        return hooks.run(lane, inputs)
    except BaseException as error:  # sys.exit() in a hook must not end the lane
        return failed(error, lane.backend)


def failed(error: BaseException, backend: StreamBackend) -> Failed:
    """What ``error`` means for the batch, the memory and the device."""
    out_of_memory = backend.is_out_of_memory(error)
    fatal = not out_of_memory and backend.is_fatal(error)
    clear_frames(error)
    return Failed(error, out_of_memory, fatal)


def clear_frames(error: BaseException) -> None:
    """Let go of what the frames of ``error`` and its causes hold: tensors, or half a model.

    Whoever logs the error, or waits for a collection, would keep them on the device.
    """
    links: list[BaseException | None] = [error]
    seen: set[int] = set()
    while links:
        link = links.pop()
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            traceback.clear_frames(link.__traceback__)
            links += [link.__cause__, link.__context__]
            if isinstance(link, BaseExceptionGroup):
                links += link.exceptions


def bare(error: BaseException) -> BaseException:
    """A cancellation, without the frames that it went through: they hold the batch, and the hook's
    tensors.
    """
    clear_frames(error)
    return error.with_traceback(None)


async def run_on_loop(
    lane: Lane, hooks: Hooks, units: Sequence[list[Any]], idempotent: bool
) -> Report:
    """The same where ``predict`` is ``async def``: it runs on the loop, sync hooks in the lane."""
    plan = passes(units, idempotent)
    inputs = next(plan)
    while True:
        outcome: Ran | Failed
        try:
            outcome = await _pass_on_loop(lane, hooks, inputs)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and _is_being_cancelled():
                plan.close()
                raise
            outcome = failed(error, lane.backend)
        if isinstance(outcome, Failed) and outcome.out_of_memory:
            await run_job(lane, _empty_cache)
        try:
            inputs = plan.send(outcome)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        finally:
            del outcome  # as above
        lane.awaiting_since = time.monotonic()


def _is_being_cancelled() -> bool:
    """Whether this task was told to stop; a hook may also await what it has cancelled itself."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _pass_on_loop(lane: Lane, hooks: Hooks, inputs: list[Any]) -> Ran:
    clock = time.perf_counter
    count = len(inputs)
    pre_s = post_s = None
    start = clock()
    prepared: Any = inputs
    if (preprocess := hooks.preprocess) is not None:
        prepared = await call(lane, preprocess, inputs)
        pre_s = clock() - start
    predict_start = clock()
    if hooks.hidden:
        outputs = await _call_hidden(lane, hooks.predict, prepared)
    else:
        outputs = await hooks.predict(prepared)
    predicted_at = clock()
    if (postprocess := hooks.postprocess) is None:
        listed = as_outputs(outputs, count)
    else:
        # One that yields runs here, where its results are read.
        listed = await call(lane, lambda: as_outputs(postprocess(outputs), count))
        post_s = clock() - predicted_at
    return Ran(listed, Times(pre_s, predicted_at - predict_start, post_s))


async def call(lane: Lane, function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a hook in a lane's thread, inside its stream; its result is complete on the device.

    Cancelled, it still waits for the hook, which cannot be stopped: until then its lane is not
    free. A second time it does not.
    """

    def work(lane: Lane) -> Any:
        stream = lane.open_stream()
        try:
            with stream:
                result = function(*arguments)
                done = stream.record()
        except BaseException:
            outlive(stream)
            raise
        done.synchronize()
        return result

    future = _posted(lane, work)
    try:
        await asyncio.wait([future])
    except asyncio.CancelledError:
        await asyncio.wait([future])
        # Nobody wants it any more, not even its error.
        future.exception()
        raise
    try:
        return future.result()
    finally:
        # The error it may have raised knows this frame.
        del future


async def _call_hidden(lane: Lane, predict: Callable[[Any], Any], prepared: Any) -> Any:
    """An ``async def predict`` below a plain decorator, which may hand its coroutine on, or run it
    to the end in an event loop of its own, and for that it must not be called on this one.
    """
    made = await call(lane, predict, prepared)
    return await made if inspect.isawaitable(made) else made


async def run_job(lane: Lane, work: Callable[[Lane], Any]) -> Any:
    """Run ``work(lane)`` in a lane's thread and wait for it on the loop."""
    return await _posted(lane, work)


def _posted(lane: Lane, work: Callable[[Lane], Any]) -> asyncio.Future[Any]:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    lane.post(functools.partial(report_to, loop, future, work))
    return future


def report_to(
    loop: asyncio.AbstractEventLoop,
    future: asyncio.Future[Any],
    work: Callable[..., Any],
    *arguments: Any,
) -> None:
    """Settle a future of ``loop`` by what ``work(*arguments)``, run here, comes to."""
    result: Any = None
    raised: BaseException | None = None
    try:
        result = work(*arguments)
    except BaseException as error:
        raised = error
    tell(loop, settle, future, result, raised)
    # The error knows this frame: without this, a ring would keep all that its frames hold, a model
    # that could not be loaded for one, until the next collection.
    del future, raised, result


def settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    """Resolve a future by what another thread's work came to, unless nobody waits any more."""
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(tame(error))


def tame(error: BaseException) -> Exception:
    """What a hook raised, as an error that an event loop survives.

    A future refuses StopIteration, and SystemExit or KeyboardInterrupt would end the loop.
    """
    if isinstance(error, Exception) and not isinstance(error, StopIteration | StopAsyncIteration):
        return error
    wrapped = RuntimeError(f"a hook raised {type(error).__name__}")
    wrapped.__cause__ = error
    return wrapped


def tell(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *arguments: Any) -> None:
    """``call_soon_threadsafe``, from a lane that may outlive its loop."""
    try:
        loop.call_soon_threadsafe(function, *arguments)
    except RuntimeError:
        # The loop is closed: whoever waited is gone with it.
        return
