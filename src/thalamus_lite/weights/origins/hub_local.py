"""Files that huggingface-hub's own cache holds already."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from thalamus_lite.weights.transfer.verify import Verifier, is_verifiable

if TYPE_CHECKING:
    from thalamus_lite.weights.origin import RemoteFile

_BLOCK = 1024 * 1024


class LocalBody:
    """A `RangeBody` over a local file.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: str, file: RemoteFile, start: int, stop: int | None) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._stop = os.fstat(self._fd).st_size if stop is None else stop
        self._position = start
        self.status = 206 if start or stop is not None else 200
        self.start = start
        self.total = file.size
        self.validator = file.validator

    def read(self, n: int) -> bytes:
        data = os.pread(self._fd, max(0, min(n, self._stop - self._position)), self._position)
        self._position += len(data)
        return data

    def abort(self) -> None:
        """A disk keeps nobody waiting."""

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Verified:
    """Which local files were found to be what the hub says.

    The file is read twice, here and by the engine, which is cheaper than fetching it, and keeps a
    damaged copy from being taken for damage on the hub.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[str, int, int, str], bool] = {}

    def holds(self, path: str, file: RemoteFile) -> bool:
        try:
            found = os.stat(path)
        except OSError:
            return False
        if not is_verifiable(file) or found.st_size != file.size:
            return False
        key = (path, found.st_ino, found.st_mtime_ns, repr(sorted(file.digests.items())))
        # Ranges of one file come from several threads: the first reads it, the others wait.
        with self._lock:
            if key not in self._known:
                self._known[key] = _matches(path, file)
            return self._known[key]


def _matches(path: str, file: RemoteFile) -> bool:
    verifier = Verifier(file.digests, file.size)
    try:
        with open(path, "rb", buffering=0) as local:
            while block := local.read(_BLOCK):
                verifier.update(memoryview(block))
    except OSError:
        return False
    return verifier.matches()
