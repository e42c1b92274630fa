"""Which device a model goes to.

The rule: the device with the most free memory, where free = what the driver reports for all
processes minus the reservations of loads in progress. Ties go to the device with the fewest models,
then to the lowest index. ``need_bytes`` only ranks devices, it never refuses one: file sizes are a
poor guide to what a model takes, and the load itself says when it does not fit.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Literal

from thalamus_lite.devices.device import CPU, Device, GPURequirementError, Reservation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from thalamus_lite.devices.device import DeviceRequest

    # (free, total) in bytes, by the driver's own account of all processes.
    Probe = Callable[[Device], tuple[int, int]]

logger = logging.getLogger("thalamus_lite")

NO_DEVICE = "no CUDA or MPS device was detected"


@dataclass(frozen=True, slots=True)
class Usage:
    """``models`` counts all that are placed; ``loading_bytes`` is what those loading reserved."""

    models: int
    loading_bytes: int


class DeviceAllocator:
    """Places models on devices; thread-safe.

    ``devices`` may be a function: it is asked at the first request that wants a GPU, so that a host
    whose models all say ``"cpu"`` never pays for the detection. ``why_none`` gives the reason when
    there are none.
    """

    def __init__(
        self,
        devices: Sequence[Device] | Callable[[], Sequence[Device]],
        probe: Probe,
        *,
        why_none: Callable[[], str] = lambda: NO_DEVICE,
    ) -> None:
        self._source = devices
        self._found: tuple[Device, ...] | None = None
        self._probe = probe
        self._why_none = why_none
        self._lock = Lock()
        self._placed: dict[Reservation, bool] = {}  # → whether its load is done
        self._commits = 0

    def check(self, request: DeviceRequest) -> str | None:
        """Why no GPU can serve ``request``, or ``None``; asks for no memory, reserves nothing."""
        found = () if request.kind == "cpu" else self._devices()
        return None if _matching(request, found) else self._reason(request, found)

    def place(
        self,
        request: DeviceRequest,
        *,
        model: str = "the model",
        require_gpu: bool = False,
        need_bytes: int = 0,
    ) -> Reservation:
        """Reserve the best device for one load of about ``need_bytes``.

        A preference that is not there gives the CPU and one warning.

        Raises:
            GPURequirementError: with ``require_gpu``, where that would be the CPU.
        """
        return self.place_many(
            request, 1, model=model, require_gpu=require_gpu, need_bytes=need_bytes
        )[0]

    def place_many(
        self,
        request: DeviceRequest,
        replicas: int | Literal["all"],
        *,
        model: str = "the model",
        require_gpu: bool = False,
        need_bytes: int = 0,
    ) -> tuple[Reservation, ...]:
        """Reserve one device for each replica, all or none; ``need_bytes`` is for one replica.

        Never two on a device: a second copy of the weights there buys nothing that ``lanes`` does
        not. So more replicas than devices gives one a device and a warning; on the CPU it is one.

        Raises:
            GPURequirementError: with ``require_gpu``, where the only place is the CPU.
            ValueError: ``replicas`` or ``need_bytes`` makes no sense.
        """
        if replicas != "all" and (not isinstance(replicas, int) or replicas < 1):
            raise ValueError(
                f'replicas must be a whole number of at least 1 or "all", got {replicas!r}'
            )
        if need_bytes < 0:
            raise ValueError(f"need_bytes must not be negative, got {need_bytes}")

        places, reason = self._reserve_best(request, replicas, need_bytes)
        if reason is not None:
            if require_gpu:
                raise GPURequirementError(f"{model} requires a GPU but {reason}")
            places = self._reserve_cpu(need_bytes)
            # "auto" on a host without a GPU is the ordinary case and no news; silence from one is.
            if request.kind != "cpu" and (request.kind != "auto" or self._devices()):
                logger.warning(
                    "%s asks for device %s but %s: it runs on the CPU", model, request, reason
                )
        if replicas != "all" and len(places) < replicas:
            logger.warning(
                "%s asks for %d replicas and there is room for %d, one a device: use lanes for"
                " more calls at once on one device",
                model,
                replicas,
                len(places),
            )
        return places

    def commit(self, reservation: Reservation) -> None:
        with self._lock:
            if self._placed.get(reservation) is False:
                self._placed[reservation] = True
                self._commits += 1

    def release(self, reservation: Reservation) -> None:
        with self._lock:
            self._placed.pop(reservation, None)

    def usage(self) -> dict[Device, Usage]:
        """Every device that is known or in use, the CPU too once a model is on it."""
        with self._lock:
            devices = {*(self._found or ()), *(placed.device for placed in self._placed)}
            return {device: self._usage(device) for device in sorted(devices)}

    def _reserve_best(
        self, request: DeviceRequest, replicas: int | Literal["all"], need_bytes: int
    ) -> tuple[tuple[Reservation, ...], str | None]:
        found = () if request.kind == "cpu" else self._devices()
        candidates = _matching(request, found)
        if not candidates:
            return (), self._reason(request, found)
        while True:
            with self._lock:
                commits = self._commits
            # Not under the lock: a driver's first answer may take seconds.
            free = self._ask(candidates)
            if not free:
                names = ", ".join(map(str, candidates))
                return (), f"the driver does not answer for {names}"
            with self._lock:
                # A load that ended since the driver was asked is in neither figure: ask again.
                if commits != self._commits:
                    continue
                best = self._ranked(free)
                wanted = len(best) if replicas == "all" else replicas
                return self._add(best[:wanted], need_bytes), None

    def _reserve_cpu(self, need_bytes: int) -> tuple[Reservation, ...]:
        with self._lock:
            return self._add([CPU], need_bytes)

    def _add(self, devices: Sequence[Device], need_bytes: int) -> tuple[Reservation, ...]:
        reservations = tuple(Reservation(device, need_bytes, self) for device in devices)
        self._placed.update(dict.fromkeys(reservations, False))
        return reservations

    def _ranked(self, free: dict[Device, int]) -> list[Device]:
        def rank(device: Device) -> tuple[int, int, int]:
            usage = self._usage(device)
            # Below zero is kept: of two overbooked devices the one overbooked less is better.
            return (usage.loading_bytes - free[device], usage.models, device.index)

        return sorted(free, key=rank)

    def _usage(self, device: Device) -> Usage:
        here = [(placed, done) for placed, done in self._placed.items() if placed.device == device]
        return Usage(len(here), sum(placed.need_bytes for placed, done in here if not done))

    def _ask(self, candidates: Sequence[Device]) -> dict[Device, int]:
        free: dict[Device, int] = {}
        for device in candidates:
            try:
                free[device] = self._probe(device)[0]
            except Exception as error:
                # One GPU that fell off the bus must not keep a model from the others.
                logger.warning("%s is passed over: its driver says %r", device, error)
        return free

    def _devices(self) -> tuple[Device, ...]:
        if self._found is None:
            # Two threads may both ask; the answers are the same, and no lock is held for an import.
            found = tuple(self._source() if callable(self._source) else self._source)
            self._found = tuple(device for device in found if device.kind != "cpu")
        return self._found

    def _reason(self, request: DeviceRequest, found: Sequence[Device]) -> str:
        if request.kind == "cpu":
            return 'device is pinned to "cpu"'
        if not found:
            return self._why_none()
        return f"{request} is not available on this host, which has {', '.join(map(str, found))}"


def _matching(request: DeviceRequest, found: Sequence[Device]) -> tuple[Device, ...]:
    if request.kind == "auto":
        kinds = ("cuda", "mps")
        by_kind = (tuple(device for device in found if device.kind == kind) for kind in kinds)
        return next((devices for devices in by_kind if devices), ())
    return tuple(
        device
        for device in found
        if device.kind == request.kind and request.index in (None, device.index)
    )
