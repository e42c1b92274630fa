"""Several files at once, in threads that keep nobody who wants to leave.

An executor's threads would be waited for until each file is whole: at the first failure, at Ctrl-C
and at the end of the interpreter.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

from thalamus_lite.weights.origin import DownloadCancelled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")

# A download that is told to stop does so within some hundredths, unless it is just connecting.
_LEAVE_S = 1.0


class Stop(threading.Event):
    """Set when the caller gives up, or when this is: for those who only look at `is_set`."""

    def __init__(self, callers: threading.Event) -> None:
        super().__init__()
        self._callers = callers

    def is_set(self) -> bool:
        return super().is_set() or self._callers.is_set()


def all_of(work: Callable[[T], None], items: Iterable[T], stop: Stop, at_once: int) -> None:
    """``work`` on each item (not None); at the first failure the others are told to stop.

    Raises:
        Exception: what failed first. The others have stopped by then, but for who does not look.
    """
    todo = deque(items)
    outcomes: SimpleQueue[BaseException | None] = SimpleQueue()

    def run() -> None:
        try:
            while (item := _next(todo)) is not None:
                if stop.is_set():
                    raise DownloadCancelled("the download was cancelled")
                work(item)
        except BaseException as error:
            outcomes.put(error)
        else:
            outcomes.put(None)

    threads: list[threading.Thread] = []
    try:
        for number in range(min(at_once, len(todo))):
            name = f"thalamus-download-{number}"
            thread = threading.Thread(target=run, name=name, daemon=True)
            thread.start()
            threads.append(thread)
        for _ in range(len(threads)):
            error = outcomes.get()
            if error is not None:
                raise error
    except BaseException:
        stop.set()
        deadline = time.monotonic() + _LEAVE_S
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        raise


def _next(todo: deque[T]) -> T | None:
    with suppress(IndexError):
        return todo.popleft()
    return None
