"""The seam between the cache, which knows no protocol, and the origins, which know no cache.

The cache asks an origin what a source consists of (`Origin.list`), has the engine of
``transfer/`` bring each file into a part file (`Download`), and publishes what was verified.
Nothing here does I/O; the implementations are in ``origins/``.

Both sides of the seam keep to this file; it changes only together with both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from thalamus_lite.errors import WeightError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from thalamus_lite.weights.sources import WeightSource

Extents = tuple[tuple[int, int], ...]
"""Half-open byte ranges ``(start, stop)``, sorted, disjoint, not adjacent."""


class DownloadCancelled(WeightError):
    """The caller's cancel event was set; what was written stays and can be resumed."""

    code = "weight_cancelled"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file as its origin describes it.

    Attributes:
        relpath: The name inside the entry, already checked by `names.check_relpath`.
        locator: What the origin needs to open it (a URL, a key). It may hold a signed query, so it
            is never logged, never stored and never part of an error message.
        size: Bytes, or None when the origin does not say.
        validator: A strong ETag, a VersionId or a blob id; ``""`` when there is none, and then the
            file cannot be resumed.
        digests: What the origin claims about the bytes: ``sha256``, ``md5``, ``git_sha1`` in hex,
            ``crc32c``, ``crc64nvme`` in base64. The cache puts the user's own sha256 here.
    """

    relpath: str
    locator: str
    size: int | None
    validator: str
    digests: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RemoteFiles:
    """What a source consists of at this moment.

    Attributes:
        directory: False: the entry's path is its one file.
        validator: Names this content (a commit, a VersionId, a list of ETags) and enters the ident.
            ``""`` when the origin cannot tell one content from another: the copy in the cache then
            counts as current until it is cleared.
        immutable: True: never revalidated (a commit, a VersionId).
    """

    files: tuple[RemoteFile, ...]
    directory: bool
    validator: str
    immutable: bool


class RangeBody(Protocol):
    """An open answer."""

    status: int
    """200 or 206."""
    start: int
    total: int | None
    validator: str

    def read(self, n: int) -> bytes:
        """At most ``n`` bytes, ``b""`` at the end.

        Raises:
            WeightUnreachable: the connection broke; its ``retryable`` says whether to try again.
        """
        ...

    def abort(self) -> None:
        """End a read in progress in another thread: it returns or raises at once."""
        ...

    def close(self) -> None: ...


class Origin(Protocol):
    """One kind of server. Thread-safe; one object serves any number of sources of its kind."""

    def list(self, source: WeightSource) -> RemoteFiles:
        """Ask for the files, in one or two metadata requests. Patterns are already applied.

        Raises:
            WeightNotFound, WeightAccessDenied, WeightUnreachable, UnsafeName, MissingExtra.
        """
        ...

    def revalidate(self, source: WeightSource, validator: str) -> RemoteFiles | None:
        """None: unchanged since ``validator``, that of the `RemoteFiles`. Raises as `list` does."""
        ...

    def open(self, file: RemoteFile, start: int = 0, stop: int | None = None) -> RangeBody:
        """Open bytes ``[start, stop)`` of the file."""
        ...

    def identity(self, source: WeightSource) -> str:
        """The public, stable name of the mutable thing; asks nobody.

        Kind, endpoint, bucket and key or prefix, repo with filename and revision, or URL. No
        userinfo, no signature, no query string: see `names.url_identity` for how a query that
        chooses the content still tells two URLs apart.
        """
        ...


@dataclass(frozen=True, slots=True)
class OriginOptions:
    """What every origin is told. ``timeout_s`` bounds a connection attempt and each single read."""

    deny_private_addresses: bool = False
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class PartFile:
    """A download under way, owned by the caller of `Download` alone.

    Attributes:
        path: May exist already, holding ``extents``.
        extents: Bytes that are there from an earlier attempt with the same ``validator``.
        on_extents: Called with all extents after their data is written, every 64 MiB or 2 s, and
            with ``()`` before starting over. It persists them, and may raise (the disk or the cache
            is full): let that pass through.
    """

    path: Path
    size: int | None
    validator: str
    extents: Extents
    on_extents: Callable[[Sequence[tuple[int, int]]], None]


@dataclass(frozen=True, slots=True)
class Downloaded:
    """``sha256`` is ours, in hex, over all ``size`` bytes of the part file."""

    size: int
    sha256: str


class Progress(Protocol):
    """One entry's download, told by any number of threads, read by anyone without a lock."""

    name: str
    total_bytes: int | None
    done_bytes: int
    """Bytes that are in place: resumed ones count, a restart takes them back."""
    received_bytes: int
    """Bytes that came over the wire; never goes down."""
    retries: int
    resumed_bytes: int

    def received(self, n: int) -> None: ...
    def retried(self) -> None: ...
    def resumed(self, n: int) -> None: ...
    def restarted(self, n: int) -> None:
        """``n`` bytes in place are given up."""
        ...

    def close(self) -> None: ...


class Download(Protocol):
    """``transfer.download``: bring one file, whole and verified, into its part file.

    A digest that does not match deletes the bytes, fetches once more, then raises.

    Raises:
        WeightChanged: the object is not the one listed any more; the caller lists again.
        WeightCorrupt: the digest does not match, twice.
        DownloadCancelled: ``cancel`` was set.
        WeightNotFound, WeightAccessDenied, WeightUnreachable.
    """

    def __call__(
        self,
        origin: Origin,
        file: RemoteFile,
        part: PartFile,
        *,
        progress: Progress,
        cancel: threading.Event,
    ) -> Downloaded: ...
