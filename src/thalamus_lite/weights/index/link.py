"""One thread's way to the index: a connection, and a descriptor of the folder that it is in."""

from __future__ import annotations

import ctypes
import os
import sqlite3
import threading
from typing import TYPE_CHECKING
from urllib.parse import quote

from thalamus_lite.errors import CacheUnusable
from thalamus_lite.weights.index import schema
from thalamus_lite.weights.index.sqlerrors import IndexDamaged, IndexNewer

if TYPE_CHECKING:
    from pathlib import Path

_NO_FILE = (0, 0)
_JOURNAL_BYTES = 1024 * 1024


class Link:
    """A thread's connection, and its descriptor of the folder."""

    folder = -1
    _connection: sqlite3.Connection | None = None

    def __init__(self, folder: Path) -> None:
        # Held through each use, so that close() from another thread waits for the end of it.
        self.busy = threading.Lock()
        self.folder = open_folder(folder)
        stat = os.fstat(self.folder)
        self._folder_id = (stat.st_dev, stat.st_ino)
        self.file_id = _NO_FILE

    def is_current(self, folder: Path) -> bool:
        if self.folder < 0:
            return False
        try:
            stat = os.stat(folder)
        except FileNotFoundError:
            return False
        return (stat.st_dev, stat.st_ino) == self._folder_id

    def connection(self, path: Path, busy_s: float) -> sqlite3.Connection:
        try:
            stat = os.stat(path)
        except FileNotFoundError:
            self.file_id = _NO_FILE
            raise IndexDamaged("the weight cache's index is missing") from None
        file_id = (stat.st_dev, stat.st_ino)
        if self._connection is not None and self.file_id != file_id:
            self._connection.close()
            self._connection = None
        if self._connection is None:
            self.file_id = file_id
            self._connection = connect(path, busy_s)
        if self._connection.in_transaction:
            # A second Ctrl-C has kept the first from ending it.
            self._connection.execute("ROLLBACK")
        return self._connection

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        folder, self.folder = self.folder, -1
        if folder >= 0:
            os.close(folder)

    def abandon(self) -> None:
        if self._connection is not None:
            # Never collected: collecting closes it, which SQLite forbids in a forked child.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._connection))
            self._connection = None
        self.close()

    def __del__(self) -> None:
        # The thread has ended; sqlite3 would warn of a connection that nobody closed.
        self.close()


def connect(path: Path, busy_s: float) -> sqlite3.Connection:
    """An autocommit connection to an existing file.

    Raises:
        IndexNewer: nothing was changed in it.
    """
    connection = sqlite3.connect(
        f"file:{quote(os.fspath(path))}?mode=rw",
        uri=True,
        timeout=busy_s,
        isolation_level=None,
        # Another thread closes it, in `Database.close`.
        check_same_thread=False,
    )
    try:
        refuse_newer(connection)
        connection.execute("PRAGMA synchronous = NORMAL")
        # A journal that stays has its blocks already: on a full disk, rows can still be deleted.
        connection.execute("PRAGMA journal_mode = PERSIST")
        connection.execute(f"PRAGMA journal_size_limit = {_JOURNAL_BYTES}")
        connection.execute("PRAGMA temp_store = MEMORY")
    except BaseException:
        connection.close()
        raise
    return connection


def refuse_newer(connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > schema.VERSION:
        raise IndexNewer


def open_folder(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        raise IndexDamaged("the weight cache's folder is missing") from None
    except OSError as error:
        raise CacheUnusable(
            f"the weight cache's folder {path} cannot be opened ({error.strerror}): set"
            " THALAMUS_CACHE_DIR to a folder of your own"
        ) from None
