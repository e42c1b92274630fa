"""The part file while it is written: positions that are there, and hashes that follow them.

Any number of threads call `PartWriter.write`. One thread, the one that called the engine, owns the
rest: it alone calls `PartFile.on_extents`, since the cache's database connections are per thread.
"""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING

from thalamus_lite.errors import CacheUnusable, DiskFull
from thalamus_lite.weights.transfer.ranges import ExtentSet
from thalamus_lite.weights.transfer.verify import Verifier

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from thalamus_lite.weights.origin import Extents, PartFile

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_BLOCK = 1024 * 1024


class PartWriter:
    """Positional writes into one part file, and the digests of its contiguous prefix.

    The hasher reads the bytes back (from the page cache) rather than being handed them: ranges
    arrive out of order, and a queue of them would hold memory in proportion to the slowest.

    Raises:
        DiskFull, CacheUnusable: from every method that touches the file.
    """

    def __init__(self, part: PartFile, digests: Mapping[str, str]) -> None:
        self._part = part
        self._digests = digests
        # O_NOFOLLOW: the name is ours alone, so a link there was put by somebody else.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._fd = os.open(part.path, flags, 0o600)
        except OSError as error:
            raise _disk_error(error) from error
        self._changed = threading.Condition()
        self._extents = ExtentSet()
        self._unsaved = 0
        self._verifier = Verifier(digests, part.size)
        self._hashed = 0
        self._follower: threading.Thread | None = None
        self._writing = 0
        self._closing = False
        self._broken: OSError | None = None

    def resume(self, ranges: Iterable[tuple[int, int]]) -> int:
        """Take over ``ranges`` from an earlier attempt; returns how many bytes that saves."""
        ranges = ExtentSet(ranges)
        if ranges.end > os.fstat(self._fd).st_size:
            # The file is shorter than the record of it: nothing in the record can be believed.
            return 0
        with self._changed:
            self._extents = ranges
            self._changed.notify_all()
            return ranges.covered

    def write(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        position = offset
        with self._changed:
            if self._closing:
                # By now the descriptor may be that of another file.
                raise CacheUnusable("the file of this download was closed")
            self._writing += 1
        try:
            while view:
                written = os.pwrite(self._fd, view, position)
                position += written
                view = view[written:]
        except OSError as error:
            raise _disk_error(error) from error
        finally:
            with self._changed:
                self._writing -= 1
                if self._closing:
                    self._changed.notify_all()
        with self._changed:
            before = self._extents.prefix
            self._extents.add(offset, position)
            self._unsaved += len(data)
            if self._follower is not None and self._extents.prefix != before:
                self._changed.notify_all()

    @property
    def unsaved(self) -> int:
        """Bytes written since the last `save`."""
        return self._unsaved

    def gaps(self, size: int) -> list[tuple[int, int]]:
        with self._changed:
            return self._extents.gaps(size)

    def save(self) -> None:
        """Hand the extents to their keeper, whose errors pass through."""
        with self._changed:
            extents: Extents = self._extents.as_tuple()
            self._unsaved = 0
        self._part.on_extents(extents)

    def forget(self) -> int:
        """Give all bytes up; returns how many they were. No writer may be active."""
        with self._changed:
            lost = self._extents.covered
            self._extents = ExtentSet()
            self._unsaved = 0
            self._hashed = 0
            # A new object, so that a follower in the middle of a block only spoils the old one.
            self._verifier = Verifier(self._digests, self._part.size)
        return lost

    def follow(self) -> None:
        """Hash beside the download, in a thread of its own, until `finish` or `close`."""
        if self._follower is None:
            follower = threading.Thread(target=self._run, name="thalamus-weights-hash", daemon=True)
            follower.start()
            self._follower = follower

    def finish(self, size: int) -> Verifier:
        """Cut the file to ``size``, hash what is left, and return the verifier of the whole.

        Raises:
            CacheUnusable: the file cannot be read back.
        """
        try:
            if os.fstat(self._fd).st_size != size:
                os.ftruncate(self._fd, size)
            if self._follower is None:
                while self._hash_block():
                    pass
            else:
                with self._changed:
                    self._changed.wait_for(lambda: self._hashed >= size or self._broken)
        except OSError as error:
            raise _disk_error(error) from error
        if self._broken is not None:
            raise _disk_error(self._broken) from self._broken
        return self._verifier

    def close(self) -> None:
        """Wait for writes in progress; later ones are refused."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._writing)
        if self._follower is not None:
            self._follower.join()
        os.close(self._fd)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._extents.prefix > self._hashed)
                if self._closing:
                    return
            try:
                self._hash_block()
            except OSError as error:
                with self._changed:
                    self._broken = error
                    self._changed.notify_all()
                return

    def _hash_block(self) -> bool:
        """Hash the next block of the prefix; False when there is none."""
        with self._changed:
            verifier, start = self._verifier, self._hashed
            length = min(_BLOCK, self._extents.prefix - start)
        if length <= 0:
            return False
        block = os.pread(self._fd, length, start)
        if not block:
            raise OSError(errno.EIO, "the part file is shorter than what was written to it")
        verifier.update(memoryview(block))
        with self._changed:
            # `forget` may have put a new verifier in place meanwhile.
            if verifier is self._verifier:
                self._hashed = start + len(block)
                self._changed.notify_all()
        return True


def _disk_error(error: OSError) -> DiskFull | CacheUnusable:
    reason = os.strerror(error.errno) if error.errno else type(error).__name__
    if error.errno in _FULL:
        return DiskFull(f"the disk of the weight cache is full ({reason}): free some space on it")
    return CacheUnusable(
        f"a file of the weight cache cannot be written or read back ({reason}):"
        " check the disk, and THALAMUS_CACHE_DIR"
    )
