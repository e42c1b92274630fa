"""What the batcher knows of one loaded model, and of one request to it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from thalamus_lite.batching.passes import Report
from thalamus_lite.batching.ticket import Ticket
from thalamus_lite.batching.times import NONE, Times
from thalamus_lite.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from thalamus_lite.batching.channel import Channel
    from thalamus_lite.batching.lane import Hooks, Lane
    from thalamus_lite.batching.queue import ModelQueue, QueuePolicy
    from thalamus_lite.batching.ticket import Batch, Chunk
    from thalamus_lite.errors import ThalamusError


_NO_OUTPUTS: list[Any] = []


class PendingRequest(Ticket):
    """One request to a model, from its validation to its answer.

    ``received`` and ``deadline`` are monotonic seconds, ``disconnected`` waits for its client to
    leave. ``group`` and ``future`` are set when it is submitted; the future is done once, and what
    became of the request is in the other fields.
    """

    __slots__ = (
        "channel",
        "disconnected",
        "error",
        "future",
        "group",
        "inputs",
        "outputs",
        "queue_s",
        "received",
        "timeout_s",
        "timer",
        "times",
        "watcher",
    )

    def __init__(
        self,
        inputs: list[Any],
        received: float = 0.0,
        timeout_s: float | None = None,
        disconnected: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        Ticket.__init__(self, len(inputs), None if timeout_s is None else received + timeout_s)
        self.inputs = inputs
        self.received = received
        self.timeout_s = timeout_s
        self.disconnected = disconnected
        self.group: LaneGroup = None  # type: ignore[assignment]
        self.future: asyncio.Future[None] = None  # type: ignore[assignment]
        self.channel: Channel | None = None
        self.outputs = _NO_OUTPUTS
        self.error: ThalamusError | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.watcher: asyncio.Task[None] | None = None
        self.queue_s = 0.0
        self.times = NONE

    def begin_stream(self, batch: Batch) -> None:
        """The one batch of a stream begins to run."""
        self.queue_s = batch.started_at - self.enqueued_at
        self.times = Times(executed=batch.size)

    def collect(self, chunk: Chunk, report: Report, index: int, batch: Batch) -> None:
        """Take this request's part of a finished batch."""
        if self.times is NONE:
            self.queue_s = batch.started_at - self.enqueued_at
            self.times = report.times
        else:
            self.times += report.times
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
        device: str = "cpu",
    ) -> None:
        self.key = key
        self.device = device
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
        # Told of each request that was answered with outputs, and its seconds.
        self.answered: Callable[[PendingRequest, float], None] = _observe_nothing
        # The report is None for a stream.
        self.observe: Callable[[Batch, Report | None], None] = _observe_nothing
        # What the metrics have of the queue's and the lanes' counts.
        self.told: tuple[float, float, float] = (0, 0, 0)
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

    def waiting(self) -> list[PendingRequest]:
        """The requests of which something waits for a lane, if only the rest of a long one."""
        return [pending for pending in self.live if pending.queue is not None]

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
            and (since := lane.working_since) is not None
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


def _observe_nothing(_what: object, _detail: object) -> None:
    return None
