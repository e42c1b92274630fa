"""Keeps ``os.fork`` out of the moments whose state a child could not live with.

SQLite forbids a connection to cross a fork, even to be closed, and it counts locks per process: a
child born in the middle of a transaction would believe that it holds locks which the kernel gave to
its parent. So a fork waits until no thread is in a transaction, and the child starts without
connections.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator


class Heir(Protocol):
    def after_fork(self) -> None:
        """Called in the child: forget what belongs to the parent."""
        ...


# A transaction waits for another process for 10 s at most, and a fork not much longer.
_WAIT_S = 30.0


class _Gate:
    def __init__(self) -> None:
        self._change = threading.Condition(threading.Lock())
        self._inside: dict[int, int] = {}
        # Threads that are about to fork.
        self._forking = 0
        self._heirs: weakref.WeakSet[Heir] = weakref.WeakSet()
        self._registered = False

    def watch(self, heir: Heir) -> None:
        with self._change:
            self._heirs.add(heir)
            if not self._registered:
                os.register_at_fork(
                    before=self._before, after_in_parent=self._open, after_in_child=self._born
                )
                self._registered = True

    @contextmanager
    def closed(self) -> Iterator[None]:
        me = threading.get_ident()
        with self._change:
            while self._forking and me not in self._inside:
                self._change.wait()
            self._inside[me] = self._inside.get(me, 0) + 1
        try:
            yield
        finally:
            with self._change:
                self._inside[me] -= 1
                if not self._inside[me]:
                    del self._inside[me]
                    self._change.notify_all()

    def _before(self) -> None:
        me = threading.get_ident()
        with self._change:
            self._forking += 1
            self._change.wait_for(lambda: not (self._inside.keys() - {me}), timeout=_WAIT_S)

    def _open(self) -> None:
        with self._change:
            self._forking = max(0, self._forking - 1)
            self._change.notify_all()

    def _born(self) -> None:
        # Threads that waited here do not exist in the child.
        self._change = threading.Condition(threading.Lock())
        self._inside = {}
        self._forking = 0
        for heir in list(self._heirs):
            heir.after_fork()


_gate = _Gate()


def watch(heir: Heir) -> None:
    """Tell ``heir`` (held weakly) when it wakes up in a forked child."""
    _gate.watch(heir)


class Lock:
    """A lock that is free in a forked child: the thread that held it does not exist there."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        watch(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def after_fork(self) -> None:
        self._lock = threading.Lock()


def no_fork() -> contextlib.AbstractContextManager[None]:
    """While inside, a fork by another thread waits."""
    return _gate.closed()
