"""What lies in the cache and no manifest knows, when an index is made from the manifests."""

from __future__ import annotations

import fcntl
from contextlib import suppress
from typing import TYPE_CHECKING

from thalamus_lite.weights.entries.layout import disk_errors
from thalamus_lite.weights.lease import lock_folder, unlock

if TYPE_CHECKING:
    from pathlib import Path

    from thalamus_lite.weights.entries.layout import Layout
    from thalamus_lite.weights.manifest import Manifest
    from thalamus_lite.weights.options import System


def strangers_to(layout: Layout, manifests: list[Manifest]) -> tuple[list[Path], list[Path]]:
    """Folders and blobs that none of these manifests knows: the new index does not count them, and
    nothing else would ever remove them.
    """
    kept = {file.sha256 for manifest in manifests for file in manifest.files}
    entries = {manifest.id for manifest in manifests}
    folders: list[Path] = []
    blobs: list[Path] = []
    with disk_errors(), suppress(FileNotFoundError):
        folders += [
            folder
            for folder in [*layout.entries.iterdir(), *layout.partials.iterdir()]
            if folder.name not in entries
        ]
        for shelf in layout.blobs.iterdir():
            blobs += [blob for blob in shelf.iterdir() if blob.name not in kept]
    return folders, blobs


def drop(strangers: tuple[list[Path], list[Path]], layout: Layout, system: System) -> None:
    """Remove them, but folders that somebody uses."""
    folders, blobs = strangers
    with disk_errors():
        for folder in folders:
            with suppress(FileNotFoundError):
                _discard_unused(layout, folder, system)
        for blob in blobs:
            blob.unlink(missing_ok=True)


def _discard_unused(layout: Layout, folder: Path, system: System) -> None:
    try:
        fd = lock_folder(folder, fcntl.LOCK_EX, system.flock)
    except OSError:
        fd = -1
    if fd is None:
        return
    try:
        layout.discard(folder)
    finally:
        if fd >= 0:
            unlock(fd)
