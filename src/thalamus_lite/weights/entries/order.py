"""What an entry is to be, and what it is made with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from pathlib import Path

    from thalamus_lite.weights.entries.stats import Tally
    from thalamus_lite.weights.origin import Download, Origin, Progress, RemoteFile, RemoteFiles

_HEX = ("sha256", "sha1", "git_sha1", "md5")


@dataclass(frozen=True, slots=True)
class Order:
    """What to make: ``remote``'s files, as the entry of ``ident``."""

    key: str
    ident: str
    name: str
    remote: RemoteFiles
    checked_at: float | None


@dataclass(frozen=True, slots=True)
class Means:
    """What to make it with.

    Attributes:
        prepare: Makes what there is to bring at a path of the download's own, and says which files
            that are: they take the place of those that were ordered.
    """

    origin: Origin
    download: Download
    progress: Callable[[str, int | None], Progress]
    tally: Tally
    cancel: threading.Event
    prepare: Callable[[Path], RemoteFiles] | None = None


def described(file: RemoteFile) -> RemoteFile:
    """The file as the rest of the cache wants it: an origin may write hex either way."""
    digests = {k: v.lower() if k in _HEX else v for k, v in file.digests.items()}
    return replace(file, digests=digests)
