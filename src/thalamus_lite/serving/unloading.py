"""Taking one model down: its requests answered, its ``unload()`` run, everything given back."""

from __future__ import annotations

import functools
import gc
import logging
from typing import TYPE_CHECKING

from thalamus_lite.batching.execution import clear_frames, run_job
from thalamus_lite.batching.lane import outlive
from thalamus_lite.model.inspection import check_ran, hook_of
from thalamus_lite.observability.logs import log_of_model

if TYPE_CHECKING:
    from collections.abc import Callable

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
        group.hooks.clear()
        lanes = loaded.first_lanes()
        for step in (unload_instance, _free_memory):
            for lane in lanes:
                await run_job(lane, functools.partial(log_errors, step, loaded))
        await loaded.release(context.watchdog_s)
    except BaseException:
        loaded.let_go()
        raise


def log_errors(step: Callable[[Loaded, Lane], None], loaded: Loaded, lane: Lane) -> None:
    """Run a step in its lane; one that fails does not keep those behind it."""
    try:
        step(loaded, lane)
    except BaseException as error:
        log_of_model(logging.ERROR, loaded.spec.key, "failed in part to unload", error)
        clear_frames(error)


def unload_instance(loaded: Loaded, lane: Lane) -> None:
    """Run the ``unload()`` of the instance that was loaded in this lane, if there is one."""
    unload_hook = hook_of(loaded.instance_of(lane), "unload")
    if unload_hook is None:
        return
    with lane.open_stream() as stream:
        try:
            check_ran(unload_hook(), "unload", loaded.spec.id)
        finally:
            outlive(stream)


def _free_memory(loaded: Loaded, lane: Lane) -> None:
    if loaded.drop_instance(lane):
        # In a ring with others, of the user's making or of an error's.
        gc.collect()
    lane.backend.empty_cache(lane.device)
