"""Coroutines that run in the batcher's name, kept so that none is collected while it waits."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    Task = asyncio.Task[None]

CLOSE_PATIENCE_S = 1.0


class Tasks:
    """The tasks of one event loop; ``context`` is the one that the app started in."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, context: contextvars.Context | None = None
    ) -> None:
        self._loop = loop
        self.context = contextvars.copy_context() if context is None else context
        self._running: set[Task] = set()

    def spawn(
        self, work: Coroutine[Any, Any, None], ended: Callable[[Task], None] | None = None
    ) -> Task:
        """Run ``work``. Who is told by ``ended`` must `forget` the task, since a second callback
        would be a second turn of the loop.
        """
        # Whoever happens to start it may be another request, whose context is none of its business.
        task = self._loop.create_task(work, context=self.context.copy())
        self._running.add(task)
        task.add_done_callback(ended or self.forget)
        return task

    def forget(self, task: Task) -> None:
        self._running.discard(task)

    async def aclose(self) -> None:
        """End all of them; one that refuses to end is left to itself."""
        if self._running:
            for task in self._running:
                task.cancel()
            await asyncio.wait(self._running, timeout=CLOSE_PATIENCE_S)
