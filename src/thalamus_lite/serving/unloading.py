"""Taking one model down: its requests answered, its ``unload()`` run, everything given back."""

from __future__ import annotations

import functools
import gc
import logging
from typing import TYPE_CHECKING, Any

from thalamus_lite.batching.execution import clear_frames, run_job
from thalamus_lite.batching.lane import outlive
from thalamus_lite.model.inspection import check_ran, hook_of
from thalamus_lite.observability.logs import log_of_model

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from thalamus_lite.batching.lane import Lane
    from thalamus_lite.serving.loaded import Loaded
    from thalamus_lite.serving.loading import Context


async def unload(loaded: Loaded, context: Context) -> None:
    """Nothing is left of the model when this returns; what hangs is waited for.

    Cancelling it gives back, later, what comes back to life. An ``unload()`` that raises is logged,
    and no reason to keep the device.
    """
    group = loaded.group
    assert group is not None
    try:
        await group.drained()
        context.batcher.remove(group)
        lanes = loaded.first_lanes()
        for lane, instance in zip(lanes, loaded.instances, strict=True):
            job = functools.partial(_run_unload, instance, loaded.spec.id)
            await _log_errors(run_job(lane, job), loaded)
            del instance, job
        alive = loaded.forget_instances()
        for lane in lanes:
            await _log_errors(run_job(lane, functools.partial(_free_memory, alive)), loaded)
        await loaded.release(context.watchdog_s)
    except BaseException:
        loaded.let_go()
        raise


def _run_unload(instance: Any, name: str, lane: Lane) -> None:
    unload_hook = hook_of(instance, "unload")
    if unload_hook is None:
        return
    with lane.open_stream() as stream:
        try:
            check_ran(unload_hook(), "unload", name)
        finally:
            outlive(stream)


def _free_memory(alive: list[Callable[[], object]], lane: Lane) -> None:
    if any(instance() is not None for instance in alive):
        # In a ring with others, of the user's making or of an error's.
        gc.collect()
    lane.backend.empty_cache(lane.device)


async def _log_errors(job: Awaitable[None], loaded: Loaded) -> None:
    try:
        await job
    except Exception as error:
        log_of_model(logging.ERROR, loaded.spec.key, "failed in part to unload", error)
        clear_frames(error)
