"""A model's way from one state to the next, one at a time, for any number of callers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

CANCEL_PATIENCE_S = 5.0


class Transition:
    """Runs one piece of work after another, each in a task of its own, so that no caller's end is
    the work's end.
    """

    def __init__(self, ended: Callable[[asyncio.Task[None]], None]) -> None:
        self.task: asyncio.Task[None] | None = None
        self._ended = ended
        self._hang_waiters: set[asyncio.Future[None]] = set()

    def begin(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = self.task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(self._done)
        return task

    async def settled(self) -> None:
        """Wait for what is under way, if anything is."""
        if self.task is not None:
            await asyncio.wait([self.task])
            # Its callback may come after this wake-up.
            await asyncio.sleep(0)

    async def settled_or_hung(self) -> bool:
        """The same, but False as soon as it is said to hang."""
        task = self.task
        if task is None:
            return True
        # No Event: it would belong to the loop of its first wait for good.
        hung = asyncio.get_running_loop().create_future()
        self._hang_waiters.add(hung)
        try:
            await asyncio.wait([hung, task], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._hang_waiters.discard(hung)
        if not task.done():
            return False
        await asyncio.sleep(0)
        return True

    def hangs(self) -> None:
        """Tell all who wait with ``settled_or_hung``."""
        for waiter in self._hang_waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def cancel(self) -> None:
        """Stop what is under way; what refuses to stop is left to itself."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task], timeout=CANCEL_PATIENCE_S)
            await asyncio.sleep(0)

    def _done(self, task: asyncio.Task[None]) -> None:
        self.task = None
        self._ended(task)
