"""uvicorn, set up for serving models.

httptools and uvloop where they are, no access log, a JSON or pretty log.
"""

from __future__ import annotations

import gc
import importlib.util
from typing import TYPE_CHECKING, Any

from thalamus_lite.observability.logs import configure
from thalamus_lite.settings import Settings

if TYPE_CHECKING:
    from thalamus_lite.thalamus import Thalamus


COLLECTOR_THRESHOLDS = (10_000, 5, 10)
"""A request under way is some hundred objects that are neither garbage nor old, so with Python's
own first threshold of 700 the collector looks through them again and again: a fifth of a request's
time. docs/performance.md has the figures.
"""


UNUSED = {"proxy_headers": False, "server_header": False}
"""Nothing here asks who the client is, and a name for the server is of use to nobody: they are
uvicorn's work for every request.
"""


def tune_collector() -> None:
    """Switches of the whole process, for a process that does nothing but serve."""
    # What is imported by now stays for good, and need not be walked at each collection.
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)


def run(app: Thalamus | str, *, host: str, port: int, workers: int = 1, **options: Any) -> None:
    """Serve until told to stop. ``app`` is ``"module:attribute"`` where there are several workers.

    Raises:
        ConfigurationError: a variable of the environment cannot be read.
        SystemExit: the server could not start; the code is uvicorn's.
    """
    import uvicorn

    settings = Settings.from_env()
    level = settings.log_level or (app.log_level if not isinstance(app, str) else "INFO")
    configure(level)
    tune_collector()
    uvicorn.run(
        app,
        host=host,
        port=port,
        workers=workers,
        loop="uvloop" if importlib.util.find_spec("uvloop") else "asyncio",
        http="httptools" if importlib.util.find_spec("httptools") else "h11",
        access_log=False,
        log_level=level.lower(),
        lifespan="on",
        **{**UNUSED, **options},
    )
