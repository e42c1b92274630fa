"""What a model holds while it is up or on its way: lanes, instances, weights, devices."""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from thalamus_lite.batching.execution import settle, tell
from thalamus_lite.observability.logs import log_of_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from thalamus_lite.batching.group import LaneGroup
    from thalamus_lite.batching.lane import Lane
    from thalamus_lite.devices.device import Reservation
    from thalamus_lite.model.spec import ModelSpec
    from thalamus_lite.weights.lease import Lease


class Loaded:
    """``instances`` has one entry a device, ``lanes`` as many for each of them.

    An instance begins and ends in the first of its lanes: what it closes when it is dropped may
    take its time, which the event loop does not have.

    Weights and devices are given back only when no lane works any more: a ``load()`` that hangs, or
    that goes on while the one of another device has failed, still reads its files and fills its
    memory.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.leases: list[Lease] = []
        self.reservations: list[Reservation] = []
        self.lanes: list[Lane] = []
        self.group: LaneGroup | None = None
        self._instances: dict[Lane, Any] = {}
        self._lock = threading.Lock()
        self._letting_go = False
        self._gone = False

    @property
    def device(self) -> str:
        return ", ".join(str(reservation.device) for reservation in self.reservations)

    @property
    def instances(self) -> list[Any]:
        """Those whose ``load()`` has returned, in the order of their devices."""
        found = (self._instances.get(lane) for lane in self.lanes)
        return [instance for instance in found if instance is not None]

    def first_lanes(self) -> list[Lane]:
        """The lane of each instance in which it was made, loaded and will be unloaded."""
        return [lane for lane in self.lanes if lane in self._instances]

    def hold_instance(self, lane: Lane, instance: Any) -> None:
        """Keep it until its lane is told to drop it; in that lane's thread."""
        self._instances[lane] = instance

    def instance_of(self, lane: Lane) -> Any:
        """None where this lane has none."""
        return self._instances.get(lane)

    def drop_instance(self, lane: Lane) -> bool:
        """Let go of it, in its lane's thread; whether it lives on, held by others or by itself."""
        instance = self._instances.pop(lane, None)
        try:
            alive = weakref.ref(instance)
        except TypeError:
            # No weak reference to it: it may live.
            return instance is not None
        del instance
        return alive() is not None

    def hold_lease(self, lease: Lease) -> None:
        """Keep it until the release; where that has been, give it back at once. From any thread."""
        with self._lock:
            if not self._gone:
                self.leases.append(lease)
                return
        lease.release()

    def hold_places(self, reservations: Iterable[Reservation]) -> None:
        """The same for places on devices."""
        with self._lock:
            if not self._gone:
                self.reservations += reservations
                return
        for reservation in reservations:
            reservation.release()

    def busy_before(self, moment: float) -> bool:
        """Whether a lane has run one hook since before ``moment``, in monotonic seconds."""
        return any(
            (since := lane.working_since) is not None and since <= moment for lane in self.lanes
        )

    def let_go(self, then: Callable[[], None] = lambda: None) -> None:
        """Stop the lanes behind what they run.

        The last one gives all back and calls ``then``, in its own thread.
        """
        if self._letting_go:
            return
        self._letting_go = True
        self.group = None
        if not self.lanes:
            self._give_back()
            then()
            return
        left = len(self.lanes)

        def pass_by(lane: Lane) -> None:
            nonlocal left
            self.drop_instance(lane)
            with self._lock:
                left -= 1
                last = left == 0
            if last:
                self._give_back()
                then()

        for lane in self.lanes:
            lane.post(pass_by)
            lane.stop()

    async def release(self, patience_s: float) -> None:
        """Give everything back, and wait for that, but no longer than ``patience_s`` for lanes that
        hang.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self.let_go(lambda: tell(loop, settle, done, None, None))
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await done
            return
        text = "has hooks that still run: device and weights are kept"
        log_of_model(logging.ERROR, self.spec.key, text)

    def _give_back(self) -> None:
        with self._lock:
            self._gone = True
            held: list[Reservation | Lease] = [*self.reservations, *self.leases]
            self.leases = []
        for one in held:
            try:
                one.release()
            except Exception as error:
                log_of_model(logging.ERROR, self.spec.key, "did not give all back", error)
