"""The app: a decorator for models, and an ASGI application that serves them."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from thalamus_lite.errors import ThalamusError, Unavailable
from thalamus_lite.model.registry import Registry
from thalamus_lite.model.spec import BatchPolicy, Declaration, read_spec
from thalamus_lite.settings import read_log_level

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from thalamus_lite.engine import Engine
    from thalamus_lite.http.asgi import Receive, Scope, Send
    from thalamus_lite.model.spec import ModelSpec
    from thalamus_lite.weights.sources import WeightSource

C = TypeVar("C", bound=type)

_log = logging.getLogger("thalamus_lite")

LOAD_MODES = ("startup", "background", "lazy")


class StartupFailed(Unavailable):
    code = "startup_failed"
    text = "The service failed to start"


class Thalamus:
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
        self.name = name
        self.log_level = read_log_level(log_level)
        self.load_mode = mode
        self._registry = Registry()
        self._engine: Engine | None = None
        self._starting: asyncio.Task[Engine] | None = None

    def model(
        self,
        *,
        model_id: str | None = None,
        version: str = "1.0.0",
        description: str | None = None,
        default: bool = False,
        default_version: bool = False,
        critical: bool = True,
        weights: Mapping[str, WeightSource] | None = None,
        device: str = "auto",
        require_gpu: bool = False,
        input_type: Any = None,
        output_type: Any = None,
        max_batch_size: int | None = None,
        ideal_batch_size: int | None = None,
        max_concurrent_requests: int = 1,
        lanes: int | None = None,
        replicas: int | str = 1,
        max_queue_size: int = 1024,
        timeout_s: float | None = None,
        examples: Sequence[Any] | None = None,
        idempotent: bool = True,
    ) -> Callable[[C], C]:
        """Register a model class, which is returned unchanged; README.md explains the arguments.

        Raises:
            ValueError: an id, version, size, device, weight or example that cannot be, or an id and
                version that are taken.
            TypeError: no usable ``predict``, or types that can be neither inferred nor read.
        """
        declaration = Declaration(
            model_id=model_id,
            version=version,
            description=description,
            default=default,
            default_version=default_version,
            critical=critical,
            weights=_by_name(weights),
            device=device,
            require_gpu=require_gpu,
            input_type=input_type,
            output_type=output_type,
            examples=examples,
        )
        policy = BatchPolicy(
            max_batch_size=max_batch_size,
            ideal_batch_size=ideal_batch_size,
            max_concurrent_requests=max_concurrent_requests,
            lanes=lanes,
            replicas=replicas,
            max_queue_size=max_queue_size,
            timeout_s=timeout_s,
            idempotent=idempotent,
        )

        def register(cls: C) -> C:
            # The caller's names, so that types defined in a function are found too.
            names = sys._getframe(1).f_locals
            self._registry.register(read_spec(cls, declaration, policy, names))
            return cls

        return register

    @property
    def models(self) -> list[ModelSpec]:
        """What is registered, in order."""
        return list(self._registry)

    def adopt(self, other: Thalamus) -> None:
        """Serve another app's models as well.

        Raises:
            ValueError: an id and version that both have.
        """
        for spec in other.models:
            self._registry.register(spec)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            engine = self._engine
            if engine is None or engine.loop is not asyncio.get_running_loop():
                try:
                    engine = await self._started()
                except ThalamusError as error:
                    await _refuse(error, scope, receive, send)
                    return
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
        await self._begin()
        try:
            yield
        finally:
            await self._end()

    def serve(self, host: str = "0.0.0.0", port: int = 8000) -> None:
        """Run uvicorn until it is told to stop; logs are JSON lines, or pretty on a terminal."""
        from thalamus_lite.server import run

        run(self, host=host, port=port)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._begin()
        except BaseException as error:
            await send({"type": "lifespan.startup.failed", "message": _first_line(error)})
            raise
        await send({"type": "lifespan.startup.complete"})
        await receive()
        try:
            await self._end()
        except BaseException as error:
            await send({"type": "lifespan.shutdown.failed", "message": _first_line(error)})
            raise
        await send({"type": "lifespan.shutdown.complete"})

    async def _started(self) -> Engine:
        """Start without a lifespan, at the first request; those beside it wait for the same start.

        Raises:
            StartupFailed: it did not work; the next request tries again.
        """
        try:
            engine = self._usable_engine()
            if engine is not None:
                return engine
            # A client that leaves must not take the start with it.
            return await asyncio.shield(self._start_once())
        except StartupFailed:
            raise
        except Exception as error:
            _log.error("the app failed to start at a request", exc_info=error)
            raise StartupFailed(f"{type(error).__name__}: {error}") from error

    async def _begin(self) -> None:
        """Start by a lifespan, whose end is also the end of a start under way.

        Raises:
            StartupFailed: another event loop serves this app.
            Exception: what kept it from starting.
        """
        stale = self._engine is not None and self._engine.loop is not asyncio.get_running_loop()
        engine = self._usable_engine()
        if engine is not None and stale:
            # From a loop that is closed: its environment may be out of date, and its unload() is
            # due.
            await self._end()
            engine = None
        if engine is None:
            await self._start_once()

    def _usable_engine(self) -> Engine | None:
        """The engine that serves, if the running loop can have it.

        Raises:
            StartupFailed: another loop has it.
        """
        engine = self._engine
        loop = asyncio.get_running_loop()
        if engine is None or engine.loop is loop:
            return engine
        if not engine.loop.is_closed():
            raise StartupFailed("this app is being served by another event loop of this process")
        if engine.rebind(loop):
            return engine
        engine.discard()
        self._engine = None
        return None

    def _start_once(self) -> asyncio.Task[Engine]:
        """The start that is under way on this loop, or a new one."""
        loop = asyncio.get_running_loop()
        starting = self._starting
        if starting is None or starting.done() or starting.get_loop() is not loop:
            starting = self._starting = loop.create_task(self._start())
        return starting

    async def _start(self) -> Engine:
        from thalamus_lite.composition import compose

        engine = compose(self.name, self.load_mode, self._registry)
        await engine.start()
        self._engine = engine
        return engine

    async def _end(self) -> None:
        starting, self._starting = self._starting, None
        if starting is not None and starting.get_loop() is asyncio.get_running_loop():
            starting.cancel()
            await asyncio.wait([starting])
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.stop()


def _by_name(weights: Mapping[str, WeightSource] | None) -> dict[str, WeightSource]:
    if weights is None:
        return {}
    if not isinstance(weights, Mapping) or not all(isinstance(name, str) for name in weights):
        raise ValueError('weights must be a dict of names, like {"model": HFWeight(repo="...")}')
    return dict(weights)


async def _refuse(error: ThalamusError, scope: Scope, receive: Receive, send: Send) -> None:
    from thalamus_lite.http.request import Request, RequestIds
    from thalamus_lite.http.response import error_response

    request = Request(scope, receive, RequestIds())
    await error_response(error, request.request_id).send(request, send)


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
