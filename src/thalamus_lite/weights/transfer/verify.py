"""What an origin claims about a file's bytes, strongest first, and the check of it.

sha256 is always computed, since the cache names blobs by it. One more digest runs beside it only
where the origin claims something else.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from thalamus_lite.weights.origin import RemoteFile


class Checksum(Protocol):
    def update(self, data: memoryview) -> None: ...
    def digest(self) -> str: ...


class _Hash:
    """A hashlib hash; ``start`` goes before the bytes."""

    def __init__(self, name: str, start: bytes = b"") -> None:
        self._hash = hashlib.new(name, start, usedforsecurity=False)

    def update(self, data: memoryview) -> None:
        self._hash.update(data)

    def digest(self) -> str:
        return self._hash.hexdigest()


class _Crc:
    """A running CRC, in S3's spelling: base64 of its big-endian bytes."""

    def __init__(self, function: Callable[[memoryview, int], int], width: int) -> None:
        self._function = function
        self._width = width
        self._value = 0

    def update(self, data: memoryview) -> None:
        self._value = self._function(data, self._value)

    def digest(self) -> str:
        return base64.b64encode(self._value.to_bytes(self._width, "big")).decode()


def _accelerated(name: str) -> Callable[[memoryview, int], int] | None:
    # zlib has neither polynomial, and a table in Python does some 5 MB/s: hours for a large model.
    try:
        function = getattr(import_module("awscrt.checksums"), name, None)
    except ImportError:
        return None
    if function is None:
        return None
    return lambda data, value: int(function(data, value))


def _crc64nvme(size: int | None) -> Checksum | None:
    function = _accelerated("crc64nvme")
    return None if function is None else _Crc(function, 8)


def _crc32c(size: int | None) -> Checksum | None:
    function = _accelerated("crc32c")
    return None if function is None else _Crc(function, 4)


def _git_sha1(size: int | None) -> Checksum | None:
    # git hashes a header with the length in front, so an unknown length cannot be checked.
    return None if size is None else _Hash("sha1", b"blob %d\0" % size)


# In order of strength. A maker answers None where the digest cannot be computed here.
CHECKS: dict[str, Callable[[int | None], Checksum | None]] = {
    "sha256": lambda size: _Hash("sha256"),
    "git_sha1": _git_sha1,
    "sha1": lambda size: _Hash("sha1"),
    "crc64nvme": _crc64nvme,
    "crc32c": _crc32c,
    "crc32": lambda size: _Crc(zlib.crc32, 4),
    "md5": lambda size: _Hash("md5"),
}


class Verifier:
    """Follows a file's bytes in order.

    Attributes:
        check: The name of the strongest claim that can be checked, ``""`` when there is none.
    """

    def __init__(self, digests: Mapping[str, str], size: int | None) -> None:
        self._sha256 = hashlib.sha256()
        self._second: Checksum | None = None
        self.check = ""
        self._claim = ""
        for name, make in CHECKS.items():
            if not digests.get(name):
                continue
            self._second = None if name == "sha256" else make(size)
            if name == "sha256" or self._second is not None:
                self.check, self._claim = name, digests[name]
                return

    def update(self, data: memoryview) -> None:
        self._sha256.update(data)
        if self._second is not None:
            self._second.update(data)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def matches(self) -> bool:
        """True when the claim holds, or when there is none."""
        if not self.check:
            return True
        found = self.sha256 if self._second is None else self._second.digest()
        return found == self._claim


def is_verifiable(file: RemoteFile) -> bool:
    """Whether the bytes can be checked at the end, so that a server that says less does no harm."""
    return bool(Verifier(file.digests, file.size).check)
