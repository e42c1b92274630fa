"""What the scheduling policy moves around: a request, a slice of it, a batch, a lane.

A ticket is one request as the policy sees it: how many inputs, until when. What the inputs are is
the batcher's business; it subclasses ``Ticket``. The policy alone writes ``state``:

    NEW ──arrive──▶ QUEUED ──first chunk taken──▶ RUNNING ──last chunk done──▶ DONE
     └──refused──▶ DONE └──cancelled, expired, queue removed──▶ DONE

A ticket longer than a batch runs as several chunks. It is RUNNING from its first one, while the
rest of it still waits; cancelling it, expiry or a failed chunk drops the rest, and it is DONE when
the chunks that already run have come back.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thalamus_lite.batching.fairness import Share
    from thalamus_lite.batching.model_queue import ModelQueue


class TicketState(Enum):
    NEW = "new"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"


NEW, QUEUED, RUNNING, DONE = TicketState

MOVES: dict[TicketState, frozenset[TicketState]] = {
    NEW: frozenset({QUEUED, DONE}),
    QUEUED: frozenset({RUNNING, DONE}),
    RUNNING: frozenset({DONE}),
    DONE: frozenset(),
}


class Ticket:
    """One request.

    ``size`` counts its inputs; ``deadline`` is absolute monotonic seconds. ``taken`` inputs have
    been handed to lanes, in ``pending_chunks`` chunks that have not come back. The batcher sets
    ``failed`` before ``Scheduler.done`` to say that the rest of the ticket is not worth running.
    """

    __slots__ = (
        "after",
        "before",
        "deadline",
        "due",
        "enqueued_at",
        "failed",
        "pending_chunks",
        "queue",
        "size",
        "state",
        "taken",
    )

    def __init__(self, size: int, deadline: float | None = None) -> None:
        self.size = size
        self.deadline = deadline
        self.enqueued_at = 0.0
        self.state = NEW
        self.taken = 0
        self.pending_chunks = 0
        self.failed = False
        # Where it waits, while it does: its neighbours there, its place among the deadlines.
        self.queue: ModelQueue | None = None
        self.before: Ticket | None = None
        self.after: Ticket | None = None
        self.due = 0


class Chunk:
    """Inputs ``start`` to ``stop`` of one ticket."""

    __slots__ = ("start", "stop", "ticket")

    def __init__(self, ticket: Ticket, start: int, stop: int) -> None:
        self.ticket = ticket
        self.start = start
        self.stop = stop


class LaneSlot:
    """One lane as the policy sees it: which device, which of its queue's lanes, what it runs."""

    __slots__ = ("batch", "index", "lost", "share")

    def __init__(self, share: Share, index: int) -> None:
        self.share = share
        self.index = index
        self.batch: Batch | None = None
        self.lost = False

    @property
    def device(self) -> str:
        return self.share.device.key

    @property
    def free(self) -> bool:
        return self.batch is None and not self.lost


class Batch:
    """What one lane runs in one call: ``chunks`` of ``size`` inputs in all, in this order."""

    __slots__ = ("chunks", "expected_s", "lane", "open", "queue", "size", "started_at")

    def __init__(self, queue: ModelQueue, lane: LaneSlot, chunks: list[Chunk], size: int) -> None:
        self.queue = queue
        self.lane = lane
        self.chunks = chunks
        self.size = size
        self.started_at = 0.0
        self.expected_s = 0.0
        self.open = True
