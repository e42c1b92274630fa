"""What the cache says of itself: kept in memory, so that asking costs nothing."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel, computed_field

if TYPE_CHECKING:
    from thalamus_lite.weights.index.records import Totals
    from thalamus_lite.weights.origin import Progress


class CacheStats(BaseModel, frozen=True):
    """``file_count`` counts files on the disk, each once however many entries share it."""

    total_size_bytes: int
    file_count: int
    max_size_bytes: int
    hit_count: int
    miss_count: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def hit_rate(self) -> float:
        """Hits among all look-ups, in [0, 1]; 0 before the first."""
        total = self.hit_count + self.miss_count
        return self.hit_count / total if total > 0 else 0.0


@dataclass(frozen=True, slots=True)
class DownloadState:
    """``name`` is public: no query, no userinfo."""

    name: str
    done_bytes: int
    total_bytes: int | None


@dataclass(frozen=True, slots=True)
class CacheSnapshot:
    """``hits`` to ``stale_total`` count in this process, since it started.

    ``size_bytes``, ``files`` and ``entries`` are as of this process's last look at the index.
    """

    size_bytes: int
    files: int
    entries: int
    max_bytes: int
    hits: int
    misses: int
    leases: int
    downloads: tuple[DownloadState, ...]
    bytes_total: int
    retries_total: int
    resumed_total: int
    stale_total: int


class Tally:
    """Written under a lock, read without one: each number is whole, and so is ``downloads``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.downloads: tuple[Progress, ...] = ()
        self.totals: Totals | None = None
        self.hits = 0
        self.misses = 0
        self.stale = 0
        self._bytes = 0
        self._retries = 0
        self._resumed = 0

    def hit(self) -> None:
        with self._lock:
            self.hits += 1

    def miss(self) -> None:
        with self._lock:
            self.misses += 1

    def served_stale(self) -> None:
        with self._lock:
            self.stale += 1

    def forget_hits(self) -> None:
        with self._lock:
            self.hits = self.misses = 0

    def started(self, progress: Progress) -> None:
        with self._lock:
            self.downloads = (*self.downloads, progress)

    def ended(self, progress: Progress) -> None:
        progress.close()
        with self._lock:
            self.downloads = tuple(p for p in self.downloads if p is not progress)
            self._bytes += progress.received_bytes
            self._retries += progress.retries
            self._resumed += bool(progress.resumed_bytes)

    def after_fork(self) -> None:
        # The downloads under way are the parent's.
        self._lock = threading.Lock()
        self.downloads = ()

    def snapshot(self, max_bytes: int, leases: int) -> CacheSnapshot:
        downloads, totals = self.downloads, self.totals
        return CacheSnapshot(
            size_bytes=totals.bytes if totals else 0,
            files=totals.blobs if totals else 0,
            entries=totals.entries if totals else 0,
            max_bytes=max_bytes,
            hits=self.hits,
            misses=self.misses,
            leases=leases,
            downloads=tuple(DownloadState(p.name, p.done_bytes, p.total_bytes) for p in downloads),
            bytes_total=self._bytes + sum(p.received_bytes for p in downloads),
            retries_total=self._retries + sum(p.retries for p in downloads),
            resumed_total=self._resumed + sum(bool(p.resumed_bytes) for p in downloads),
            stale_total=self.stale,
        )
