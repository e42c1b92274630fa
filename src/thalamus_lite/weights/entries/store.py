"""An open cache: what its operations share."""

from __future__ import annotations

import fcntl
import logging
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thalamus_lite.errors import WeightCorrupt, WeightError
from thalamus_lite.weights.entries.layout import disk_errors
from thalamus_lite.weights.index.sqlerrors import IndexDamaged, IndexNewer
from thalamus_lite.weights.lease import EntryLease, lock_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from thalamus_lite.weights.entries.layout import Layout
    from thalamus_lite.weights.index.records import Known
    from thalamus_lite.weights.index.transactions import Index
    from thalamus_lite.weights.lease import LeaseBook
    from thalamus_lite.weights.options import CacheOptions, System


_log = logging.getLogger("thalamus_lite")


class EntryDamaged(WeightCorrupt):
    """Files of a READY entry are missing or cut short: somebody else changed them."""

    def __init__(self, entry_id: str) -> None:
        super().__init__(f"files of the cache entry {entry_id} were changed by another program")
        self.entry_id = entry_id


@dataclass(frozen=True, slots=True)
class Store:
    """``locks_hold`` False: ``flock`` does nothing here: no lock says that its holder is alone.

    ``stuck``: the ids of entries that are EVICTING and could not be removed.
    """

    layout: Layout
    index: Index
    options: CacheOptions
    system: System
    leases: LeaseBook
    locks_hold: bool
    checked: set[str]
    stuck: set[str]

    def lock(self, entry_id: str, kind: int) -> int | None:
        """A descriptor; None while somebody is in the way. Raises FileNotFoundError."""
        if kind == fcntl.LOCK_EX and not self.locks_hold:
            # It would be granted, whoever has a lease: better a full cache than a path that goes.
            return None
        with disk_errors():
            return lock_folder(self.layout.entry(entry_id), kind, self.system.flock)

    def lease(self, key: str, known: Known) -> EntryLease | None:
        """A lease on the entry; None if it is going or gone.

        Raises:
            IndexDamaged: the index gives the key an entry of another key.
            EntryDamaged: its files are not as they were published.
        """
        if known.entry_id[:16] != key[:16]:
            raise IndexDamaged("the weight cache's index mixes its entries up")
        try:
            fd = self.lock(known.entry_id, fcntl.LOCK_SH)
        except FileNotFoundError as error:
            # Who evicts it says so before the folder goes, and no other entry has its name.
            if self.index.state(known.entry_id) == "READY":
                raise EntryDamaged(known.entry_id) from error
            return None
        if fd is None:
            return None
        path = self.layout.path(known.entry_id, known.relpath)
        lease = EntryLease(path, known.entry_id, fd, self.leases)
        try:
            if self.index.state(known.entry_id) != "READY":
                lease.release()
                return None
            self._check_files(known)
        except BaseException:
            lease.release()
            raise
        return lease

    def _check_files(self, known: Known) -> None:
        """All files' sizes at the first lease in this process, later that of a single file."""
        if known.entry_id not in self.checked:
            sizes = {name: size for name, (_, size) in self.index.files(known.entry_id).items()}
            whole = bool(sizes) and sum(sizes.values()) == known.bytes
        else:
            sizes = {} if known.relpath is None else {known.relpath: known.bytes}
            whole = True
        folder = self.layout.path(known.entry_id, None)
        try:
            whole = whole and all((folder / name).stat().st_size == sizes[name] for name in sizes)
            whole = whole and (known.relpath is None or known.relpath in sizes)
        except (OSError, ValueError):
            whole = False
        if not whole:
            raise EntryDamaged(known.entry_id)
        self.checked.add(known.entry_id)


@contextmanager
def passed_over(store: Store, entry_id: str) -> Iterator[None]:
    """An entry that cannot be removed stays, and counts, but is in the way of no other."""
    try:
        yield
    except (IndexDamaged, IndexNewer):
        raise
    except WeightError as error:
        if entry_id not in store.stuck:
            store.stuck.add(entry_id)
            _log.warning("the weight cache cannot remove its entry %s: %s", entry_id, error)
