"""What the batcher knows of one loaded model, and of one request to it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from thalamus_lite.batching.passes import Report
from thalamus_lite.batching.ticket import QUEUED, Ticket
from thalamus_lite.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from thalamus_lite.batching.channel import Channel
    from thalamus_lite.batching.lane import Hooks, Lane
    from thalamus_lite.batching.queue import ModelQueue, QueuePolicy
    from thalamus_lite.batching.ticket import Batch, Chunk
    from thalamus_lite.errors import ThalamusError


class PendingRequest(Ticket):
    """One request between admission and answer.

    ``future`` is done once; results are in the other fields. Seconds are sums over the batches that
    the request was part of; ``executed`` is the size of the largest.
    """

    __slots__ = (
        "channel",
        "disconnected",
        "error",
        "executed",
        "future",
        "group",
        "inputs",
        "outputs",
        "postprocess_s",
        "predict_s",
        "preprocess_s",
        "queue_s",
        "timer",
        "watcher",
    )

    def __init__(
        self,
        group: LaneGroup,
        inputs: list[Any],
        deadline: float | None,
        future: asyncio.Future[None],
        disconnected: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        Ticket.__init__(self, len(inputs), deadline)
        self.group = group
        self.inputs = inputs
        self.future = future
        self.disconnected = disconnected
        self.channel: Channel | None = None
        self.outputs: list[Any] = []
        self.error: ThalamusError | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.watcher: asyncio.Task[None] | None = None
        self.queue_s: float | None = None
        self.preprocess_s: float | None = None
        self.predict_s = 0.0
        self.postprocess_s: float | None = None
        self.executed = 0

    def started(self, batch: Batch) -> None:
        """The first batch with a part of this request begins to run."""
        if self.queue_s is None:
            self.queue_s = batch.started_at - self.enqueued_at
        self.executed = max(self.executed, batch.size)

    def collect(self, chunk: Chunk, report: Report, index: int, batch: Batch) -> None:
        """Take this request's part of a finished batch."""
        self.started(batch)
        self.predict_s += report.predict_s
        if report.preprocess_s is not None:
            self.preprocess_s = (self.preprocess_s or 0.0) + report.preprocess_s
        if report.postprocess_s is not None:
            self.postprocess_s = (self.postprocess_s or 0.0) + report.postprocess_s
        outputs = report.outputs[index]
        if outputs is None:
            self.failed = True
            if self.error is None:
                cause = report.errors[index]
                self.error = ModelError(f"{self.group.key} failed: {type(cause).__name__}")
                self.error.__cause__ = cause
        elif len(outputs) == self.size:
            self.outputs = outputs
        else:
            if not self.outputs:
                self.outputs = [None] * self.size
            self.outputs[chunk.start : chunk.stop] = outputs


class LaneGroup:
    """The lanes of one loaded model, the hooks each of them runs, and the requests under way."""

    def __init__(
        self,
        key: str,
        lanes: list[Lane],
        hooks: list[Hooks],
        queue_policy: QueuePolicy,
        *,
        idempotent: bool,
        streams: bool,
        on_loop: bool,
    ) -> None:
        self.key = key
        self.lanes = lanes
        self.hooks = hooks
        self.queue_policy = queue_policy
        self.idempotent = idempotent
        self.streams = streams
        self.on_loop = on_loop
        self.queue: ModelQueue = None  # type: ignore[assignment]  # set when it enters service
        self.live: set[PendingRequest] = set()
        self.running = 0
        self.hung: dict[int, bool] = {}
        self.tasks: dict[int, tuple[Batch, asyncio.Task[None]]] = {}
        self.on_hung: Callable[[], None] = _nothing
        self.on_recovered: Callable[[], None] = _nothing
        # The report is None for a stream.
        self.observe: Callable[[Batch, Report | None], None] = _observe_nothing
        self._idle: asyncio.Future[None] | None = None

    def units(self, batch: Batch) -> list[list[Any]]:
        """The inputs of a batch, a list for each request in it."""
        units: list[list[Any]] = []
        for chunk in batch.chunks:
            inputs: list[Any] = chunk.ticket.inputs  # type: ignore[attr-defined]
            whole = chunk.start == 0 and chunk.stop == len(inputs)
            units.append(inputs if whole else inputs[chunk.start : chunk.stop])
        return units

    def lost(self, batch: Batch, error: BaseException) -> Report:
        """The report of a batch that did not come to an end of its own."""
        count = len(batch.chunks)
        return Report([None] * count, [error] * count)

    def queued(self) -> list[PendingRequest]:
        """The requests of which nothing has begun to run."""
        return [pending for pending in self.live if pending.state is QUEUED]

    def cancel_unwanted(self) -> None:
        """Stop coroutines that nobody waits for any more; a thread cannot be stopped."""
        for index, (batch, task) in list(self.tasks.items()):
            if all(chunk.ticket.future.done() for chunk in batch.chunks):  # type: ignore[attr-defined]
                # Once only: a second time would interrupt what it does to clean up.
                del self.tasks[index]
                task.cancel()

    def stuck(self, before: float) -> list[int]:
        """Lanes without progress since ``before`` that are not known to hang."""
        return [
            index
            for index, lane in enumerate(self.lanes)
            if index not in self.hung
            and (since := lane.awaiting_since if self.on_loop else lane.busy_since) is not None
            and since <= before
        ]

    @property
    def idle(self) -> bool:
        return not self.live and self.running == 0

    async def drained(self) -> None:
        """Wait until every request is answered and every lane is free."""
        if self.idle:
            return
        if self._idle is None:
            self._idle = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._idle)

    def check_idle(self) -> None:
        if self._idle is not None and self.idle:
            if not self._idle.done():
                self._idle.set_result(None)
            self._idle = None


def _nothing() -> None:
    return None


def _observe_nothing(batch: Batch, report: Report | None) -> None:
    return None
