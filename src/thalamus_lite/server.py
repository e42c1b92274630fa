"""uvicorn, set up for serving models.

httptools and uvloop where they are, no access log, a JSON or pretty log.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import math
from typing import TYPE_CHECKING, Any

from thalamus_lite.observability.logs import configure, enable
from thalamus_lite.settings import Settings

if TYPE_CHECKING:
    from thalamus_lite.thalamus import Thalamus


COULD_NOT_START = 3
"""The exit code of uvicorn, and of each of its workers, that could not start."""

COLLECTOR_THRESHOLDS = (10_000, 5, 10)
"""A request under way is some twenty objects that are neither garbage nor old, so with Python's own
first threshold of 700 the collector looks through those of 64 requests again and again: a
fourteenth of their time. docs/performance.md has the figures.
"""


DEFAULT_LEVEL = "INFO"
"""Of an app that is named: its own level is known in its workers only."""

UNUSED = {"proxy_headers": False, "server_header": False}
"""Nothing here asks who the client is, and a name for the server is of use to nobody: they are
uvicorn's work for every request.
"""


CONNECTIONS_END_AFTER_S = 3
"""How long after the drain time uvicorn waits for connections whose clients do not read."""


def tune_collector() -> None:
    """Switches of the whole process, for a process that does nothing but serve."""
    # What is imported by now stays for good, and need not be walked at each collection.
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)


def worker_loop() -> asyncio.AbstractEventLoop:
    """The event loop of one of several workers. It is what uvicorn first asks for in the worker's
    process, so that process is set up here, like the one of a single worker in `run`.
    """
    configure(Settings.from_env().log_level or DEFAULT_LEVEL)
    tune_collector()
    if importlib.util.find_spec("uvloop"):
        import uvloop

        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    else:
        loop = asyncio.new_event_loop()
    # uvicorn imports the app in the loop's first turn, and the app may configure logging too.
    loop.call_soon(loop.call_soon, enable)
    return loop


def run(app: Thalamus | str, *, host: str, port: int, workers: int = 1, **options: Any) -> None:
    """Serve until told to stop. ``app`` is ``"module:attribute"`` where there are several workers.

    Raises:
        ConfigurationError: a variable of the environment cannot be read.
        RuntimeError: an event loop runs in this thread.
        SystemExit: the server could not start; the code is uvicorn's.
    """
    import uvicorn

    if _loop_runs():
        raise RuntimeError(
            "an event loop runs in this thread, as in a notebook: call serve() in a thread of its"
            " own, or run the app from a script"
        )
    settings = Settings.from_env()
    level = settings.log_level or (DEFAULT_LEVEL if isinstance(app, str) else app.log_level)
    configure(level)
    tune_collector()
    loop = "uvloop" if importlib.util.find_spec("uvloop") else "asyncio"
    serve = uvicorn.run if workers == 1 else supervise
    serve(
        app,
        host=host,
        port=port,
        workers=workers,
        loop=loop if workers == 1 else "thalamus_lite.server:worker_loop",
        http="httptools" if importlib.util.find_spec("httptools") else "h11",
        access_log=False,
        log_level=level.lower(),
        lifespan="on",
        timeout_graceful_shutdown=math.ceil(settings.drain_s) + CONNECTIONS_END_AFTER_S,
        **{**UNUSED, **options},
    )


def supervise(app: Thalamus | str, **options: Any) -> None:
    """What ``uvicorn.run`` does for several workers, and tells when one of them could not start.

    Raises:
        SystemExit: it could not, and so the others were stopped.
    """
    from inspect import signature

    from uvicorn import Config, Server
    from uvicorn.supervisors import Multiprocess

    config = Config(app, **options)
    parts: dict[str, Any] = {"sockets": [config.bind_socket()]}
    if "target" in signature(Multiprocess).parameters:
        # Of uvicorn before 0.51.
        parts["target"] = Server(config).run
    supervisor = Multiprocess(config, **parts)
    supervisor.run()
    if any(worker.process.exitcode == COULD_NOT_START for worker in supervisor.processes):
        raise SystemExit(COULD_NOT_START)


def _loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
