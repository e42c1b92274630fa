"""Going down with grace.

A bare server closes its listener at SIGTERM and sends ``lifespan.shutdown`` only once its requests
have ended, which is too late to tell a load balancer, and never where a request hangs. So its
signal handler is chained: first ``/ready`` turns 503, then a delay for the balancer to see it, then
the server's own handler, and whatever is still unanswered after the drain time is answered 503.

Some requests cannot be answered: their clients have not sent all of their body, or do not read.
They are cut off a moment later. A server that waits for such a connection even then (uvicorn,
without a limit of its own) is told to end at once, as by a second Ctrl-C.
"""

from __future__ import annotations

import logging
import signal
import threading
from typing import TYPE_CHECKING, Any

from thalamus_lite.batching.execution import tell
from thalamus_lite.errors import Draining

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from types import FrameType

    from thalamus_lite.serving.service import Service

_log = logging.getLogger("thalamus_lite")

ONE_SIGNAL_S = 1.0
CUT_OFF_AFTER_S = 0.5
FORCE_AFTER_S = 4.0


class Drain:
    """Begins at a signal or at ``lifespan.shutdown``, whichever comes first.

    ``delay_s`` is 0 until the app has started: nobody was sent here yet, so there is no balancer to
    wait for.
    """

    def __init__(self, service: Service, drain_s: float) -> None:
        self.delay_s = 0.0
        self.on_begin: Callable[[], None] = lambda: None
        self.cut_off: Callable[[], None] = lambda: None
        # Told how to end the server, once all that is ours has been given back.
        self.on_stuck: Callable[[Callable[[], None]], None] = lambda force: force()
        self._service = service
        self._drain_s = drain_s
        self._loop = service.batcher.loop
        self._previous: dict[int, Any] = {}
        self._chained = self._signalled = False
        self._delay: asyncio.TimerHandle | None = None
        self._announced_at = 0.0
        self._end: asyncio.TimerHandle | None = None

    def install(self) -> None:
        """Chain the server's handlers: only in the main thread, and only real functions."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._chained = True
        for number in (signal.SIGTERM, signal.SIGINT):
            previous = signal.getsignal(number)
            # Default and ignored signals belong to an embedding program; Python's own Ctrl-C too.
            if callable(previous) and previous is not signal.default_int_handler:
                self._previous[number] = previous
                signal.signal(number, self._on_signal)

    def uninstall(self) -> None:
        """Put the server's handlers back.

        Where somebody has chained ours since, it only passes signals on.
        """
        self._chained = False
        # Another thread may end what the main thread has started, and may not set handlers.
        if threading.current_thread() is threading.main_thread():
            for number, previous in self._previous.items():
                # A bound method is a new object at each look, so it is compared by value.
                if signal.getsignal(number) == self._on_signal:
                    signal.signal(number, previous)
        for timer in (self._delay, self._end):
            if timer is not None:
                timer.cancel()

    def rebind(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._delay = self._end = None

    def begin(self) -> None:
        """Turn ``/ready`` to 503, refuse predictions, and start the clock of those under way."""
        if self._service.draining:
            return
        self._service.draining = True
        count = self._service.inflight
        _log.info("draining, %d requests in flight", count, extra={"inflight": count})
        self.on_begin()
        self._end = self._loop.call_later(self._drain_s, self._give_up)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Only ``tell`` is safe here: this may have interrupted any line of the loop."""
        previous = self._previous[number]
        self._signalled = True
        if not self._chained:
            previous(number, frame)
        elif number == signal.SIGTERM and self.delay_s > 0 and not self._service.draining:
            tell(self._loop, self._wait, previous, number)
        else:
            tell(self._loop, self.begin)
            previous(number, frame)

    def _wait(self, previous: Any, number: int) -> None:
        """Let the balancer see ``/ready`` first.

        A second signal is impatience, and ends the wait; but not one that comes with the first: a
        worker is told by its supervisor, and by whoever tells the whole process group.
        """

        def go_on() -> None:
            self.begin()
            previous(number, None)

        now = self._loop.time()
        if self._delay is not None:
            if now - self._announced_at > ONE_SIGNAL_S:
                self._delay.cancel()
                go_on()
            return
        self._announced_at = now
        self._service.announce_drain()
        _log.info("draining begins in %g s", self.delay_s, extra={"seconds": self.delay_s})
        self._delay = self._loop.call_later(self.delay_s, go_on)

    def _give_up(self) -> None:
        left = self._service.inflight
        if left:
            text = "the drain time is over: %d requests are unanswered"
            _log.error(text, left, extra={"unanswered": left})
        self._service.give_up(Draining())
        self._end = self._loop.call_later(CUT_OFF_AFTER_S, self._cut_off)

    def _cut_off(self) -> None:
        self.cut_off()
        self._end = self._loop.call_later(FORCE_AFTER_S, self._force)

    def _force(self) -> None:
        """The server may still wait for connections whose clients do not read."""
        server = self._previous.get(signal.SIGINT)
        if self._signalled and self._chained and server is not None:
            self.on_stuck(lambda: server(signal.SIGINT, None))
