"""What goes when room is needed: the least recently used entries that nobody has a lease on."""

from __future__ import annotations

import fcntl
import math
import os
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from thalamus_lite.weights.entries.holds import take_over
from thalamus_lite.weights.entries.layout import remove
from thalamus_lite.weights.entries.store import passed_over
from thalamus_lite.weights.lease import unlock
from thalamus_lite.weights.transfer.giving_up import pause

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from thalamus_lite.weights.entries.store import Store
    from thalamus_lite.weights.index.records import Candidate, Unfinished

PAGE = 64
"""Entries looked at, locked and removed at a time: each lock is a descriptor."""

_FIRST_PAUSE_S = 0.01
_LAST_PAUSE_S = 0.25


@dataclass(slots=True)
class Ledger:
    """What the chosen entries free together: a shared blob counts with its last holder."""

    freed: int = 0
    files: int = 0
    _chosen: Counter[int] = field(default_factory=Counter)

    def add(self, candidate: Candidate) -> None:
        for blob_id, size, refs in candidate.blobs:
            self._chosen[blob_id] += 1
            if self._chosen[blob_id] == refs:
                self.freed += size
                self.files += 1


def make_room(store: Store, need: int) -> bool:
    """Evict entries until at least ``need`` bytes went.

    What others are just removing is waited for, for as long as for a transaction.

    False: that is not possible. Then no entry went.

    Raises:
        DownloadCancelled: nobody waits for the room any more.
    """
    goal = _occupied(store) - need
    waited_s, pause_s = 0.0, _FIRST_PAUSE_S
    while True:
        finish_evictions(store)
        drop_dead_partials(store, _occupied(store) - goal)
        need = _occupied(store) - goal
        victims, busy = _victims(store, need)
        if victims is not None:
            for start in range(0, len(victims), PAGE):
                evict(store, victims[start : start + PAGE])
            return True
        # In the order in which an entry goes: whatever goes meanwhile is seen in one of the places.
        busy = busy or _more_is_going(store) or _occupied(store) - goal < need
        if not (busy and store.locks_hold) or waited_s >= store.options.busy_s:
            return False
        pause(pause_s)
        waited_s += pause_s
        pause_s = min(2 * pause_s, _LAST_PAUSE_S)


def clear(store: Store) -> tuple[int, int]:
    """Evict all that has no lease: (bytes, files) freed."""
    plan = Ledger()
    plan.freed, plan.files = finish_evictions(store)
    plan.freed += drop_dead_partials(store, math.inf)
    page: list[Candidate] = []
    for candidate in [*_in_order_of_use(store), None]:
        if candidate is not None:
            page.append(candidate)
        if page and (candidate is None or len(page) == PAGE):
            gone = evict(store, [c.entry_id for c in page])
            for each in page:
                if each.entry_id in gone:
                    plan.add(each)
            page = []
    return plan.freed, plan.files


def evict(store: Store, entry_ids: list[str]) -> set[str]:
    """Remove those of the entries that nobody has a lease on, and return their ids."""
    with ExitStack() as locks:
        mine = [entry_id for entry_id in entry_ids if _lock(store, entry_id, locks)]
        if mine:
            store.index.evict(mine)
            store.system.reached("evicting")
        for entry_id in mine:
            remove_entry(store, entry_id)
    return set(mine)


def condemn(store: Store, entry_id: str) -> bool:
    """Take out an entry whose files are not what they were.

    False: somebody has a lease on it. Its content is free to be fetched again beside it, and who
    next needs room, or opens the cache, removes it.
    """
    if evict(store, [entry_id]):
        return True
    # Without it no rebuild of the index takes the entry up again.
    with suppress(OSError):
        store.layout.manifest(entry_id).unlink()
    store.index.evict([entry_id])
    return False


def finish_evictions(store: Store) -> tuple[int, int]:
    """Remove what is EVICTING and what nobody holds: (bytes, files) freed.

    Its evictor was killed in the middle, or left it to those who had a lease on it.
    """
    before = store.index.totals()
    for row in store.index.unfinished():
        if row.state == "EVICTING":
            with passed_over(store, row.entry_id):
                finish_eviction(store, row)
    unlink_blobs(store, store.index.dead_blobs())
    after = store.index.totals()
    return max(0, before.bytes - after.bytes), max(0, before.blobs - after.blobs)


def finish_eviction(store: Store, row: Unfinished) -> None:
    with ExitStack() as locks:
        if _lock(store, row.entry_id, locks):
            remove_entry(store, row.entry_id)


def remove_entry(store: Store, entry_id: str) -> None:
    """Take an entry that is EVICTING out; the caller holds its folder alone, or there is none."""
    trash = store.layout.to_trash(store.layout.entry(entry_id))
    store.system.reached("trashed")
    store.checked.discard(entry_id)
    store.stuck.discard(entry_id)
    dead = store.index.forget(entry_id)
    store.system.reached("forgotten")
    unlink_blobs(store, dead)
    if trash is not None:
        remove(trash)
    store.system.reached("removed")


def unlink_blobs(store: Store, dead: list[str]) -> None:
    if not dead:
        return
    layout = store.layout
    trash = {sha256: layout.to_trash(layout.blob(sha256)) for sha256 in dead}
    store.system.reached("unlinked")
    kept = store.index.drop_blobs(trash)
    for sha256, path in trash.items():
        if path is None:
            continue
        if sha256 in kept:
            # Published again between our look at its row and our rename.
            with suppress(OSError):
                os.link(path, layout.blob(sha256))
        remove(path)


def drop_dead_partials(store: Store, need: float, only: Collection[str] | None = None) -> int:
    """Give up downloads that nobody goes on with, until ``need`` bytes went; returns how many.

    ``only``: the ids of the entries that they may be of; None: any.
    """
    freed = 0
    for row in store.index.unfinished():
        if freed >= need:
            break
        if row.state == "FETCHING" and (only is None or row.entry_id in only):
            freed += _drop_if_dead(store, row)
    return freed


def drop_partial(store: Store, row: Unfinished) -> None:
    """Forget a download with all it has brought; the caller holds its folder alone."""
    # Bytes before rows: on a full disk the rows could not be written otherwise.
    store.layout.discard(store.layout.partial(row.ident))
    if store.index.state(row.entry_id) in ("FETCHING", None):
        # Its folder may be complete, and its publisher dead before the rows said so.
        store.layout.discard(store.layout.entry(row.entry_id))
        unlink_blobs(store, store.index.forget(row.entry_id, row.ident))


def _drop_if_dead(store: Store, row: Unfinished) -> int:
    fd = take_over(store, row.ident)
    if fd is None:
        return 0
    store.leases.at_work(fd)
    try:
        before = _occupied(store)
        drop_partial(store, row)
        return max(0, before - _occupied(store))
    finally:
        store.leases.done_with(fd)


def _occupied(store: Store) -> int:
    totals = store.index.totals()
    return totals.bytes + totals.reserved_bytes


def _victims(store: Store, need: int) -> tuple[list[str] | None, bool]:
    """Entries that free ``need`` bytes together; None: there are not enough.

    Also whether one is passed over that is just being removed.
    """
    plan = Ledger()
    victims: list[str] = []
    busy = False
    if need <= 0:
        return victims, busy
    for candidate in _in_order_of_use(store):
        if _is_free(store, candidate.entry_id):
            plan.add(candidate)
            victims.append(candidate.entry_id)
        else:
            busy = busy or not _is_leased(store, candidate.entry_id)
        if plan.freed >= need:
            return victims, busy
    return None, busy


def _in_order_of_use(store: Store) -> Iterator[Candidate]:
    after = (-1, "")
    while page := store.index.candidates(after, PAGE):
        yield from page
        after = (page[-1].last_used, page[-1].entry_id)


def _is_free(store: Store, entry_id: str) -> bool:
    try:
        fd = store.lock(entry_id, fcntl.LOCK_EX)
    except FileNotFoundError:
        # Somebody deleted its folder: its rows are all that is left to remove.
        return True
    if fd is None:
        return False
    unlock(fd)
    return True


def _is_leased(store: Store, entry_id: str) -> bool:
    """False: it is free, or somebody holds it alone, to remove it or to see whether it could go."""
    if _is_free(store, entry_id):
        return False
    with suppress(FileNotFoundError):
        fd = store.lock(entry_id, fcntl.LOCK_SH)
        if fd is not None:
            unlock(fd)
            return True
    return False


def _more_is_going(store: Store) -> bool:
    going = [row.entry_id for row in store.index.unfinished() if row.state == "EVICTING"]
    if any(each not in store.stuck and not _is_leased(store, each) for each in going):
        return True
    return bool(store.index.dead_blobs())


def _lock(store: Store, entry_id: str, locks: ExitStack) -> bool:
    try:
        fd = store.lock(entry_id, fcntl.LOCK_EX)
    except FileNotFoundError:
        return True
    if fd is None:
        return False
    store.leases.at_work(fd)
    locks.callback(store.leases.done_with, fd)
    return True
