"""When to look for lanes and hooks that make no progress."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def watch(
    limit_s: float,
    check: Callable[[float], None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Call ``check(limit_s)`` four times in ``limit_s``, for ever.

    After the whole process stood still, as one does that is paused, its lanes stood still too, and
    have ``limit_s`` from then on.
    """
    pause_s = min(max(limit_s / 4, 0.01), 5.0)
    now = not_before = clock()
    while True:
        slept_from = now
        await sleep(pause_s)
        now = clock()
        if now - slept_from > pause_s + limit_s / 2:
            not_before = now + limit_s
        if now >= not_before:
            check(limit_s)
