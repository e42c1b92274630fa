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
    # What is imported by now stays for good, and need not be walked at each collection.
    gc.freeze()
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
        **options,
    )
