"""Bringing one model up: weights, devices, instances, warm-up.

All of it, or nothing is left behind.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thalamus_lite.batching.execution import clear_frames
from thalamus_lite.batching.group import LaneGroup
from thalamus_lite.batching.lane import Hooks, Lane
from thalamus_lite.batching.queue import QueuePolicy
from thalamus_lite.model.inspection import PredictKind, check_ran, hook_of
from thalamus_lite.serving.threads import in_lane, in_thread
from thalamus_lite.serving.unloading import log_errors, unload_instance
from thalamus_lite.serving.warmup import warm_up

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from thalamus_lite.batching.batcher import Batcher
    from thalamus_lite.devices.allocator import DeviceAllocator
    from thalamus_lite.devices.streams import StreamBackend
    from thalamus_lite.observability.metrics import Metrics
    from thalamus_lite.serving.loaded import Loaded
    from thalamus_lite.weights.cache import WeightCache


@dataclass(slots=True)
class Context:
    """What all models of one app share."""

    cache: WeightCache
    allocator: DeviceAllocator
    backend_for: Callable[[str], StreamBackend]
    batcher: Batcher
    metrics: Metrics
    load_slots: asyncio.Semaphore
    watchdog_s: float


async def load(loaded: Loaded, context: Context) -> LaneGroup:
    """Fill ``loaded``; where that fails, all of it is given back before this raises.

    An instance whose ``load()`` has returned is unloaded first, also where it returns only later.

    Raises:
        WeightError, GPURequirementError: weights or device cannot be had.
        Exception: whatever the user's constructor, ``load`` or warm-up raised.
    """
    cancel = threading.Event()
    try:
        return await _bring_up(loaded, context, cancel)
    except BaseException as error:
        cancel.set()
        if any(lane.backend.is_fatal(error) for lane in loaded.lanes[:1]):
            context.batcher.on_fatal(error)
        # All that leads to the instances from here, so that they end in their lanes.
        clear_frames(error)
        if loaded.group is not None:
            loaded.group.hooks.clear()
        for lane in loaded.lanes:
            lane.post(functools.partial(log_errors, unload_instance, loaded))
        await loaded.release(context.watchdog_s)
        if loaded.lanes:
            # Half a model may be a ring of the user's making: the next try needs its memory.
            await in_thread(gc.collect)
        raise


async def _bring_up(loaded: Loaded, context: Context, cancel: threading.Event) -> LaneGroup:
    spec = loaded.spec
    for records in (spec.inputs, spec.outputs):
        records.prepare()
    weights = await _fetch(context, loaded, cancel)
    await in_thread(_place, context, loaded, weights)
    hooks = await _build(context, loaded, weights)
    for reservation in loaded.reservations:
        reservation.commit()
    policy = QueuePolicy(
        max_batch_size=spec.policy.most,
        merges=spec.policy.merges,
        max_queue_size=spec.policy.max_queue_size,
        takes_slot=not (spec.streams or spec.hooks.kind.on_loop),
    )
    group = loaded.group = LaneGroup(
        spec.key,
        loaded.lanes,
        hooks,
        policy,
        idempotent=spec.policy.idempotent,
        streams=spec.streams,
        on_loop=spec.hooks.kind.on_loop,
        device=loaded.device,
    )
    await warm_up(spec, group)
    return group


async def _fetch(context: Context, loaded: Loaded, cancel: threading.Event) -> dict[str, Path]:
    """All weights side by side. When one cannot be had, the other downloads are told to stop."""
    weights = loaded.spec.weights
    fetches = [
        asyncio.ensure_future(in_thread(_acquire, context, loaded, name, cancel))
        for name in weights
    ]
    try:
        return dict(zip(weights, await asyncio.gather(*fetches), strict=True))
    except BaseException:
        cancel.set()
        await asyncio.gather(*fetches, return_exceptions=True)
        raise


def _acquire(context: Context, loaded: Loaded, name: str, cancel: threading.Event) -> Path:
    lease = context.cache.acquire(loaded.spec.weights[name], cancel=cancel)
    # Here, and not where it is awaited: the one who waits may have been cancelled.
    loaded.hold_lease(lease)
    return lease.path


def _place(context: Context, loaded: Loaded, weights: dict[str, Path]) -> None:
    spec = loaded.spec
    loaded.hold_places(
        context.allocator.place_many(
            spec.device,
            spec.policy.replicas,  # type: ignore[arg-type]
            model=spec.key,
            require_gpu=spec.require_gpu,
            need_bytes=sum(_size(path) for path in weights.values()),
        )
    )


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(part.stat().st_size for part in path.rglob("*") if part.is_file())
    return path.stat().st_size


async def _build(context: Context, loaded: Loaded, weights: dict[str, Path]) -> list[Hooks]:
    """One instance a device, made and loaded in its first lane; one entry of hooks a lane."""
    spec = loaded.spec
    count = spec.policy.lane_count
    for replica, reservation in enumerate(loaded.reservations):
        device = str(reservation.device)
        for number in range(count):
            name = f"{spec.key}/{replica}.{number}"
            started_in = context.batcher.tasks.context
            lane = Lane(name, device, context.backend_for(device), started_in)
            lane.start()
            loaded.lanes.append(lane)
    await asyncio.gather(
        *(
            _construct(loaded, loaded.lanes[first : first + count], dict(weights))
            for first in range(0, len(loaded.lanes), count)
        )
    )
    # Below a plain decorator, which would have to be called to know what it gives.
    hidden = spec.hooks.kind is PredictKind.ASYNC and not inspect.iscoroutinefunction(
        spec.cls.predict
    )
    hooks: list[Hooks] = []
    for instance in loaded.instances:
        hooks += [Hooks(instance, hidden)] * count
    return hooks


async def _construct(loaded: Loaded, lanes: list[Lane], weights: dict[str, Path]) -> None:
    def work() -> None:
        instance = loaded.spec.cls()
        load_hook = hook_of(instance, "load")
        if load_hook is not None:
            check_ran(load_hook(weights, lanes[0].device), "load", loaded.spec.id)
        # Here, and not where it is awaited: the one who waits may have been cancelled.
        loaded.hold_instance(lanes[0], instance)

    def run(first: Lane) -> None:
        event = first.load(work)
        for lane in lanes:
            lane.after(event)

    await in_lane(lanes[0], run)
