"""What SQLite says, as errors of ours."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING

from thalamus_lite.errors import CacheUnusable, DiskFull, WeightError

if TYPE_CHECKING:
    from collections.abc import Iterator

_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CONSTRAINT}
_DAMAGED_TEXT = ("no such table", "no such column", "malformed")


class IndexDamaged(CacheUnusable):
    """The index is missing, corrupt or not ours: it is set aside and rebuilt from the manifests.

    ``file_id`` is the (device, inode) of the file it was found in, where known.
    """

    file_id: tuple[int, int] | None = None


class IndexNewer(CacheUnusable):
    """A later version has changed the index under us, or made it: hands off."""

    def __init__(self) -> None:
        super().__init__(
            "the weight cache was made by a newer thalamus-lite: upgrade this one, or set"
            " THALAMUS_CACHE_DIR to another folder"
        )


@contextmanager
def typed_errors(busy_s: float) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise _typed(error, busy_s) from error
    except UnicodeDecodeError as error:
        # Of a text in the file, or of SQLite's own message about it.
        raise IndexDamaged("the weight cache's index is corrupt") from error


def _typed(error: sqlite3.Error, busy_s: float) -> WeightError:
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    if code in _DAMAGED or any(text in str(error) for text in _DAMAGED_TEXT):
        return IndexDamaged("the weight cache's index is corrupt")
    if code == sqlite3.SQLITE_FULL:
        return DiskFull(
            "the disk of the weight cache is full: free space, or move THALAMUS_CACHE_DIR"
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return CacheUnusable(
            f"another program has kept the weight cache's index locked for {busy_s:.0f} s: close it"
        )
    if code == sqlite3.SQLITE_READONLY:
        return CacheUnusable(
            "the weight cache cannot be written, so nothing can be added to it: make"
            " THALAMUS_CACHE_DIR writable"
        )
    return CacheUnusable(
        f"the weight cache's index cannot be used ({error}): check THALAMUS_CACHE_DIR and its disk"
    )
