"""The asyncio side of batching: owns each request until it is answered, once.

The policy (``queue.py``) says which inputs run together and when; lanes run them; this module
carries requests in, batches out and results back. Everything here happens on the event loop, except
the bodies of jobs, which run in a lane.
"""

from __future__ import annotations

import asyncio
import functools
import time
from typing import TYPE_CHECKING, Any

from thalamus_lite.batching.alarm import Alarm
from thalamus_lite.batching.channel import ReaderStalled
from thalamus_lite.batching.disconnects import Disconnects
from thalamus_lite.batching.execution import bare, run_in_lane, run_on_loop, tell
from thalamus_lite.batching.streaming import stream_in_lane, stream_on_loop
from thalamus_lite.batching.tasks import Tasks
from thalamus_lite.batching.ticket import DONE, QUEUED
from thalamus_lite.errors import (
    DeadlineExceeded,
    LaneHung,
    ModelError,
    ModelUnloading,
    ThalamusError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from thalamus_lite.batching.group import LaneGroup, PendingRequest
    from thalamus_lite.batching.lane import Lane
    from thalamus_lite.batching.passes import Report
    from thalamus_lite.batching.queue import Scheduler
    from thalamus_lite.batching.ticket import Batch, Ticket


class Batcher:
    """All models of one app: one scheduler, one event loop."""

    def __init__(self, scheduler: Scheduler, loop: asyncio.AbstractEventLoop) -> None:
        self.scheduler = scheduler
        self.clock: Callable[[], float] = time.monotonic
        self.on_fatal: Callable[[BaseException], None] = lambda _error: None
        self._groups: dict[Any, LaneGroup] = {}
        self._stopped = False
        self.tasks = Tasks(loop)
        self.rebind(loop)

    def rebind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work under ``loop``. An earlier one is closed by now, with nothing under way."""
        self.loop = loop
        self._armed = False
        self._alarm = Alarm(loop, self._dispatch)
        self.tasks = Tasks(loop, self.tasks.context)
        self.disconnects = Disconnects(loop, lambda: self.clock(), self.tasks.spawn, self.cancel)
        self._arrived = self.disconnects.arrived

    @property
    def unanswered(self) -> int:
        """Requests without an answer; a stream is its reader's to count."""
        return sum(len(group.live) for group in self._groups.values() if not group.streams)

    def add(self, group: LaneGroup) -> None:
        """Take a loaded model into service."""
        group.queue = self.scheduler.add(
            group.key,
            group.queue_policy,
            [(lane.device, index) for index, lane in enumerate(group.lanes)],
        )
        self._groups[group.key] = group

    def remove(self, group: LaneGroup) -> None:
        """Take a drained model out of service."""
        self._groups.pop(group.key, None)
        for ticket in self.scheduler.remove(group.queue, self.clock()):
            self._finish(ticket, ModelUnloading())

    def submit(self, pending: PendingRequest, group: LaneGroup) -> None:
        """Queue a request; its ``future`` is done when it is answered.

        Raises:
            QueueFull, RequestTooLarge, DeadlineExceeded: refused, and nothing was queued.
        """
        now = self.clock()
        pending.group = group
        self.scheduler.arrive(group.queue, pending, now)
        pending.future = self.loop.create_future()
        group.live.add(pending)
        if pending.deadline is not None:
            pending.timer = self.loop.call_later(
                max(pending.deadline - now, 0.0), self._expire, pending
            )
        self._arrived.add(group)
        if not self._armed:
            self._armed = True
            self.loop.call_soon(self._dispatch)

    def cancel(self, pending: PendingRequest, error: ThalamusError) -> None:
        """Answer a request now. What of it waits never runs; what runs is thrown away."""
        runs = pending.state is not DONE
        if runs:
            self.scheduler.cancel(pending, self.clock())
        self._finish(pending, error)
        channel = pending.channel
        if channel is not None and not channel.closed:
            channel.close()
            if runs:
                # A generator that waits for its next output would not see a closed channel.
                pending.group.cancel_unwanted()

    def fail_waiting(self, group: LaneGroup, error: ThalamusError) -> None:
        """Answer all that still waits for a lane of ``group`` and has no deadline of its own."""
        for pending in group.waiting():
            if pending.deadline is None:
                self.cancel(pending, error)

    def fail_all(self, error: ThalamusError) -> None:
        """Answer everything, of every model: the drain's time is over."""
        for group in self._groups.values():
            for pending in list(group.live):
                self.cancel(pending, error)
            group.cancel_unwanted()

    def fail_queued(self, error: ThalamusError) -> None:
        """Answer everything that waits for a lane, of every model."""
        for group in self._groups.values():
            for pending in group.waiting():
                self.cancel(pending, error)

    def stop(self) -> None:
        """Dispatch no more: a device has failed."""
        self._stopped = True

    async def aclose(self) -> None:
        """End the coroutines of models; one that refuses to end is left to itself."""
        await self.tasks.aclose()

    def _dispatch(self) -> None:
        self._armed = False
        if self._stopped:
            return
        plan = self.scheduler.dispatch(self.clock())
        for batch in plan.batches:
            self._start(batch)
        for ticket in plan.expired:
            self._finish(ticket, DeadlineExceeded())
        if plan.wake_at is not None:
            self._alarm.set(plan.wake_at, self.clock())
        if self._arrived:
            self.disconnects.sort()

    def _start(self, batch: Batch) -> None:
        group: LaneGroup = batch.chunks[0].ticket.group  # type: ignore[attr-defined]
        lane = group.lanes[batch.lane.index]
        group.running += 1
        if group.streams:
            pending: PendingRequest = batch.chunks[0].ticket  # type: ignore[assignment]
            pending.begin_stream(batch)
            ended = functools.partial(self._stream_ended, batch, group)
            if group.on_loop:
                self._run_task(batch, group, stream_on_loop(pending, group, lane, ended))
            else:
                lane.post(functools.partial(stream_in_lane, pending, group, self.loop, ended))
        elif group.on_loop:
            self._run_task(batch, group, self._run_on_loop(batch, group, lane))
        else:
            lane.post(functools.partial(self._run_in_lane, batch, group))

    def _run_in_lane(self, batch: Batch, group: LaneGroup, lane: Lane) -> None:
        try:
            hooks = group.hooks[batch.lane.index]
            report = run_in_lane(lane, hooks, group.units(batch), group.idempotent)
        except BaseException as error:
            # What a hook raises is caught further in: this lane dies, and its batch with it.
            tell(self.loop, self._complete, batch, group, group.lost(batch, error))
            raise
        tell(self.loop, self._complete, batch, group, report)
        del batch, report  # an error's traceback leads here, and must not lead on to itself

    async def _run_on_loop(self, batch: Batch, group: LaneGroup, lane: Lane) -> None:
        lane.awaiting_since = time.monotonic()
        try:
            hooks = group.hooks[batch.lane.index]
            report = await run_on_loop(lane, hooks, group.units(batch), group.idempotent)
        except BaseException as error:
            report = group.lost(batch, bare(error))
        finally:
            lane.awaiting_since = None
        self._complete(batch, group, report)
        del batch, report  # as above

    def _run_task(self, batch: Batch, group: LaneGroup, work: Coroutine[Any, Any, None]) -> None:
        task = self.tasks.spawn(work, functools.partial(self._task_ended, batch, group))
        group.tasks[batch.lane.index] = (batch, task)

    def _task_ended(self, batch: Batch, group: LaneGroup, task: asyncio.Task[None]) -> None:
        self.tasks.forget(task)
        if batch.open:
            # Cancelled before its first step, so that none of its own code has run.
            self._complete(batch, group, group.lost(batch, asyncio.CancelledError()))

    def _complete(self, batch: Batch, group: LaneGroup, report: Report) -> None:
        now = self.clock()
        report.times.executed = batch.size
        for index, chunk in enumerate(batch.chunks):
            chunk.ticket.collect(chunk, report, index, batch)  # type: ignore[attr-defined]
        for size in report.oom_sizes:
            self.scheduler.shrink(group.queue, size, now)
        if report.clean:
            self.scheduler.done(batch, now, took_s=report.times.seconds)
        else:
            self.scheduler.done(batch, now, ran=0)
        self._lane_done(batch, group, now)
        for chunk in batch.chunks:
            pending: PendingRequest = chunk.ticket  # type: ignore[assignment]
            if pending.state is DONE:
                self._finish(pending, pending.error)
        group.observe(batch, report)
        if report.fatal is not None:
            self.on_fatal(report.fatal)
        if group.queue.depth or batch.lane.share.device.wanted:
            self._dispatch()

    def _stream_ended(
        self, batch: Batch, group: LaneGroup, error: BaseException | None, fatal: bool
    ) -> None:
        pending: PendingRequest = batch.chunks[0].ticket  # type: ignore[assignment]
        now = self.clock()
        # What its reader took is not the model's. Nothing is learned from it.
        self.scheduler.done(batch, now, ran=0, took_s=pending.times.seconds)
        self._lane_done(batch, group, now)
        wrapped = error if isinstance(error, ModelError | ReaderStalled) else None
        if error is not None and wrapped is None:
            wrapped = ModelError(f"{group.key} failed: {type(error).__name__}")
            wrapped.__cause__ = error
        self._finish(pending, wrapped)
        group.observe(batch, None)
        if fatal and error is not None:
            self.on_fatal(error)
        self._dispatch()

    def _lane_done(self, batch: Batch, group: LaneGroup, now: float) -> None:
        index = batch.lane.index
        group.running -= 1
        group.tasks.pop(index, None)
        if group.hung.pop(index, None):
            self.scheduler.lane_restored(batch.lane, now)
            group.on_recovered()
        group.check_idle()

    def _finish(self, ticket: Ticket, error: ThalamusError | None) -> None:
        pending: PendingRequest = ticket  # type: ignore[assignment]
        if pending.timer is not None:
            pending.timer.cancel()
            pending.timer = None
        if pending.watcher is not None:
            pending.watcher.cancel()
            pending.watcher = None
        group = pending.group
        group.live.discard(pending)
        if pending.channel is not None:
            # Its reader waits on the channel, and nobody on the future.
            pending.channel.end(error)
            error = None
        future = pending.future
        if not future.done():
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
        if not group.live:
            group.check_idle()

    def _expire(self, pending: PendingRequest) -> None:
        pending.timer = None
        if pending.channel is not None and pending.state is not QUEUED:
            # It covers the first output of a stream, and then each gap: the reader keeps it.
            return
        self.cancel(pending, DeadlineExceeded())
        pending.group.cancel_unwanted()

    def check_lanes(self, limit_s: float) -> None:
        """Give up lanes whose job has made no progress for ``limit_s``, so that siblings go on."""
        now = time.monotonic()
        for group in list(self._groups.values()):
            for index in group.stuck(now - limit_s):
                slot = group.queue.lanes[index]
                if slot.batch is None:
                    continue
                group.hung[index] = True
                self.scheduler.lane_lost(slot, self.clock())
                # Without a deadline they may wait for ever: not for a client that is gone.
                self.disconnects.watch(c.ticket for c in slot.batch.chunks)  # type: ignore[misc]
                if len(group.hung) == len(group.lanes):
                    group.on_hung()
                    self.fail_waiting(group, LaneHung())
        self._dispatch()
