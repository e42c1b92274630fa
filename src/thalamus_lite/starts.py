"""When an app starts and ends: by lifespans or its first request, from whatever loop they come.

An engine belongs to one event loop. A test client runs every request in a loop of its own, and a
program may have several at once: an engine goes on under another loop when its own is gone, and
while that one runs, it does the work for all others.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from thalamus_lite.errors import ThalamusError, Unavailable
from thalamus_lite.observability.logs import words_of
from thalamus_lite.serving.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from thalamus_lite.engine import Engine
    from thalamus_lite.http.asgi import Receive, Scope, Send

_log = logging.getLogger("thalamus_lite")

LOOK_S = 0.01
LOOP_PATIENCE_S = 2.0
"""How long a request waits for a loop to end that nobody said would go on, since a test client's is
gone after one request; and for one that is to serve it to turn."""


class StartupFailed(Unavailable):
    code = "startup_failed"
    text = "The service failed to start"


class Starts:
    """``make`` returns a started engine for the running loop, or raises what kept it from it."""

    def __init__(self, make: Callable[[], Coroutine[Any, Any, Engine]]) -> None:
        self.engine: Engine | None = None
        self._make = make
        self._context = contextvars.copy_context()
        self._starting: asyncio.Task[Engine] | None = None
        # For that start, in its own loop.
        self._waiting: set[asyncio.Task[Any] | None] = set()
        self._lifespans = 0
        self._backoff = Backoff()
        self._told: BaseException | None = None
        # Between threads with a loop each; never held across an await.
        self._lock = threading.Lock()

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A request where this loop has no engine: start one, or have another loop's serve it."""
        try:
            engine = await self._started()
            if engine.loop is not asyncio.get_running_loop():
                await _across(engine, scope, receive, send)
                return
        except ThalamusError as error:
            # Imported where they are needed: an import of the package should not cost them.
            from thalamus_lite.http.request import Request, RequestIds
            from thalamus_lite.http.response import error_response

            request = Request(scope, receive, RequestIds())
            await error_response(error, request.request_id).send(request, send)
            return
        await engine.surface.serve(scope, receive, send)

    async def begin(self) -> None:
        """Start by a lifespan, the last of which is also the end of a start under way.

        Raises:
            StartupFailed: a loop that stands still has this app, with work under way.
            Exception: what kept it from starting.
        """
        while True:
            engine = self.engine
            if engine is not None and engine.stopping and engine.loop.is_running():
                await self._stopped(engine)
                continue
            if engine is not None and not engine.loop.is_running():
                # Its environment may be out of date, and its unload() is due.
                await self._stop(engine)
            if self.engine is not None or await self._start_once(lasting=False) is not None:
                break
        self._lifespans += 1

    async def end(self) -> None:
        """Stop with the last lifespan, or wait for the stop that is under way."""
        self._lifespans = max(self._lifespans - 1, 0)
        if self._lifespans:
            return
        starting, self._starting = self._starting, None
        if starting is not None and starting.get_loop() is asyncio.get_running_loop():
            starting.cancel()
            await asyncio.wait([starting])
        engine = self.engine
        if engine is not None:
            await (self._stopped(engine) if engine.stopping else self._stop(engine))

    async def _stopped(self, engine: Engine) -> None:
        """Wait for a stop that is under way, here or in another loop, as long as that one runs."""
        while self.engine is engine and engine.loop.is_running():  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)

    async def _stop(self, engine: Engine) -> None:
        loop = asyncio.get_running_loop()
        try:
            if engine.loop is not loop and engine.loop.is_running():
                await asyncio.wrap_future(
                    asyncio.run_coroutine_threadsafe(engine.stop(), engine.loop)
                )
            elif engine.loop is loop or engine.rebind(loop):
                await engine.stop()
            else:
                engine.discard()
        finally:
            # Until here it answers that it is going down.
            if self.engine is engine:
                self.engine = None
                # A server that was told to end at once does not end its own.
                self._lifespans = 0

    async def _started(self) -> Engine:
        """
        Raises:
            StartupFailed: it did not work; a later request tries again.
        """
        gives_up_at = time.monotonic() + LOOP_PATIENCE_S
        while True:
            engine = self._usable()
            if engine is None:
                engine = await self._start_at_a_request()
                if engine is not None:
                    return engine
            elif (
                engine.loop is asyncio.get_running_loop()
                or self._lifespans
                or time.monotonic() > gives_up_at
            ):
                return engine
            else:
                await asyncio.sleep(LOOK_S)

    async def _start_at_a_request(self) -> Engine | None:
        """As `_start_once`, but not before the back-off of the last failure is over.

        Raises:
            StartupFailed: it did not work, now or lately.
        """
        left_s = self._backoff.left_s(time.monotonic())
        if left_s:
            raise StartupFailed("a start has just failed", retry_after_s=left_s)
        try:
            return await self._start_once()
        except Exception as error:
            if self._told is not error:
                # Once for all that waited.
                self._told = error
                _log.error("the app failed to start at a request", exc_info=error)
            left_s = self._backoff.left_s(time.monotonic())
            raise StartupFailed(words_of(error), retry_after_s=left_s) from error

    def _usable(self) -> Engine | None:
        """The engine, if the running loop can have it or another one runs it.

        Raises:
            StartupFailed: a loop that stands still has it.
        """
        with self._lock:
            engine = self.engine
            loop = asyncio.get_running_loop()
            if engine is None or engine.loop is loop or engine.loop.is_running():
                return engine
            if engine.rebind(loop):
                return engine
            if not engine.loop.is_closed():
                raise StartupFailed("another event loop of this process has work of this app")
            engine.discard()
            self.engine = None
            return None

    async def _start_once(self, *, lasting: bool = True) -> Engine | None:
        """The start that is under way, or a new one; None where another loop's has ended.

        ``lasting``: it goes on when its caller is cancelled. A client that leaves must not take the
        start with it; a lifespan does, unless others wait for it too.
        """
        loop = asyncio.get_running_loop()
        with self._lock:
            starting = self._starting
            if starting is None or starting.done() or starting.get_loop().is_closed():
                # A request's own context is none of the app's business, which outlives it.
                context = self._context.copy() if lasting else None
                starting = self._starting = loop.create_task(self._start(), context=context)
                self._waiting = set()
            waiting = self._waiting
        if starting.get_loop() is loop:
            caller = asyncio.current_task()
            waiting.add(caller)
            try:
                return await asyncio.shield(starting)
            except asyncio.CancelledError:
                if waiting == {caller} and not lasting:
                    starting.cancel()
                    await asyncio.gather(starting, return_exceptions=True)
                raise
            finally:
                waiting.discard(caller)
        while not (starting.done() or starting.get_loop().is_closed()):  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)
        return None

    async def _start(self) -> Engine:
        try:
            engine = await self._make()
        except Exception:
            self._backoff.failed(time.monotonic())
            raise
        self._told = None
        self._backoff.succeeded()
        self.engine = engine
        engine.end = functools.partial(self._stop, engine)
        return engine


async def _across(engine: Engine, scope: Scope, receive: Receive, send: Send) -> None:
    """Have a request served in the engine's loop, and talk to its client in this one.

    Raises:
        StartupFailed: that loop does not turn, or ended meanwhile.
    """
    from thalamus_lite.batching.execution import settle, tell

    here = asyncio.get_running_loop()
    turned = here.create_future()
    engine.loop.call_soon_threadsafe(tell, here, settle, turned, None, None)
    try:
        async with asyncio.timeout(LOOP_PATIENCE_S):
            await turned
    except TimeoutError:
        # As where a coroutine of that loop calls a client that blocks.
        raise StartupFailed("the event loop that has this app is blocked") from None

    def back(function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def run(*arguments: Any) -> Any:
            async def call() -> Any:
                return await function(*arguments)

            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call(), here))

        return run

    work = asyncio.run_coroutine_threadsafe(
        engine.surface.serve(scope, back(receive), back(send)), engine.loop
    )
    served = asyncio.wrap_future(work)
    try:
        while not served.done() and not engine.loop.is_closed():
            await asyncio.wait([served], timeout=1.0)
    finally:
        work.cancel()
    if not served.done() or served.cancelled():
        raise StartupFailed("the event loop that served this app has ended")
    served.result()
