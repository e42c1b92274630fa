"""From verified parts to a READY entry: nothing is seen of it before all of it is there."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thalamus_lite.weights.entries.holds import PublishedMeanwhile
from thalamus_lite.weights.entries.layout import disk_errors, link_or_copy, seal, sync_folder
from thalamus_lite.weights.entries.recovery import read_manifest
from thalamus_lite.weights.lease import EntryLease, unlock
from thalamus_lite.weights.manifest import Manifest

if TYPE_CHECKING:
    from pathlib import Path

    from thalamus_lite.weights.entries.shelf import Shelf
    from thalamus_lite.weights.entries.store import Store
    from thalamus_lite.weights.index.records import Claim
    from thalamus_lite.weights.manifest import ManifestFile


class BlobsMissing(Exception):
    """Blobs that were to be shared went meanwhile: ``relpaths`` have to be downloaded after all."""

    def __init__(self, relpaths: set[str]) -> None:
        super().__init__(relpaths)
        self.relpaths = relpaths


@dataclass(frozen=True, slots=True)
class Finished:
    """All files of an entry, each verified and on the disk.

    ``parts`` (relpath → path) are those that were downloaded; the others are shared blobs.
    """

    entry_id: str
    claim: Claim
    files: tuple[ManifestFile, ...]
    parts: dict[str, Path]
    folder: Path
    validator: str
    checked_at: float | None


def publish(store: Store, done: Finished, shelf: Shelf) -> EntryLease:
    """Make the entry READY, and take the first lease on it before anybody could evict it.

    Raises:
        PublishedMeanwhile: another has published the same content.
        BlobsMissing: nothing was published; call again with these downloaded.
    """
    reached = store.system.reached
    entry_id = store.index.stage(done.entry_id, done.claim, done.files)
    if entry_id is None:
        raise PublishedMeanwhile
    reached("staged")
    manifest = Manifest(
        id=entry_id,
        key=done.claim.key,
        ident=done.claim.ident,
        name=done.claim.name,
        validator=done.validator,
        checked_at=done.checked_at,
        relpath=done.claim.relpath,
        files=done.files,
    )
    aside = _build(store, done, manifest)
    reached("entry_built")
    _shelve(store, done, aside, shelf)
    reached("shelved")
    fd = _put_in_place(store, aside, manifest)
    lease = EntryLease(store.layout.path(entry_id, manifest.relpath), entry_id, fd, store.leases)
    try:
        reached("entry_in_place")
        served = store.index.publish(manifest, store.system.boot_id())
        reached("ready")
    except BaseException:
        lease.release()
        raise
    if served != entry_id:
        lease.release()
        store.layout.discard(store.layout.entry(entry_id))
        raise PublishedMeanwhile
    return lease


def _build(store: Store, done: Finished, manifest: Manifest) -> Path:
    """The entry's folder beside its place."""
    aside = done.folder / f"entry.{secrets.token_hex(8)}"
    files = aside / "files"
    missing = set()
    with disk_errors():
        files.mkdir(mode=0o700, parents=True)
        for file in done.files:
            target = files / file.relpath
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            source = done.parts.get(file.relpath) or store.layout.blob(file.sha256)
            try:
                # From the part, not from its blob: a blob may be evicted until this entry is READY.
                link_or_copy(source, target, store.system.fsync)
            except FileNotFoundError:
                missing.add(file.relpath)
        if missing:
            raise BlobsMissing(missing)
        (aside / "manifest.json").write_bytes(manifest.to_json())
        seal(aside / "manifest.json", store.system.fsync)
    return aside


def _shelve(store: Store, done: Finished, aside: Path, shelf: Shelf) -> None:
    """Make blobs of the parts, or give them up for those that are there; all names to the disk."""
    files = aside / "files"
    folders = {aside}
    with disk_errors():
        for file in done.files:
            target = files / file.relpath
            folders.update(p for p in target.parents if p.is_relative_to(files))
            part = done.parts.get(file.relpath)
            if part is None:
                continue
            shelf.take(part, file, target)
            store.system.reached("blob_in_place")
            folders.add(store.layout.blob(file.sha256).parent)
        for folder in folders:
            sync_folder(folder, store.system.fsync)


def _put_in_place(store: Store, aside: Path, manifest: Manifest) -> int:
    """Rename the folder to its place; returns a descriptor that holds the lease on it."""
    place = store.layout.entry(manifest.id)
    with disk_errors():
        fd = os.open(aside, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # The lock goes with the folder: nobody can evict it between the rename and the lease.
            store.system.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            try:
                aside.rename(place)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                _yield_to(store, manifest)
                aside.rename(place)
            sync_folder(store.layout.entries, store.system.fsync)
        except BaseException:
            unlock(fd)
            raise
    return fd


def _yield_to(store: Store, manifest: Manifest) -> None:
    """Something is in the entry's place: take it if it is whole, else away with it."""
    there = read_manifest(store.layout, manifest.id)
    if there is not None and there.ident == manifest.ident:
        store.index.publish(there, store.system.boot_id())
        raise PublishedMeanwhile
    store.layout.discard(store.layout.entry(manifest.id))
