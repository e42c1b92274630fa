"""Who of those that wait has gone?

Watching one client costs a task, so only long waits are watched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from thalamus_lite.batching.ticket import DONE, QUEUED
from thalamus_lite.errors import ClientDisconnected

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine, Iterable

    from thalamus_lite.batching.group import PendingRequest
    from thalamus_lite.errors import ThalamusError

    Spawn = Callable[[Coroutine[None, None, None]], asyncio.Task[None]]

WATCH_AFTER_S = 0.02
"""A request that has waited this long gets a watcher for its client's disconnect."""


class Disconnects:
    """``fresh`` takes every arrival; those that the next dispatch leaves are looked at later."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        spawn: Spawn,
        cancel: Callable[[PendingRequest, ThalamusError], None],
    ) -> None:
        self.fresh: list[PendingRequest] = []
        self._loop = loop
        self._spawn = spawn
        self._cancel = cancel
        self._waiting: list[PendingRequest] = []
        self._sweep: asyncio.TimerHandle | None = None

    def sort(self) -> None:
        """Keep the arrivals that were not dispatched at once; those that were never pay."""
        self._waiting += [p for p in self.fresh if p.state is QUEUED and p.disconnected is not None]
        self.fresh.clear()
        if self._waiting and self._sweep is None:
            self._sweep = self._loop.call_later(WATCH_AFTER_S, self._watch_waiting)

    def watch(self, requests: Iterable[PendingRequest]) -> None:
        """Watch the clients of all that are not answered yet."""
        for pending in requests:
            if pending.state is DONE or pending.watcher is not None or pending.future.done():
                continue
            if pending.disconnected is not None:
                pending.watcher = self._spawn(self._watch(pending))

    def _watch_waiting(self) -> None:
        self._sweep = None
        self.watch(p for p in self._waiting if p.state is QUEUED)
        self._waiting.clear()

    async def _watch(self, pending: PendingRequest) -> None:
        assert pending.disconnected is not None
        await pending.disconnected()
        pending.watcher = None
        self._cancel(pending, ClientDisconnected())
