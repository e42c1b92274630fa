"""After a crash: finish or undo what was under way. After the loss of the index: make another."""

from __future__ import annotations

import logging
import os
import re
import secrets
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from thalamus_lite.errors import WeightError
from thalamus_lite.weights.entries.eviction import (
    drop_partial,
    finish_eviction,
    unlink_blobs,
)
from thalamus_lite.weights.entries.holds import take_over
from thalamus_lite.weights.entries.layout import NO_LINK, disk_errors, link_or_copy, remove
from thalamus_lite.weights.entries.store import passed_over
from thalamus_lite.weights.entries.strangers import drop, entries_in_use, strangers_to
from thalamus_lite.weights.index import schema, statements
from thalamus_lite.weights.index.database import peek_version
from thalamus_lite.weights.index.link import connect
from thalamus_lite.weights.index.sqlerrors import IndexNewer, typed_errors
from thalamus_lite.weights.manifest import Manifest, ManifestInvalid

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from thalamus_lite.weights.entries.layout import Layout
    from thalamus_lite.weights.entries.store import Store
    from thalamus_lite.weights.index.database import Database
    from thalamus_lite.weights.index.records import Unfinished
    from thalamus_lite.weights.options import System

_log = logging.getLogger("thalamus_lite")

_HALF_MADE = re.compile(r"index\.[0-9a-f]{16}\.db(-journal)?")


def recover(store: Store) -> None:
    """Look at the rows that are not READY, at unfinished downloads and the trash; at no entry."""
    unfinished = store.index.unfinished()
    for row in unfinished:
        try:
            with passed_over(store, row.entry_id):
                _RECOVER[row.state](store, row)
        except FileNotFoundError:
            # Another opener recovers beside us, and was faster.
            continue
    _drop_orphans(store, {row.ident for row in unfinished})
    unlink_blobs(store, store.index.dead_blobs())
    with disk_errors():
        left = list(store.layout.trash.iterdir())
    for path in left:
        remove(path)


def ensure_index(database: Database, layout: Layout, system: System) -> None:
    """Make the index if it is missing, not readable as one, or of an older version.

    A missing one is made so that nobody's is replaced, also where locks do not hold and several
    processes come to it at once.

    Raises:
        IndexNewer: a newer thalamus-lite made it.
    """
    if database.version() == schema.VERSION:
        return
    with database.replaced():
        # Another process may have done it while this one waited for the lock.
        if peek_version(database.path) == schema.VERSION:
            return
        replace_index(layout, system, first=not layout.index.exists())


def repair_index(
    database: Database, layout: Layout, system: System, damaged: tuple[int, int] | None
) -> None:
    """Replace the index that was found damaged, unless another has done so.

    Args:
        damaged: (device, inode) of the file, where known.

    Raises:
        IndexNewer: what looked like damage is the work of a newer thalamus-lite.
    """
    with database.replaced():
        _refuse_newer(database.path)
        if damaged is not None and layout.index.exists():
            stat = layout.index.stat()
            if (stat.st_dev, stat.st_ino) != damaged:
                return
        _log.warning("the weight cache's index is damaged and set aside")
        replace_index(layout, system)


def remake_index(database: Database, layout: Layout, system: System) -> None:
    """Replace the index because somebody asks for it. Raises as `repair_index`."""
    with database.replaced():
        _refuse_newer(database.path)
        replace_index(layout, system)


def _refuse_newer(path: Path) -> None:
    try:
        peek_version(path)
    except IndexNewer:
        raise
    except WeightError:
        # Not to be read at all, which is no reason to keep it.
        return


def replace_index(layout: Layout, system: System, *, first: bool = False) -> None:
    """Set the index aside and make one from the manifests.

    The caller is inside `Database.replaced`. ``first``: there is none, and one that another has put
    there meanwhile stays.
    """
    aside = layout.root / f"index.{secrets.token_hex(8)}.db"
    with disk_errors():
        if not first:
            _drop_half_made(layout)
        manifests = sorted(_manifests(layout, system), key=lambda each: each.checked_at or 0.0)
    try:
        with disk_errors():
            aside.touch(mode=0o600)
        served = _build(aside, manifests, system.boot_id())
        # Before anybody can see the new index: what is begun from then on is no stranger.
        strangers = strangers_to(layout, [each for each in manifests if each.id in served])
        _leave_to_openers(aside, entries_in_use(strangers, layout, system), system.boot_id())
        with disk_errors():
            if not first:
                _quarantine(layout)
                os.replace(aside, layout.index)
            elif not _put_first(aside, layout.index):
                return
    except BaseException:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise
    drop(strangers, layout, system)
    if served:
        _log.warning("the weight cache's index was rebuilt: %d entries", len(served))


def read_manifest(layout: Layout, entry_id: str) -> Manifest | None:
    """That of an entry whose folder is whole: each file there, each with its size."""
    try:
        manifest = Manifest.from_json(layout.manifest(entry_id).read_bytes())
        files = layout.path(entry_id, None)
        whole = all((files / f.relpath).lstat().st_size == f.size for f in manifest.files)
    except (OSError, ManifestInvalid):
        return None
    return manifest if whole and manifest.id == entry_id else None


def _recover_fetching(store: Store, row: Unfinished) -> None:
    fd = take_over(store, row.ident)
    if fd is None:
        return
    store.leases.at_work(fd)
    try:
        _finish_or_drop(store, row)
    finally:
        store.leases.done_with(fd)


def _finish_or_drop(store: Store, row: Unfinished) -> None:
    if store.index.state(row.entry_id) != "FETCHING":
        # Its maker came to its end between the look at the rows and the lock.
        store.layout.discard(store.layout.partial(row.ident))
        return
    manifest = read_manifest(store.layout, row.entry_id)
    if manifest is not None and manifest.ident == row.ident:
        store.index.publish(manifest, store.system.boot_id())
        store.layout.discard(store.layout.partial(row.ident))
        return
    parts = store.index.parts(row.ident).values()
    done = sum(statements.length(part.extents) for part in parts if part.validator)
    same_boot = row.boot_id == store.system.boot_id()
    if same_boot and (done or store.index.files(row.entry_id)):
        # It can be gone on with, and until then occupies what it has brought.
        store.index.hold(row.entry_id, done)
    else:
        drop_partial(store, row)


def _drop_orphans(store: Store, known: set[str]) -> None:
    """Folders of downloads that no row knows: made just before the crash, or just done with."""
    with disk_errors():
        orphans = [
            path
            for path in store.layout.partials.iterdir()
            # A file here is no download: others' programs leave some everywhere.
            if path.name not in known and path.is_dir()
        ]
    for path in orphans:
        fd = take_over(store, path.name)
        if fd is not None:
            store.leases.at_work(fd)
            try:
                # Under the lock: the row of one who has just begun is there, or he waits for us.
                store.layout.discard(path)
            finally:
                store.leases.done_with(fd)


_RECOVER = {"FETCHING": _recover_fetching, "EVICTING": finish_eviction}


def _manifests(layout: Layout, system: System) -> Iterator[Manifest]:
    """Those of all whole entries, their blobs put back where they are missing."""
    for folder in layout.entries.iterdir():
        manifest = read_manifest(layout, folder.name)
        if manifest is None:
            continue
        for file in manifest.files:
            blob = layout.blob(file.sha256)
            if not blob.exists():
                blob.parent.mkdir(mode=0o700, exist_ok=True)
                with suppress(FileExistsError):
                    link_or_copy(layout.path(manifest.id, None) / file.relpath, blob, system.fsync)
        yield manifest


def _build(path: Path, manifests: list[Manifest], boot_id: str) -> set[str]:
    """The entries that are in the new index: of those with the same content, one."""
    with typed_errors(10.0), closing(connect(path, 10.0)) as connection:
        connection.executescript(f"PRAGMA journal_mode = DELETE; BEGIN; {schema.TABLES} COMMIT;")
        connection.execute("BEGIN IMMEDIATE")
        served = {statements.adopt(connection, manifest, boot_id) for manifest in manifests}
        connection.execute("COMMIT")
    return served


def _leave_to_openers(path: Path, entry_ids: list[str], boot_id: str) -> None:
    """Nothing else in the index made at ``path`` would tell them of these folders."""
    with typed_errors(10.0), closing(connect(path, 10.0)) as connection:
        for entry_id in entry_ids:
            statements.condemn(connection, entry_id, boot_id)


def _drop_half_made(layout: Layout) -> None:
    """Indexes that were being made when their maker was killed: nobody else is at it now."""
    for path in layout.root.glob("index.*"):
        if _HALF_MADE.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _quarantine(layout: Layout) -> None:
    # A journal left behind would be played back into the next database of this name.
    journal = layout.root / "index.db-journal"
    journal.unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        os.replace(layout.index, layout.root / "index.db.corrupt")


def _put_first(aside: Path, index: Path) -> bool:
    """Whether it took the place; False: another one has it."""
    try:
        os.link(aside, index)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        os.replace(aside, index)
    finally:
        aside.unlink(missing_ok=True)
    return True
