"""Connections to the index: one per thread, none over a fork, none on a file that was replaced."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
import time
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING

from thalamus_lite.errors import CacheUnusable
from thalamus_lite.weights.forks import no_fork, watch
from thalamus_lite.weights.index.link import Link, connect, open_folder, refuse_newer
from thalamus_lite.weights.index.sqlerrors import IndexDamaged, typed_errors
from thalamus_lite.weights.lease import unlock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_PEEK_S = 10.0
# A rebuild of 100,000 entries takes seconds; all others wait for it.
_REBUILD_WAIT_S = 120.0


class Database:
    """One SQLite file, in a folder whose ``flock`` tells its users (SH) from whom replaces it (EX).

    Without that lock a user could create a rollback journal under a name at which a new database
    has appeared, and SQLite would play it back into the wrong file.
    """

    def __init__(self, path: Path, busy_s: float, flock: Callable[[int, int], None]) -> None:
        self.path = path
        self._busy_s = busy_s
        self._flock = flock
        self._threads = threading.local()
        self._links: weakref.WeakSet[Link] = weakref.WeakSet()
        self._links_lock = threading.Lock()
        self._replacing: set[int] = set()
        watch(self)

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A connection for single SELECTs; each sees the last commit.

        Raises:
            IndexDamaged: the file is missing or not usable as an index.
            CacheUnusable: it is locked for too long, or cannot be read.
        """
        with no_fork(), self._shared() as link, typed_errors(self._busy_s):
            yield link.connection(self.path, self._busy_s)

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One BEGIN IMMEDIATE transaction, committed at the end of the block.

        Raises:
            DiskFull: it could not be written; nothing of it remains.
            IndexNewer: so is nothing of it.
            IndexDamaged, CacheUnusable: as `read`.
        """
        with no_fork(), self._shared() as link, typed_errors(self._busy_s):
            connection = link.connection(self.path, self._busy_s)
            try:
                # Inside: Ctrl-C is raised right after the wait for another process's transaction.
                connection.execute("BEGIN IMMEDIATE")
                # An upgrade in another process changes the file under an open connection.
                refuse_newer(connection)
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                # SQLite has rolled back by itself after some errors.
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise

    def version(self) -> int | None:
        """The schema's; None: there is no index that could be read. Raises as `read` does."""
        try:
            with self.read() as db:
                return _version(db)
        except IndexDamaged:
            return None

    @contextmanager
    def replaced(self) -> Iterator[None]:
        """No one else uses the file inside: it may be renamed, and another put in its place."""
        fd = open_folder(self.path.parent)
        self._replacing.add(fd)
        try:
            self._lock(fd, fcntl.LOCK_EX)
            yield
        finally:
            self._replacing.discard(fd)
            unlock(fd)

    def close(self) -> None:
        """Close the connections of all threads; a later use opens new ones."""
        with self._links_lock:
            links = list(self._links)
        for link in links:
            with link.busy:
                link.close()

    def after_fork(self) -> None:
        for link in list(self._links):
            link.abandon()
        # With the lock on it, all would wait for this child if the parent died in the middle.
        for fd in self._replacing:
            os.close(fd)
        self._replacing = set()
        self._threads = threading.local()
        self._links = weakref.WeakSet()
        self._links_lock = threading.Lock()

    @contextmanager
    def _shared(self) -> Iterator[Link]:
        link = self._link()
        link.busy.acquire()
        while link.folder < 0:
            # Closed by another thread between these two.
            link.busy.release()
            link = self._link()
            link.busy.acquire()
        try:
            self._lock(link.folder, fcntl.LOCK_SH)
            try:
                yield link
            except IndexDamaged as error:
                error.file_id = link.file_id
                raise
            finally:
                self._flock(link.folder, fcntl.LOCK_UN)
        finally:
            link.busy.release()

    def _link(self) -> Link:
        link: Link | None = getattr(self._threads, "link", None)
        if link is None or not link.is_current(self.path.parent):
            if link is not None:
                link.close()
            link = Link(self.path.parent)
            self._threads.link = link
            with self._links_lock:
                self._links.add(link)
        return link

    def _lock(self, fd: int, kind: int) -> None:
        deadline = time.monotonic() + _REBUILD_WAIT_S
        while True:
            try:
                return self._flock(fd, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise CacheUnusable(
                        f"another process has been rebuilding the weight cache's index for"
                        f" {_REBUILD_WAIT_S:.0f} s: see what holds {self.path.parent.name}/"
                    ) from None
                time.sleep(0.002)


def peek_version(path: Path) -> int | None:
    """As `Database.version`, for who is inside `Database.replaced`."""
    if not path.exists():
        return None
    try:
        with typed_errors(_PEEK_S):
            connection = connect(path, _PEEK_S)
            try:
                return _version(connection)
            finally:
                connection.close()
    except IndexDamaged:
        return None


def _version(db: sqlite3.Connection) -> int:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version:
        db.execute("SELECT count(*) FROM counter").fetchone()
    return int(version)
