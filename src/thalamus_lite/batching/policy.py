"""What a queue is told to do, and what it has done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """``merges=False``: one request is one batch, whole, whatever its size (``max_batch_size`` is
    then not looked at). ``max_queue_size`` counts waiting inputs. ``takes_slot=False``: its batches
    do not count among those that may run at once on a device; a stream that waits for its reader,
    or a coroutine for the network, would keep the device from every other model."""

    max_batch_size: int
    merges: bool = True
    max_queue_size: int = 1024
    rebound: bool = True
    takes_slot: bool = True

    def __post_init__(self) -> None:
        if self.max_batch_size < 1 or self.max_queue_size < 1:
            raise ValueError("max_batch_size and max_queue_size must be at least 1")


class QueueCounts:
    """Inputs since the queue was made: ``admitted`` = started + expired + cancelled + withdrawn +
    depth.

    ``holds`` counts batches held for a rebound, ``held_s`` their seconds, ``hold_gain`` the inputs
    that joined them.
    """

    __slots__ = (
        "admitted",
        "cancelled",
        "expired",
        "held_s",
        "hold_gain",
        "holds",
        "refused_full",
        "refused_late",
        "started",
        "withdrawn",
    )

    def __init__(self) -> None:
        self.admitted = self.started = self.expired = self.cancelled = self.withdrawn = 0
        self.refused_full = self.refused_late = 0
        self.holds = self.hold_gain = 0
        self.held_s = 0.0
