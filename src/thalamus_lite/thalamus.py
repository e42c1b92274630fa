"""The app: a decorator for models, and an ASGI application that serves them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from thalamus_lite.model.registry import Registry
from thalamus_lite.model.spec import BatchPolicy, Declaration, read_spec
from thalamus_lite.settings import read_log_level
from thalamus_lite.starts import Starts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from thalamus_lite.engine import Engine
    from thalamus_lite.http.asgi import Receive, Scope, Send
    from thalamus_lite.model.spec import ModelSpec
    from thalamus_lite.weights.sources import WeightSource

C = TypeVar("C", bound=type)

LOAD_MODES = ("startup", "background", "lazy")


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
        self._starts = Starts(self._start)

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

    def get_uptime(self) -> float:
        """Seconds since the app started; 0.0 before."""
        engine = self._starts.engine
        return 0.0 if engine is None else engine.service.uptime_s

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
            await send({"type": "lifespan.startup.failed", "message": _first_line(error)})
            raise
        await send({"type": "lifespan.startup.complete"})
        await receive()
        try:
            await self._starts.end()
        except BaseException as error:
            await send({"type": "lifespan.shutdown.failed", "message": _first_line(error)})
            raise
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self) -> Engine:
        from thalamus_lite.composition import compose

        engine = compose(self.name, self.load_mode, self._registry)
        await engine.start()
        return engine


def _by_name(weights: Mapping[str, WeightSource] | None) -> dict[str, WeightSource]:
    if weights is None:
        return {}
    if not isinstance(weights, Mapping) or not all(isinstance(name, str) for name in weights):
        raise ValueError('weights must be a dict of names, like {"model": HFWeight(repo="...")}')
    return dict(weights)


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
