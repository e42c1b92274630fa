"""How an entry comes into being: reserve, download, verify, publish. Each step survives a crash.

The maker holds ``partial/<ident>`` alone from before its first row to after its last. Where it
cannot (locks that do not hold, a holder that stands still) it works beside the other, on files with
names of its own: that costs bandwidth, and whoever publishes first serves both.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from thalamus_lite.errors import (
    CacheFull,
    CacheUnusable,
    DiskFull,
    WeightAccessDenied,
    WeightChanged,
    WeightCorrupt,
    WeightError,
    WeightNotFound,
)
from thalamus_lite.weights.entries.crew import Stop, all_of
from thalamus_lite.weights.entries.eviction import drop_partial, make_room, unlink_blobs
from thalamus_lite.weights.entries.holds import FolderDeleted, PublishedMeanwhile, hold_partial
from thalamus_lite.weights.entries.layout import disk_errors, remove, seal
from thalamus_lite.weights.entries.partials import Parts
from thalamus_lite.weights.entries.publish import BlobsMissing, Finished, publish
from thalamus_lite.weights.entries.shelf import Shelf
from thalamus_lite.weights.entries.space import disk_short
from thalamus_lite.weights.index.records import Claim, Unfinished
from thalamus_lite.weights.index.statements import length
from thalamus_lite.weights.manifest import ManifestFile
from thalamus_lite.weights.origin import DownloadCancelled

if TYPE_CHECKING:
    from thalamus_lite.weights.entries.holds import Hold
    from thalamus_lite.weights.entries.order import Means, Order
    from thalamus_lite.weights.entries.store import Store
    from thalamus_lite.weights.lease import EntryLease
    from thalamus_lite.weights.origin import Progress, RemoteFile

# Beyond this size a file brings its own connections.
_SMALL_BYTES = 32 * 1024 * 1024
_SMALL_AT_ONCE = 4
# What is shared may be evicted while the rest is being downloaded, but hardly twice.
_BUILDS = 3
# After these the bytes are of no use to a later attempt.
_USELESS = (WeightCorrupt, WeightChanged, WeightNotFound, WeightAccessDenied)


def fill(store: Store, order: Order, means: Means) -> EntryLease:
    """Make the entry, and return the first lease on it.

    Raises:
        PublishedMeanwhile: another made it: look again.
        FolderDeleted: by somebody else; it is there again.
        CacheFull, DiskFull: there is no room, and none can be made.
        WeightError: what the download raises.
    """
    if store.index.ready(order.ident) is not None:
        raise PublishedMeanwhile
    with hold_partial(store, order.ident, means.cancel) as hold:
        if store.index.ready(order.ident) is not None:
            # The folder may be new, made to wait in.
            store.layout.discard(hold.folder)
            raise PublishedMeanwhile
        try:
            lease = _Maker(store, order, means, hold).make()
        except (PublishedMeanwhile, FileNotFoundError) as error:
            # Who publishes it clears the folder, where locks do not hold; or it was deleted.
            store.layout.restore()
            if hold.alone:
                store.layout.discard(hold.folder)
            if isinstance(error, PublishedMeanwhile) or store.index.ready(order.ident) is not None:
                raise PublishedMeanwhile from error
            raise FolderDeleted from error
        try:
            # What cannot be tidied now is tidied by the next opener.
            with contextlib.suppress(WeightError):
                store.layout.discard(hold.folder)
            store.system.reached("cleaned")
        except BaseException:
            lease.release()
            raise
        return lease


class _Maker:
    def __init__(self, store: Store, order: Order, means: Means, hold: Hold) -> None:
        self._store = store
        self._order = order
        self._means = means
        self._hold = hold
        self._parts = Parts(store, hold, order.ident)
        self._shelf = Shelf(store.layout, means.cancel)
        self._entry_id = ""
        self._lock = threading.Lock()
        self._needs = _needs(order)
        self._made = hold.folder / f"{secrets.token_hex(8)}.made"
        self._here: dict[int, ManifestFile] = {}

    def make(self) -> EntryLease:
        try:
            return self._make()
        except (PublishedMeanwhile, FileNotFoundError):
            self._parts.discard()
            raise
        except BaseException as error:
            # What went wrong first is what the caller must hear of.
            with contextlib.suppress(WeightError, OSError):
                self._give_up(useless=isinstance(error, _USELESS))
            raise
        finally:
            remove(self._made)

    def _make(self) -> EntryLease:
        self._parts.sweep()
        if self._means.prepare is None:
            self._find_shared()
        else:
            self._order = replace(self._order, remote=self._means.prepare(self._made))
            self._needs = _needs(self._order)
            self._forget_staged()
        self._reserve()
        self._store.system.reached("reserved")
        for _ in range(_BUILDS):
            self._download_missing()
            try:
                return publish(self._store, self._finished(), self._shelf)
            except BlobsMissing as missing:
                for n, file in enumerate(self._order.remote.files):
                    if file.relpath in missing.relpaths:
                        del self._here[n]
                self._reserve()
        raise PublishedMeanwhile

    def _forget_staged(self) -> None:
        """What a crash kept from becoming READY may have been other files."""
        index, ident = self._store.index, self._order.ident
        for row in index.unfinished() if self._hold.alone else ():
            if row.ident == ident:
                self._store.layout.discard(self._store.layout.entry(row.entry_id))
                unlink_blobs(self._store, index.forget(row.entry_id, ident))

    def _find_shared(self) -> None:
        """Files whose bytes are here: staged before a crash, or part of another entry."""
        index = self._store.index
        staged = index.staged(self._order.ident)
        files = self._order.remote.files
        blobs = index.sized_blobs({f.digests["sha256"] for f in files if "sha256" in f.digests})
        for n, file in enumerate(files):
            claimed = file.digests.get("sha256", "")
            sha256, size = staged.get(file.relpath) or (claimed, blobs.get(claimed, -1))
            found = ManifestFile(file.relpath, sha256, size)
            if size >= 0 and self._shelf.has(found):
                self._here[n] = found

    def _claim(self) -> Claim:
        remote = self._order.remote
        return Claim(
            key=self._order.key,
            ident=self._order.ident,
            name=self._order.name,
            relpath=None if remote.directory else remote.files[0].relpath,
            bytes=sum(need for n, need in self._needs.items() if n not in self._here),
            boot_id=self._store.system.boot_id(),
        )

    def _reserve(self) -> None:
        """Take room in the budget and on the disk, and make it where there is none."""
        store, claim = self._store, self._claim()
        limit = store.options.max_bytes
        if sum(self._needs.values()) > limit:
            raise CacheFull(need=sum(self._needs.values()), free=limit, leased=0)
        taken = store.index.reserve(claim, limit)
        while taken.short:
            if not make_room(store, taken.short):
                free = max(0, taken.free)
                raise CacheFull(need=claim.bytes, free=free, leased=limit - free)
            taken = store.index.reserve(claim, limit)
        if taken.ready:
            raise PublishedMeanwhile
        self._entry_id = taken.entry_id
        while (short := self._disk_short()) > 0:
            if not make_room(store, short):
                raise DiskFull(
                    f"the disk of the weight cache needs {short} more free bytes: free space, move"
                    " THALAMUS_CACHE_DIR, or lower THALAMUS_CACHE_MIN_FREE_GB"
                )

    def _disk_short(self) -> int:
        here = sum(file.size for file in self._here.values())
        whole = len(self._here) == len(self._needs)
        return disk_short(self._store, self._hold.folder, here, whole=whole)

    def _download_missing(self) -> None:
        missing = {n: f for n, f in enumerate(self._order.remote.files) if n not in self._here}
        if not missing:
            return
        known = [file.size for file in missing.values() if file.size is not None]
        total = sum(known) if len(known) == len(missing) else None
        progress = self._means.progress(self._order.name, total)
        self._means.tally.started(progress)
        try:
            stop = Stop(self._means.cancel)
            bring = partial(self._bring, progress, stop)
            small = [n for n, file in missing.items() if _is_small(file)]
            if len(small) > 1:
                all_of(bring, small, stop, _SMALL_AT_ONCE)
            for n in missing:
                if n not in self._here:
                    bring(n)
        finally:
            self._means.tally.ended(progress)

    def _bring(self, progress: Progress, stop: Stop, n: int) -> None:
        file = self._order.remote.files[n]
        part = self._parts.open(n, file, partial(self._grown, n))
        try:
            with disk_errors():
                got = self._means.download(
                    self._means.origin, file, part, progress=progress, cancel=stop
                )
        except CacheUnusable as error:
            if not self._hold.folder.exists():
                raise FileNotFoundError(self._hold.folder) from error
            raise
        if stop.is_set():
            # Nobody may be waiting for this thread any more.
            raise DownloadCancelled(f"the download of {file.relpath} was cancelled")
        self._grown(n, got.size)
        size = seal(part.path, self._store.system.fsync)
        claimed = file.digests.get("sha256", got.sha256)
        if size != got.size or size != (size if file.size is None else file.size):
            raise WeightCorrupt(f"{file.relpath} of {self._order.name} does not have its own size")
        if claimed != got.sha256:
            raise WeightCorrupt(f"{file.relpath} of {self._order.name} has another sha256")
        if len(self._needs) > 1 or size >= _SMALL_BYTES:
            self._parts.complete(n, size)
        self._here[n] = ManifestFile(file.relpath, got.sha256, size)
        self._store.system.reached("verified")

    def _grown(self, n: int, size: int) -> None:
        """A file whose size nobody told: reserve what it has come to."""
        with self._lock:
            if size <= self._needs[n]:
                return
            self._needs[n] = size
            self._reserve()

    def _finished(self) -> Finished:
        order = self._order
        paths = self._parts.paths
        return Finished(
            entry_id=self._entry_id,
            claim=replace(self._claim(), bytes=0),
            files=tuple(self._here[n] for n in sorted(self._here)),
            parts={self._here[n].relpath: paths[n] for n in paths},
            folder=self._hold.folder,
            validator=order.remote.validator,
            checked_at=order.checked_at,
        )

    def _give_up(self, useless: bool) -> None:
        """Keep what a later attempt can go on with; it counts with its size until then."""
        store, order = self._store, self._order
        if not self._entry_id or store.index.state(self._entry_id) == "READY":
            # Nothing was begun, and an earlier attempt's parts stay; or it went wrong too late.
            return
        if not self._hold.alone:
            self._parts.discard()
            unlink_blobs(store, store.index.forget(self._entry_id, order.ident))
            return
        parts = store.index.parts(order.ident).values()
        # Without a validator nothing can be gone on with.
        done = sum(length(part.extents) for part in parts if part.validator)
        if useless or not done:
            row = Unfinished(self._entry_id, order.ident, "FETCHING", "")
            drop_partial(store, row)
        else:
            store.index.hold(self._entry_id, done)


def _needs(order: Order) -> dict[int, int]:
    return {n: file.size or 0 for n, file in enumerate(order.remote.files)}


def _is_small(file: RemoteFile) -> bool:
    return file.size is not None and file.size <= _SMALL_BYTES
