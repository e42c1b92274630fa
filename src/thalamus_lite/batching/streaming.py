"""Running a ``predict`` that yields: one request, its outputs handed over as they come.

``preprocess`` sees the request's inputs before the first output; ``postprocess`` sees each output
by itself, in a list of one. An output is dumped before the generator goes on. ``predict_s`` ends
with the last output, and the wait for a slow reader is in none of the times.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from thalamus_lite.batching.execution import call, failed, tell
from thalamus_lite.batching.lane import as_list, outlive

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from thalamus_lite.batching.group import LaneGroup, PendingRequest
    from thalamus_lite.batching.lane import Hooks, Lane

    Ended = Callable[[BaseException | None, bool], None]


class _Sums:
    """Seconds, over all outputs."""

    __slots__ = ("finish_s", "predict_s")

    def __init__(self) -> None:
        self.predict_s = self.finish_s = 0.0

    def add(self, predict_s: float, finish_s: float) -> None:
        self.predict_s += predict_s
        self.finish_s += finish_s

    def write(self, pending: PendingRequest, group: LaneGroup) -> None:
        """What comes after ``predict`` is ``postprocess``, or else the wait for the device, which
        is ``predict``'s.
        """
        times = pending.times
        if group.hooks[0].postprocess is None:
            times.predict_s = self.predict_s + self.finish_s
        else:
            times.predict_s, times.postprocess_s = self.predict_s, self.finish_s


def stream_in_lane(
    pending: PendingRequest,
    group: LaneGroup,
    loop: asyncio.AbstractEventLoop,
    ended: Ended,
    lane: Lane,
) -> None:
    """A plain generator, in the lane's thread and stream.

    Each output is complete before it is handed over.
    """
    channel = pending.channel
    assert channel is not None
    error: BaseException | None = None
    clock = time.perf_counter
    times = _Sums()
    try:
        hooks = group.hooks[group.lanes.index(lane)]
        start = clock()
        stream = lane.open_stream()
        with stream:
            prepared = _preprocess(hooks, pending, start)
            resumed = clock()
            outputs = hooks.predict(prepared)
            try:
                for output in outputs:
                    made = clock()
                    items = [output]
                    if (postprocess := hooks.postprocess) is not None:
                        # One that yields runs here, ahead of the event.
                        items = as_list(postprocess(items))
                    stream.record().synchronize()
                    times.add(made - resumed, clock() - made)
                    for item in items:
                        dumped = channel.dump(item)
                        # The wait for a slow reader is not the model's.
                        lane.busy_since = None
                        if not channel.put(dumped):
                            return
                        lane.touch()
                    # Also where postprocess has dropped the output.
                    if channel.closed:
                        return
                    lane.touch()
                    resumed = clock()
            finally:
                # What the generator does when it is closed is the model's time again; what it
                # queued, and may let go, is waited for.
                lane.touch()
                outlive(stream)
                _close(outputs)
    except BaseException as raised:
        error = raised
    finally:
        times.write(pending, group)
        fatal = error is not None and failed(error, lane.backend).fatal
        tell(loop, ended, error, fatal)
        # Its traceback knows this frame, which must not know the error.
        del error


def _preprocess(hooks: Hooks, pending: PendingRequest, start: float) -> Any:
    if (preprocess := hooks.preprocess) is None:
        return pending.inputs
    prepared = preprocess(pending.inputs)
    pending.times.preprocess_s = time.perf_counter() - start
    return prepared


def postprocessed(hooks: Hooks, items: list[Any]) -> list[Any]:
    """What ``postprocess`` makes of one output, in a list; one that yields is read here."""
    postprocess = hooks.postprocess
    assert postprocess is not None
    return as_list(postprocess(items))


def _close(outputs: Any) -> None:
    # A wrapped predict() may return any iterable.
    close = getattr(outputs, "close", None)
    if close is not None:
        close()


async def stream_on_loop(
    pending: PendingRequest, group: LaneGroup, lane: Lane, ended: Ended
) -> None:
    """An async generator, on the loop; the other hooks run in the lane."""
    channel = pending.channel
    assert channel is not None
    error: BaseException | None = None
    clock = time.perf_counter
    times = _Sums()
    lane.awaiting_since = time.monotonic()
    try:
        hooks = group.hooks[group.lanes.index(lane)]
        start = clock()
        prepared: Any = pending.inputs
        if (preprocess := hooks.preprocess) is not None:
            prepared = await call(lane, preprocess, pending.inputs)
            pending.times.preprocess_s = clock() - start
        resumed = clock()
        outputs = hooks.predict(prepared)
        try:
            async for output in outputs:
                made = clock()
                items = [output]
                if hooks.postprocess is not None:
                    items = await call(lane, postprocessed, hooks, items)
                times.add(made - resumed, clock() - made)
                lane.awaiting_since = None
                for item in items:
                    if not await channel.aput(channel.dump(item)):
                        return
                if channel.closed:
                    return
                lane.awaiting_since = time.monotonic()
                resumed = clock()
        finally:
            close = getattr(outputs, "aclose", None)
            if close is not None:
                await close()
    except BaseException as raised:
        error = raised
    finally:
        lane.awaiting_since = None
        times.write(pending, group)
        fatal = error is not None and failed(error, lane.backend).fatal
        ended(error, fatal)
        del error
