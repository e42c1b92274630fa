"""One thread does the work, those who ask for the same meanwhile wait for it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

from thalamus_lite.weights.origin import DownloadCancelled

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

# An Event wakes on one thing only: a waiter that may be cancelled looks for that in steps.
_LOOK_S = 0.05


class _Call:
    def __init__(self) -> None:
        self.leader = threading.get_ident()
        self.done = threading.Event()
        self.error: BaseException | None = None


class Flight:
    """Single flight between the threads of a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[str, _Call] = {}

    def run(self, key: str, work: Callable[[], T], cancel: threading.Event) -> T | None:
        """``work()`` if nobody does it for ``key`` yet; else wait, and return None.

        A waiter gets the leader's error, since it would meet the same; but not its cancellation,
        which is no concern of others: then it returns None, and looks again.

        Raises:
            DownloadCancelled: ``cancel`` was set while waiting.
            RuntimeError: ``work`` asks for what it is to make.
        """
        with self._lock:
            call = self._calls.get(key)
            leads = call is None
            if call is None:
                call = self._calls[key] = _Call()
        if leads:
            return self._lead(key, call, work)
        if call.leader == threading.get_ident():
            raise RuntimeError(
                "the function given to put() called put() with the key that it is to make, and"
                " would wait for itself for ever: write to the path it is given, or put another key"
            )
        while not call.done.wait(_LOOK_S):
            if cancel.is_set():
                raise DownloadCancelled("the wait for the weights was cancelled")
        if isinstance(call.error, Exception) and not isinstance(call.error, DownloadCancelled):
            raise call.error
        return None

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self._calls = {}

    def _lead(self, key: str, call: _Call, work: Callable[[], T]) -> T:
        try:
            return work()
        except BaseException as error:
            call.error = error
            raise
        finally:
            with self._lock:
                self._calls.pop(key, None)
            call.done.set()
