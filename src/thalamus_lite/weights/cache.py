"""The weight cache: once, whole, verified.

    with cache.acquire(HFWeight(repo="owner/name", filename="model.safetensors")) as lease:
        load(lease.path)

`WeightCache` opens what lies on the disk and mends it; who asks for a source is served by `asking`.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from thalamus_lite.errors import CacheUnusable, WeightError
from thalamus_lite.weights.asking import Asker
from thalamus_lite.weights.entries import eviction
from thalamus_lite.weights.entries.layout import Layout, disk_errors
from thalamus_lite.weights.entries.recovery import ensure_index, recover, remake_index, repair_index
from thalamus_lite.weights.entries.stats import CacheSnapshot, CacheStats, Tally
from thalamus_lite.weights.entries.store import EntryDamaged, Store
from thalamus_lite.weights.entries.strangers import refuse_foreign
from thalamus_lite.weights.forks import watch
from thalamus_lite.weights.index.database import Database
from thalamus_lite.weights.index.sqlerrors import IndexDamaged
from thalamus_lite.weights.index.transactions import Index
from thalamus_lite.weights.lease import LeaseBook, locks_hold
from thalamus_lite.weights.local import local_lease
from thalamus_lite.weights.options import CacheOptions
from thalamus_lite.weights.put import PutFailed
from thalamus_lite.weights.sources import FileWeight
from thalamus_lite.weights.want import Asked
from thalamus_lite.weights.wiring import Wiring

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from thalamus_lite.weights.lease import Lease
    from thalamus_lite.weights.sources import WeightSource

__all__ = ["CacheOptions", "CacheSnapshot", "CacheStats", "WeightCache"]

T = TypeVar("T")

_log = logging.getLogger("thalamus_lite")

# Damage that comes back after it was mended twice will come back again.
_MENDS = 2


class WeightCache:
    """Weights on this machine's disk, shared by all processes that name the same folder.

    Nothing is opened or made before the first use. All methods may be called from any thread.

    Args:
        cache_dir: Made, with mode 0700, where it is missing.
        max_size_gb: GB of 10⁹ bytes. ``options`` takes the place of both.
    """

    def __init__(
        self,
        cache_dir: Path | str | os.PathLike[str],
        max_size_gb: float = 50.0,
        *,
        options: CacheOptions | None = None,
        wiring: Wiring | None = None,
    ) -> None:
        # Whoever names a size means that size: min_free is the server's setting.
        self.options = options or CacheOptions(
            Path(cache_dir), max_bytes=int(max_size_gb * 1e9), min_free_bytes=0
        )
        self._wiring = wiring or Wiring()
        self._layout = Layout(Path(self.options.cache_dir).absolute())
        self._database = Database(
            self._layout.index, self.options.busy_s, self._wiring.system.flock
        )
        self._leases = LeaseBook()
        self._tally = Tally()
        self._asker = Asker(self.options, self._wiring, self._tally)
        self._opening = threading.Lock()
        self._opened: Store | None = None
        watch(self)

    @classmethod
    def of(cls, options: CacheOptions, wiring: Wiring | None = None) -> WeightCache:
        return cls(options.cache_dir, options=options, wiring=wiring)

    @property
    def cache_dir(self) -> Path:
        return Path(self.options.cache_dir)

    def acquire(self, source: WeightSource, *, cancel: threading.Event | None = None) -> Lease:
        """A lease on the source's file or folder; downloads it if it must.

        Args:
            cancel: Set it to give up; what was downloaded is gone on with at the next attempt.

        Raises:
            WeightError: each of its kinds says what to do.
        """
        return self.ask(Asked(source), cancel=cancel)

    def ask(self, asked: Asked, *, cancel: threading.Event | None = None) -> Lease:
        """`acquire`, with a name or a time limit of one's own."""
        if isinstance(asked.source, FileWeight):
            return local_lease(asked.source)
        until = cancel or threading.Event()
        return self.mended(lambda store: self._asker.ask(store, asked, until))

    def get(self, key: str) -> Path | None:
        """The path that `put` returned for the key, while it is here; it may go at any time."""
        return self.mended(lambda store: self._asker.get(store, key))

    def put(
        self,
        key: str,
        download: Callable[[Path], object] | None = None,
        *,
        download_fn: Callable[[Path], object] | None = None,
    ) -> Path:
        """The key's file; ``download`` is called with a path to write it to if it is not here.

        It may make a folder there instead; then the folder's path is returned. Called once for all
        threads and processes that ask for the key meanwhile. The path may be evicted by a later
        `put` or `acquire`. ``download_fn`` is thalamus-serve's name for ``download``.

        Raises:
            TypeError: none of the two, or both.
            Exception: what ``download`` raised; nothing of it is kept.
        """
        make = download or download_fn
        if make is None or (download and download_fn):
            raise TypeError("put() takes a key and one function: put(key, download)")
        try:
            return self.mended(lambda store: self._asker.put(store, key, make))
        except PutFailed as failed:
            raise failed.cause from None

    def contains(self, key: str) -> bool:
        """Whether `get` would find the key; counts neither as a hit nor as a miss."""
        return self.mended(lambda store: self._asker.contains(store, key))

    def stats(self) -> CacheStats:
        """As of now, from the index."""
        self.refresh()
        now = self.snapshot()
        return CacheStats(
            total_size_bytes=now.size_bytes,
            file_count=now.files,
            max_size_bytes=now.max_bytes,
            hit_count=now.hits,
            miss_count=now.misses,
        )

    def clear(self) -> tuple[int, int]:
        """Remove all that nobody has a lease on, and count hits and misses from 0.

        Returns:
            (bytes, files) that were removed.
        """
        removed = self.mended(eviction.clear)
        self._tally.forget_hits()
        self.refresh()
        return removed

    def refresh(self) -> None:
        """Look at the index for `snapshot`; to be called off the event loop."""
        self._tally.totals = self.mended(lambda store: store.index.totals())

    def snapshot(self) -> CacheSnapshot:
        """What is known without looking: touches no disk, waits for nobody."""
        return self._tally.snapshot(self.options.max_bytes, self._leases.count)

    def close(self) -> None:
        """Write down what was used and close the index. Leases stay; a later use opens it again."""
        with self._opening:
            store, self._opened = self._opened, None
        if store is not None:
            self._asker.flush(store)
        self._database.close()

    def store(self) -> Store:
        """The open cache, for maintenance.

        Raises:
            CacheUnusable: the folder cannot be used; the sentence says why.
        """
        store = self._opened
        if store is not None:
            return store
        with self._opening:
            if self._opened is None:
                self._opened = self._open()
            return self._opened

    def rebuild(self) -> int:
        """Make the index again from the manifests, without a download: the number of entries."""
        # Whatever is wrong with it is made good by opening it.
        self.mended(lambda store: None)
        self._layout.create(self._wiring.system.fs_type)
        remake_index(self._database, self._layout, self._wiring.system)
        return self.mended(lambda store: store.index.totals().entries)

    def after_fork(self) -> None:
        """In a forked child: no lock, no connection and no download of the parent's is ours."""
        self._opening = threading.Lock()
        self._leases.after_fork()
        self._tally.after_fork()
        self._asker.after_fork()

    def _open(self) -> Store:
        layout, system = self._layout, self._wiring.system
        layout.create_root(system.fs_type)
        refuse_foreign(self._database, layout)
        layout.create_folders()
        with disk_errors():
            hold = locks_hold(layout.root, system.flock)
        if not hold:
            _log.warning("file locks do not work in %s: nothing will be evicted", layout.root)
        ensure_index(self._database, layout, system)
        store = Store(
            layout=layout,
            index=Index(self._database),
            options=self.options,
            system=system,
            leases=self._leases,
            locks_hold=hold,
            checked=set(),
            stuck=set(),
        )
        try:
            recover(store)
        except IndexDamaged:
            raise
        except WeightError as error:
            # What is READY can be served all the same.
            _log.warning("the weight cache could not be tidied: %s", error)
        return store

    def mended(self, work: Callable[[Store], T]) -> T:
        """``work``, done again after the index or an entry was found damaged and was mended."""
        for mends in range(_MENDS + 1):
            try:
                return work(self.store())
            except IndexDamaged as error:
                if mends == _MENDS:
                    raise
                self._repair(error.file_id)
            except EntryDamaged as error:
                if mends == _MENDS:
                    raise
                _log.warning("%s; it is fetched again", error)
                self._drop(error.entry_id)
        raise CacheUnusable

    def _repair(self, damaged: tuple[int, int] | None) -> None:
        self._layout.create(self._wiring.system.fs_type)
        repair_index(self._database, self._layout, self._wiring.system, damaged)

    def _drop(self, entry_id: str) -> None:
        eviction.condemn(self.store(), entry_id)
