"""What is asked for, and what it is called in the cache."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

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


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, default=list).encode()).hexdigest()
