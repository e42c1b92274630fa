"""The app: a decorator for models, and an ASGI application that serves them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from thalamus_lite.model.decorator import Decorator
from thalamus_lite.observability.logs import words_of
from thalamus_lite.settings import read_log_level
from thalamus_lite.starts import Starts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from thalamus_lite.engine import Engine
    from thalamus_lite.http.asgi import Receive, Scope, Send
    from thalamus_lite.model.spec import ModelSpec

LOAD_MODES = ("startup", "background", "lazy")


class Thalamus(Decorator):
    """Serves decorated model classes over HTTP; an ASGI 3 application.

    Args:
        name: The title in ``/openapi.json``.
        log_level: For ``serve()``, where ``THALAMUS_LOG_LEVEL`` says nothing else; in any case.
        lazy_load: The same as ``load="lazy"``.
        load: ``"startup"`` loads all models before the first request is taken, ``"background"``
            takes requests at once with ``/ready`` 503, ``"lazy"`` loads each at its first request.

    The environment is read at each start, never here.

    Raises:
        ValueError: a log level or a way to load that there is not.
    """

    def __init__(
        self,
        name: str = "thalamus",
        log_level: str = "INFO",
        lazy_load: bool = False,
        load: str | None = None,
    ) -> None:
        mode = load or ("lazy" if lazy_load else "startup")
        if mode not in LOAD_MODES:
            raise ValueError(f"load must be one of {', '.join(LOAD_MODES)}, got {load!r}")
        super().__init__()
        self.name = name
        self.log_level = read_log_level(log_level)
        self.load_mode = mode
        self._starts = Starts(self._start)

    @property
    def models(self) -> list[ModelSpec]:
        """What is registered, in order."""
        return list(self._registry)

    def get_uptime(self) -> float:
        """Seconds since the app started; 0.0 before."""
        engine = self._starts.engine
        return 0.0 if engine is None else engine.service.uptime_s

    def adopt(self, other: Thalamus) -> None:
        """Serve another app's models as well: all of them, or none where this raises.

        Raises:
            ValueError: an id and version that both have.
        """
        for spec in other.models:
            self._registry.check(spec)
        for spec in other.models:
            self._registry.register(spec)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            engine = self._starts.engine
            if engine is None or engine.loop is not asyncio.get_running_loop():
                await self._starts.serve(scope, receive, send)
            else:
                await engine.surface.serve(scope, receive, send)
        elif kind == "lifespan":
            await self._lifespan(receive, send)
        elif kind == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})
        else:
            raise NotImplementedError(f"thalamus-lite serves http, not {kind!r}")

    @asynccontextmanager
    async def lifespan(self, app: Any = None) -> AsyncIterator[None]:
        """Start and stop with a parent: ``FastAPI(lifespan=app.lifespan)``."""
        await self._starts.begin()
        try:
            yield
        finally:
            await self._starts.end()

    def serve(self, host: str = "0.0.0.0", port: int = 8000) -> None:
        """Run uvicorn until it is told to stop; logs are JSON lines, or pretty on a terminal."""
        from thalamus_lite.server import run

        run(self, host=host, port=port)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._starts.begin()
        except BaseException as error:
            await send({"type": "lifespan.startup.failed", "message": words_of(error)})
            raise
        await send({"type": "lifespan.startup.complete"})
        await receive()
        try:
            await self._starts.end()
        except BaseException as error:
            await send({"type": "lifespan.shutdown.failed", "message": words_of(error)})
            raise
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self) -> Engine:
        from thalamus_lite.composition import compose

        engine = compose(self.name, self.load_mode, self._registry)
        await engine.start()
        return engine
