"""What lies in the folders of a cache and is not known to it: of others, or of no use any more."""

from __future__ import annotations

import fcntl
import os
import re
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from thalamus_lite.errors import CacheUnusable
from thalamus_lite.weights.entries.layout import disk_errors
from thalamus_lite.weights.lease import lock_folder, unlock
from thalamus_lite.weights.manifest import Manifest, ManifestInvalid

if TYPE_CHECKING:
    from thalamus_lite.weights.entries.layout import Layout
    from thalamus_lite.weights.index.database import Database
    from thalamus_lite.weights.options import System


_SQLITE = b"SQLite format 3\0"

_ID = "[0-9a-f]{16}"
_OURS = re.compile(
    r"blobs/(?P<blob>[0-9a-f]{2})/(?P=blob)[0-9a-f]{62}"
    rf"|entries/{_ID}-{_ID}/(manifest\.json|files/.+)"
    r"|partial/[0-9a-f]{64}/"
    rf"([0-9]+\.{_ID}\.part|entry\.{_ID}/.+|{_ID}\.(probe|twin)|{_ID}\.made(/.+)?)"
    rf"|trash/{_ID}(/.+)?"
    # Found wherever a Mac has looked.
    r"|.+/\.DS_Store",
    re.DOTALL,
)
"""What a cache makes, and a killed one may leave without an index or a manifest beside it."""


def refuse_foreign(database: Database, layout: Layout) -> None:
    """Before anything is made or removed: others use the names of our folders too.

    Raises:
        CacheUnusable: there are files in such folders that no cache makes, and neither an index nor
            a manifest of ours.
    """
    if _is_index(layout.index) or not any(_is_foreign(folder) for folder in layout.folders):
        return
    # Another process may be putting a new index in the place of an old one.
    with database.replaced():
        if _is_index(layout.index) or _has_manifests(layout):
            return
    names = ", ".join(f"{folder.name}/" for folder in layout.folders if _is_foreign(folder))
    raise CacheUnusable(
        f"{str(layout.root)!a} has files in {names} and is no weight cache, so nothing in it"
        " was touched: set THALAMUS_CACHE_DIR to a folder of its own, or, if it was a cache and"
        " lost its index, delete these folders"
    )


def _is_index(path: Path) -> bool:
    """Whether it looks like one, of whatever version; those of other programs mostly have none."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError:
        return False
    return head.startswith(_SQLITE) and any(head[60:64])


def _is_foreign(folder: Path) -> bool:
    """An emptied cache keeps the folders of its blobs. What vanishes meanwhile is no matter."""
    for parent, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        if links or not all(_is_ours(Path(parent, name), folder.parent) for name in files):
            return True
    return False


def _is_ours(path: Path, root: Path) -> bool:
    found = _OURS.fullmatch(path.relative_to(root).as_posix())
    if found is None:
        return False
    with suppress(FileNotFoundError):
        # Others too name files by their sha256; only ours are read-only, to all.
        return found["blob"] is None or path.lstat().st_mode == stat.S_IFREG | 0o444
    return True


def _has_manifests(layout: Layout) -> bool:
    """Also of entries that are damaged by now."""
    with disk_errors():
        for path in layout.entries.glob("*/manifest.json"):
            with suppress(OSError, ManifestInvalid):
                Manifest.from_json(path.read_bytes())
                return True
    return False


def strangers_to(layout: Layout, manifests: list[Manifest]) -> tuple[list[Path], list[Path]]:
    """Folders and blobs that none of these manifests knows: the new index does not count them, and
    nothing else would ever remove them. What a cache never makes (a file beside the folders, a
    folder among the blobs) stays.
    """
    kept = {file.sha256 for manifest in manifests for file in manifest.files}
    entries = {manifest.id for manifest in manifests}
    folders: list[Path] = []
    blobs: list[Path] = []
    with disk_errors(), suppress(FileNotFoundError):
        folders += [
            folder
            for folder in [*layout.entries.iterdir(), *layout.partials.iterdir()]
            if folder.name not in entries and folder.is_dir()
        ]
        for shelf in layout.blobs.iterdir():
            if shelf.is_dir():
                names = (blob for blob in shelf.iterdir() if blob.name not in kept)
                blobs += [blob for blob in names if not blob.is_dir()]
    return folders, blobs


def entries_in_use(
    strangers: tuple[list[Path], list[Path]], layout: Layout, system: System
) -> list[str]:
    """The names of those among the entries' folders that `drop` would leave."""
    found = []
    for folder in strangers[0]:
        if folder.parent == layout.entries and folder.name.replace("-", "").isalnum():
            fd = _lock(folder, system)
            if fd is None:
                found.append(folder.name)
            elif fd >= 0:
                unlock(fd)
    return found


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
    fd = _lock(folder, system)
    if fd is None:
        return
    try:
        layout.discard(folder)
    finally:
        if fd >= 0:
            unlock(fd)


def _lock(folder: Path, system: System) -> int | None:
    """None: somebody uses the folder. -1: it cannot be locked, or is gone."""
    try:
        return lock_folder(folder, fcntl.LOCK_EX, system.flock)
    except OSError:
        return -1
