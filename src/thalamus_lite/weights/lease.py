"""Locks on folders: a lease is a shared one, and the kernel gives it back whatever happens."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections import Counter
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType


class Lease(Protocol):
    """A right to ``path``: complete, verified, and there until `release`."""

    path: Path

    def release(self) -> None:
        """Give it back; a second call does nothing."""
        ...

    def __enter__(self) -> Lease: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class LocalLease:
    """A path that belongs to the user: nothing is held, nothing is given back."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def release(self) -> None:
        pass

    def __enter__(self) -> LocalLease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class EntryLease:
    """``flock(SH)`` on the entry's folder. It belongs to the process that took it.

    A forked child shares the lock: its `release` must not drop the parent's, and the parent's drops
    the child's too.
    """

    def __init__(self, path: Path, entry_id: str, fd: int, book: LeaseBook) -> None:
        self.path = path
        self.entry_id = entry_id
        self._fd = fd
        self._book = book
        self._pid = os.getpid()
        self._once = threading.Lock()
        book.add(entry_id)

    def release(self) -> None:
        if not self._once.acquire(blocking=False):
            return
        if os.getpid() == self._pid:
            unlock(self._fd)
        else:
            os.close(self._fd)
        self._book.drop(self.entry_id)

    def __enter__(self) -> EntryLease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class LeaseBook:
    """What this process holds. Other processes see only the locks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()
        self._work: set[int] = set()
        self.count = 0

    def add(self, entry_id: str) -> None:
        with self._lock:
            self._held[entry_id] += 1
            self.count += 1

    def drop(self, entry_id: str) -> None:
        with self._lock:
            self._held[entry_id] -= 1
            self.count -= 1
            if not self._held[entry_id]:
                del self._held[entry_id]

    def at_work(self, fd: int) -> None:
        """``fd`` locks a folder that this process works on alone."""
        with self._lock:
            self._work.add(fd)

    def done_with(self, fd: int) -> None:
        with self._lock:
            if fd not in self._work:
                return
            self._work.remove(fd)
        unlock(fd)

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        # A child that kept them would go on locking what its parent has died of.
        for fd in self._work:
            os.close(fd)
        self._work = set()


def unlock(fd: int) -> None:
    """Give up the lock, and close: that alone would leave it with a child that inherited it."""
    with contextlib.suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)


def lock_folder(path: Path, kind: int, flock: Callable[[int, int], None]) -> int | None:
    """A descriptor of the folder, with a lock of ``kind`` (LOCK_SH, LOCK_EX) on it.

    None: somebody is in the way.

    Raises:
        FileNotFoundError: there is no such folder, or it was moved away meanwhile.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        flock(fd, kind | fcntl.LOCK_NB)
        mine, named = os.fstat(fd), os.stat(path)
        if (mine.st_dev, mine.st_ino) != (named.st_dev, named.st_ino):
            raise FileNotFoundError(os.fspath(path))
    except BlockingIOError:
        os.close(fd)
        return None
    except BaseException:
        unlock(fd)
        raise
    return fd


def locks_hold(folder: Path, flock: Callable[[int, int], None]) -> bool:
    """Whether a second exclusive lock is refused here, as it must be."""
    first = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    second = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        flock(first, fcntl.LOCK_SH)
        flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        unlock(second)
        unlock(first)
