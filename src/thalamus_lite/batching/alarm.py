"""One timer that is set again and again, mostly to a time that it has already."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


TURNS = 2
"""Turns of the loop between the time and the ring: timers come before sockets, so what the ring is
to decide on (a client that is waited for) may have arrived and lie there unread.
"""


class Alarm:
    """Calls ``ring`` on the loop at the earliest of the times that it was set to.

    Once it rang, it must be set anew.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._handle: asyncio.TimerHandle | None = None
        self._at = 0.0

    def set(self, at: float, now: float) -> None:
        if self._handle is not None:
            if self._at <= at:
                return
            self._handle.cancel()
        self._at = at
        self._handle = self._loop.call_later(max(at - now, 0.0), self._rang)

    def _rang(self) -> None:
        self._handle = None
        self._after(TURNS)

    def _after(self, turns: int) -> None:
        if turns:
            self._loop.call_soon(self._after, turns - 1)
        else:
            self._ring()
