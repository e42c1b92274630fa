"""Whether the caller of this thread still waits.

Listings and heads of answers are waited for deep inside of libraries, where no argument reaches.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from thalamus_lite.weights.origin import DownloadCancelled

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

_cancel: ContextVar[threading.Event | None] = ContextVar("thalamus_cancel", default=None)


@contextmanager
def until(cancel: threading.Event) -> Iterator[None]:
    """What this thread waits for inside ends when ``cancel`` is set."""
    token = _cancel.set(cancel)
    try:
        yield
    finally:
        _cancel.reset(token)


def go_on() -> None:
    """
    Raises:
        DownloadCancelled: nobody waits any more.
    """
    cancel = _cancel.get()
    if cancel is not None and cancel.is_set():
        raise DownloadCancelled("the wait for the server was cancelled")


def pause(seconds: float) -> None:
    """Sleep; raises as `go_on` does."""
    cancel = _cancel.get()
    if cancel is None:
        time.sleep(seconds)
    elif cancel.wait(seconds):
        go_on()
