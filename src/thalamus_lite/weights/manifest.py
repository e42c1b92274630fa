"""What an entry's folder says of itself: enough to rebuild the index from the folders alone."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from typing import Any

from thalamus_lite.errors import UnsafeName
from thalamus_lite.weights.names import check_names

FORMAT = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ID = re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}")


class ManifestInvalid(ValueError):
    """Not a manifest that this version wrote, or not the bytes that it wrote."""


@dataclass(frozen=True, slots=True)
class ManifestFile:
    relpath: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """One entry.

    Attributes:
        id: The first 16 digits of ``key``, a dash, 16 random ones. An index whose rows were mixed
            up is found out by it: an entry is served only for the key that its id begins with.
        key: The digest of the public name of the source; never a query string.
        ident: The digest of the key and of this content's validator.
        name: For people.
        checked_at: When the origin was asked, in seconds since 1970; None: never ask again.
        relpath: The one file; None: the entry is a directory.
    """

    id: str
    key: str
    ident: str
    name: str
    validator: str
    checked_at: float | None
    relpath: str | None
    files: tuple[ManifestFile, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    def to_json(self) -> bytes:
        body = asdict(self)
        return _dump({"format": FORMAT, **body, "sum": _sum(body)}, indent=1)

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Raises `ManifestInvalid`, for whatever is wrong with it."""
        try:
            body: dict[str, Any] = json.loads(data)
            version, total = body.pop("format"), body.pop("sum")
            if version != FORMAT or total != _sum(body):
                raise ManifestInvalid("the manifest has another format or was damaged")
            body["files"] = tuple(ManifestFile(**file) for file in body["files"])
            manifest = cls(**body)
            manifest._check()
        except (
            KeyError,
            TypeError,
            ValueError,
            AttributeError,
            RecursionError,
            UnsafeName,
        ) as error:
            raise ManifestInvalid(str(error)) from error
        return manifest

    def _check(self) -> None:
        # The sum keeps out accidents; these keep out a manifest that somebody wrote on purpose.
        check_names(file.relpath for file in self.files)
        whole = self.relpath is None or [file.relpath for file in self.files] == [self.relpath]
        honest = all(_SHA256.fullmatch(file.sha256) and file.size >= 0 for file in self.files)
        named = _ID.fullmatch(self.id) and self.id[:16] == self.key[:16]
        if not (whole and honest and named and self.files):
            raise ManifestInvalid("the manifest contradicts itself")


def _sum(body: dict[str, Any]) -> str:
    return hashlib.sha256(_dump(body)).hexdigest()


def _dump(body: dict[str, Any], indent: int | None = None) -> bytes:
    return json.dumps(body, sort_keys=True, indent=indent, ensure_ascii=True).encode()
