"""Blobs: bytes that several files have in common lie on the disk once.

A blob's name says what it was when it was put there, not what another program or the disk has made
of it since. So it is read once before anything new is linked to it, whoever vouches for its name.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import secrets
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from thalamus_lite.weights.entries.layout import NO_LINK, disk_errors
from thalamus_lite.weights.origin import DownloadCancelled

if TYPE_CHECKING:
    import threading
    from pathlib import Path

    from thalamus_lite.weights.entries.layout import Layout
    from thalamus_lite.weights.manifest import ManifestFile

Identity = tuple[int, int, int, int]

_log = logging.getLogger("thalamus_lite")

_BLOCK = 1024 * 1024
# A blob that is found may be evicted before it is linked to, but hardly four times.
_TRIES = 4
# They say nothing about the file.
OUT_OF_MEANS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


@dataclass(slots=True)
class Shelf:
    """The blobs, as one who makes an entry sees them: each is read once at most."""

    layout: Layout
    cancel: threading.Event
    _sound: set[Identity] = field(default_factory=set)

    def has(self, file: ManifestFile) -> bool:
        """Whether the file's blob may be linked to; a damaged one is set aside.

        Raises:
            DownloadCancelled: the caller's event was set meanwhile.
        """
        blob = self.layout.blob(file.sha256)
        with disk_errors():
            try:
                if _identity(blob) in self._sound or self._read(blob, file):
                    return True
            except FileNotFoundError:
                return False
        _log.warning(
            "a file of the weight cache was changed by another program, and is not used any more:"
            " `thalamus-lite cache verify` finds the entries that have it"
        )
        self.layout.discard(blob)
        return False

    def take(self, part: Path, file: ManifestFile, target: Path) -> None:
        """Make the blob and ``target``, which is the part under another name, one file.

        A sound blob that is there stays, and takes the place of ``target``: what is linked to it is
        not written twice. The part's name goes.
        """
        blob = self.layout.blob(file.sha256)
        with disk_errors():
            if not self._linked(part, file, target):
                os.replace(part, blob)
            part.unlink(missing_ok=True)

    def _linked(self, part: Path, file: ManifestFile, target: Path) -> bool:
        """False: these two cannot be linked, or only while others evict and publish the blob."""
        blob = self.layout.blob(file.sha256)
        for _ in range(_TRIES):
            self.layout.make(blob.parent)
            try:
                os.link(target, blob)
            except FileExistsError:
                if self.has(file) and self._put_in_place_of(target, blob, part):
                    return True
            except OSError as error:
                if error.errno in NO_LINK:
                    return False
                raise
            else:
                self._sound.add(_identity(target))
                return True
        return False

    def _put_in_place_of(self, target: Path, blob: Path, part: Path) -> bool:
        """False: the blob went meanwhile, or has as many links as a file can have."""
        twin = part.with_name(f"{secrets.token_hex(8)}.twin")
        try:
            os.link(blob, twin)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno in NO_LINK:
                return False
            raise
        # Another may have taken its name since it was read.
        if found := _identity(twin) in self._sound:
            os.replace(twin, target)
        # Two names of one file are not renamed over each other.
        twin.unlink(missing_ok=True)
        return found

    def _read(self, blob: Path, file: ManifestFile) -> bool:
        try:
            # A pipe under this name would be waited for.
            fd = os.open(blob, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.ENOENT or error.errno in OUT_OF_MEANS:
                raise
            return False
        try:
            found = os.fstat(fd)
            mine = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
            sound = mine and found.st_size == file.size and self._digest(fd) == file.sha256
        finally:
            os.close(fd)
        if sound:
            self._sound.add(identity(found))
        return sound

    def _digest(self, fd: int) -> str:
        """ "" for what cannot be read."""
        digest = hashlib.sha256()
        with suppress(OSError):
            while block := os.read(fd, _BLOCK):
                if self.cancel.is_set():
                    raise DownloadCancelled("the wait for the weights was cancelled")
                digest.update(block)
            return digest.hexdigest()
        return ""


def identity(found: os.stat_result) -> Identity:
    """Of a file's bytes, for as long as somebody looks: an inode is soon used again by another.

    Not the time of change: that is new with each link.
    """
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _identity(path: Path) -> Identity:
    return identity(path.lstat())
