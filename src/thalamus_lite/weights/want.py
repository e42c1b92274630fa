"""What a source is called in the cache."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thalamus_lite.weights.origin import RemoteFiles


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
