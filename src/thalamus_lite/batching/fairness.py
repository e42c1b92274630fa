"""Which model a device serves next.

Start-time fair queueing over device seconds: each model's share of a device carries a virtual time
that grows by the cost of its batches, and the least one goes first. A share that comes back from
idleness starts at the device's own clock, so idleness banks no credit. With a deadline that another
batch in between would break, a model may go first; it borrows the time, a few turns at most.

A device whose batches are not limited never has two models compete, and then none of this decides
anything. Only models with something to run are in the heaps, so idle ones cost nothing.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thalamus_lite.batching.model_queue import ModelQueue
    from thalamus_lite.batching.ticket import LaneSlot

_TURNS_TO_BORROW = 4.0
_TURN_DECAY = 0.95
_SPARE_ENTRIES = 64


class Share:
    """One queue's part of one device: its free lanes there, and the device time it has had."""

    __slots__ = ("device", "entered", "free", "queue", "stamp", "virtual")

    def __init__(self, queue: ModelQueue, device: Device) -> None:
        self.queue = queue
        self.device = device
        self.free: list[LaneSlot] = []
        self.virtual = 0.0
        self.entered = False
        self.stamp = 0

    @property
    def startable(self) -> int:
        """How many batches could start here now."""
        device = self.device
        if device.slots is None:
            return len(self.free)
        return max(0, min(len(self.free), device.slots - device.running))


class Device:
    """What runs on one device, and who waits for it. ``slots`` limits the batches at once."""

    __slots__ = (
        "_clock",
        "_fair",
        "_stamp",
        "_turn",
        "_urgent",
        "key",
        "load_s",
        "running",
        "slots",
    )

    def __init__(self, key: str, slots: int | None) -> None:
        self.key = key
        self.slots = slots
        self.running = 0
        # Expected seconds of what runs now: the least loaded replica goes first.
        self.load_s = 0.0
        self._clock = 0.0
        self._turn = 0.0
        self._stamp = 0
        # (virtual time, stamp, share), one for each share that has entered.
        self._fair: list[tuple[float, int, Share]] = []
        # (latest start, stamp, share); stale where the stamp is not the share's own.
        self._urgent: list[tuple[float, int, Share]] = []

    @property
    def wanted(self) -> bool:
        """Whether a share has entered; it may be stale."""
        return bool(self._fair)

    def enter(self, share: Share) -> None:
        """``share`` has something to run and a lane to run it."""
        share.entered = True
        stamp = share.stamp = self._stamp = self._stamp + 1
        if share.virtual < self._clock:
            share.virtual = self._clock
        heappush(self._fair, (share.virtual, stamp, share))
        if self.slots is not None:
            latest = share.queue.latest_start()
            if latest is not None:
                self._push_urgent(latest, stamp, share)

    def pick(self, now: float) -> Share | None:
        """Take out the share to serve next; None when the device is full or no one can use it."""
        while self._fair and (self.slots is None or self.running < self.slots):
            share = self._pick_urgent(now) if self._urgent else None
            if share is None:
                virtual, stamp, share = heappop(self._fair)
                if share.stamp != stamp:
                    continue
                if virtual > self._clock:
                    self._clock = virtual
            # Its fair entry, where that was not the one taken, is stale from here on.
            share.entered = False
            share.stamp = 0
            share.queue.active = False
            if share.free and share.queue.depth:
                return share
        return None

    def started(self, share: Share, expected_s: float) -> None:
        self.running += 1
        self.load_s += expected_s
        share.virtual += expected_s

    def ended(self, share: Share, expected_s: float, took_s: float) -> None:
        """``expected_s`` as given to ``started``: the estimate is settled against the truth."""
        self.running -= 1
        self.load_s = self.load_s - expected_s if self.running else 0.0
        # An entry in the heap keeps the time it entered with; this counts from the next one on.
        share.virtual += took_s - expected_s
        self._turn = max(took_s, self._turn * _TURN_DECAY)

    def _push_urgent(self, latest: float, stamp: int, share: Share) -> None:
        urgent = self._urgent
        heappush(urgent, (latest, stamp, share))
        if len(urgent) > _SPARE_ENTRIES + 4 * len(self._fair):
            urgent[:] = [entry for entry in urgent if entry[2].stamp == entry[1]]
            heapify(urgent)

    def _pick_urgent(self, now: float) -> Share | None:
        """The share that one more batch of another would make late; earliest deadline first."""
        urgent = self._urgent
        while urgent:
            latest, stamp, share = urgent[0]
            if share.stamp == stamp and latest > now + self._turn:
                return None
            heappop(urgent)
            # Too late for it already: going first would only cost the others.
            if share.stamp != stamp or latest < now:
                continue
            current = share.queue.latest_start()
            if current is None or share.virtual - self._clock > _TURNS_TO_BORROW * self._turn:
                continue
            if current > latest:
                self._push_urgent(current, stamp, share)
                continue
            return share
        return None
