"""What is asked for, and what it is called in the cache."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from thalamus_lite.errors import WeightNotFound
from thalamus_lite.weights.entries.order import Order, described
from thalamus_lite.weights.names import check_names
from thalamus_lite.weights.transfer.answers import check_sizes

if TYPE_CHECKING:
    from thalamus_lite.weights.origin import Origin, RemoteFiles
    from thalamus_lite.weights.sources import WeightSource


@dataclass(frozen=True, slots=True)
class Asked:
    """``filename`` renames a single file; ``timeout_s`` takes the place of the cache's own."""

    source: WeightSource
    filename: str | None = None
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Want:
    """What was asked for, its name, and whom to ask for it."""

    asked: Asked
    key: str
    origin: Origin


def source_key(identity: str, *refinements: object) -> str:
    """The name of a mutable thing: its public identity and what narrows it (patterns, a sha256)."""
    return _digest("source", identity, *refinements)


def content_ident(key: str, remote: RemoteFiles) -> str:
    """The name of one content of it.

    An origin without validators is told apart by names and sizes: better than by nothing.
    """
    if remote.validator:
        return _digest("content", key, remote.validator)
    files = [[file.relpath, file.size, file.validator] for file in remote.files]
    return _digest("content", key, files)


def order_of(want: Want, remote: RemoteFiles, asked_at: float) -> Order:
    """What to make of the files that the origin has answered with.

    Raises:
        WeightNotFound: there are none.
        UnsafeName: one is named as no file may be.
    """
    source, filename = want.asked.source, want.asked.filename
    check_sizes(remote.files, source.name)
    files = tuple(described(file) for file in remote.files)
    if not files or (len(files) > 1 and not remote.directory):
        raise WeightNotFound(f"{source.name} consists of no files: check its name")
    if source.sha256 is not None:
        # The user's word counts before the server's; theirs must then agree with it.
        files = tuple(
            replace(file, digests={**file.digests, "sha256": source.sha256}) for file in files
        )
    if filename is not None and not remote.directory:
        files = (replace(files[0], relpath=filename),)
    check_names(file.relpath for file in files)
    remote = replace(remote, files=files)
    for_ever = remote.immutable or source.sha256 is not None
    return Order(
        key=want.key,
        ident=content_ident(want.key, remote),
        name=source.name,
        remote=remote,
        checked_at=None if for_ever else asked_at,
    )


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, default=list).encode()).hexdigest()
