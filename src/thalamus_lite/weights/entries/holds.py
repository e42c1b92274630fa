"""Who may work on a download: ``flock(EX)`` on its folder, between threads as between processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thalamus_lite.errors import CacheUnusable
from thalamus_lite.weights.entries.layout import disk_errors
from thalamus_lite.weights.lease import lock_folder
from thalamus_lite.weights.origin import DownloadCancelled

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator
    from pathlib import Path

    from thalamus_lite.weights.entries.store import Store

_FIRST_PAUSE_S = 0.01
_LAST_PAUSE_S = 0.25


class PublishedMeanwhile(Exception):
    """Another has made the entry while this one waited or worked: look again."""


class FolderDeleted(CacheUnusable):
    """Somebody has deleted what was being worked in; it is there again: begin anew."""

    def __init__(self) -> None:
        super().__init__(
            "folders of the weight cache are deleted while it is in use: find out which program"
            " does so, or move THALAMUS_CACHE_DIR"
        )


@dataclass(frozen=True, slots=True)
class Hold:
    """``alone`` False: others may work in ``folder`` too, so only files of one's own are safe."""

    folder: Path
    alone: bool


@contextmanager
def hold_partial(store: Store, ident: str, cancel: threading.Event) -> Iterator[Hold]:
    """The download's folder, for oneself if at all possible.

    Raises:
        PublishedMeanwhile: there is nothing left to download.
        DownloadCancelled: ``cancel`` was set while waiting for another.
    """
    folder = store.layout.partial(ident)
    fd = _wait(store, ident, cancel)
    if fd is None:
        yield Hold(folder, alone=False)
        return
    store.leases.at_work(fd)
    try:
        yield Hold(folder, alone=store.locks_hold)
    finally:
        with contextlib.suppress(OSError):
            # Only if it is empty: what can be gone on with stays.
            folder.rmdir()
        store.leases.done_with(fd)


def take_over(store: Store, ident: str) -> int | None:
    """A locked descriptor of a download's folder that nobody works on; None: somebody does.

    The folder is made where it is missing: with the lock on it nobody can begin meanwhile.
    """
    if not store.locks_hold:
        # The lock would be granted, whoever is at work.
        return None
    folder = store.layout.partial(ident)
    store.layout.make(folder)
    with disk_errors():
        try:
            return lock_folder(folder, fcntl.LOCK_EX, store.system.flock)
        except FileNotFoundError:
            return None


def _wait(store: Store, ident: str, cancel: threading.Event) -> int | None:
    """A locked descriptor; None: the holder has stood still for longer than anybody's patience."""
    folder = store.layout.partial(ident)
    pause = _FIRST_PAUSE_S
    seen, since = 0, store.system.monotonic()
    while True:
        store.layout.make(folder)
        with disk_errors(), contextlib.suppress(FileNotFoundError):
            fd = lock_folder(folder, fcntl.LOCK_EX, store.system.flock)
            if fd is not None:
                return fd
        if store.index.ready(ident) is not None:
            raise PublishedMeanwhile
        now, signs = store.system.monotonic(), _signs_of_life(folder)
        if signs != seen:
            seen, since = signs, now
        elif now - since > store.options.patience_s:
            return None
        if cancel.wait(pause):
            raise DownloadCancelled("the wait for another process's download was cancelled")
        pause = min(2 * pause, _LAST_PAUSE_S)


def _signs_of_life(folder: Path) -> int:
    newest = 0
    with contextlib.suppress(OSError), os.scandir(folder) as files:
        for file in files:
            newest = max(newest, file.stat(follow_symlinks=False).st_mtime_ns)
    return newest
