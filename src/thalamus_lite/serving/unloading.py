"""Taking one model down: its requests answered, its ``unload()`` run, everything given back."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from thalamus_lite.batching.execution import run_job

if TYPE_CHECKING:
    from thalamus_lite.serving.loaded import Loaded
    from thalamus_lite.serving.loading import Context

_log = logging.getLogger("thalamus_lite")


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
        for lane, instance in zip(lanes, list(loaded.instances), strict=True):
            if loaded.spec.hooks.unload:
                try:
                    await run_job(lane, lambda _lane, hook=instance.unload: hook())  # type: ignore[misc]
                except Exception as error:
                    _log.error("unload() failed", exc_info=error, extra={"model": loaded.spec.key})
            del instance
        # The last references, so that what the model held on the device can go before the cache is
        # emptied.
        group.hooks.clear()
        loaded.instances.clear()
        for lane in lanes:
            try:
                await run_job(lane, lambda lane: lane.backend.empty_cache(lane.device))
            except Exception as error:
                _log.error("a device's cache stays", exc_info=error, extra={"device": lane.device})
        await loaded.release(context.watchdog_s)
    except BaseException:
        loaded.let_go()
        raise
