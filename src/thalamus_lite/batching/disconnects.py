"""Who of those that wait has gone?

Watching one client costs a task, so only long waits are watched. Who waits is looked for in the
queues: a list of arrivals of our own would keep requests in memory that were answered long ago.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from thalamus_lite.batching.ticket import DONE, QUEUED
from thalamus_lite.errors import ClientDisconnected

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine, Iterable, Iterator

    from thalamus_lite.batching.group import LaneGroup, PendingRequest
    from thalamus_lite.errors import ThalamusError

    Spawn = Callable[[Coroutine[None, None, None]], asyncio.Task[None]]

WATCH_AFTER_S = 0.02
"""A request that has waited this long, and at most twice as long, gets a watcher for its client's
disconnect."""


class Disconnects:
    """``arrived`` takes the model of every arrival; what the next dispatch leaves is looked at
    later.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        spawn: Spawn,
        cancel: Callable[[PendingRequest, ThalamusError], None],
    ) -> None:
        self.arrived: set[LaneGroup] = set()
        self._loop = loop
        self._clock = clock
        self._spawn = spawn
        self._cancel = cancel
        self._waiting: set[LaneGroup] = set()
        self._sweep: asyncio.TimerHandle | None = None

    def sort(self) -> None:
        """Keep the models with requests that were not dispatched at once.

        A stream has a watcher of its own.
        """
        for group in self.arrived:
            if group.queue.depth and not group.streams:
                self._waiting.add(group)
        self.arrived.clear()
        self._arm()

    def watch(self, requests: Iterable[PendingRequest]) -> None:
        """Watch the clients of all that are not answered yet."""
        for pending in requests:
            if pending.state is DONE or pending.watcher is not None or pending.future.done():
                continue
            if pending.disconnected is not None:
                pending.watcher = self._spawn(self._watch(pending))

    def _arm(self) -> None:
        if self._waiting and self._sweep is None:
            self._sweep = self._loop.call_later(WATCH_AFTER_S, self._watch_waiting)

    def _watch_waiting(self) -> None:
        self._sweep = None
        before = self._clock() - WATCH_AFTER_S
        for group in list(self._waiting):
            self.watch(_unwatched(group, before))
            if not group.queue.depth:
                self._waiting.discard(group)
        self._arm()

    async def _watch(self, pending: PendingRequest) -> None:
        assert pending.disconnected is not None
        await pending.disconnected()
        pending.watcher = None
        self._cancel(pending, ClientDisconnected())


def _unwatched(group: LaneGroup, before: float) -> Iterator[PendingRequest]:
    """Those that wait since ``before``, up to the first that is watched: all ahead of it are.

    The rest of a long request, whose first part has run, may stand anywhere.
    """
    for ticket in reversed(group.queue.waiting):
        pending: PendingRequest = ticket  # type: ignore[assignment]
        if pending.enqueued_at > before:
            continue
        if pending.watcher is None:
            yield pending
        elif pending.state is QUEUED:
            return
