"""Blocking work off the event loop, in daemon threads, a model's lanes among them.

Not an executor: its threads are joined when the interpreter exits, so a download or a driver that
hangs would keep the process.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from thalamus_lite.batching.execution import clear_frames, report_to, run_job

if TYPE_CHECKING:
    from collections.abc import Callable

    from thalamus_lite.batching.lane import Lane


async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """What ``function(*arguments)`` returns or raises.

    Cancelling the wait leaves the thread to itself.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    name = getattr(function, "__name__", "call")
    threading.Thread(
        target=report_to,
        args=(loop, future, function, *arguments),
        name=f"thalamus-{name}",
        daemon=True,
    ).start()
    return await future


async def in_lane(lane: Lane, work: Callable[[Lane], Any]) -> Any:
    """What ``work(lane)`` returns or raises.

    What the frames of an error hold, half a model for one, ends in the lane too.
    """

    def run(lane: Lane) -> Any:
        try:
            return work(lane)
        except BaseException as error:
            clear_frames(error)
            raise

    return await run_job(lane, run)
