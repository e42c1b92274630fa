"""What the command line does to a cache: list, verify, remove."""

from __future__ import annotations

import fcntl
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thalamus_lite.errors import WeightError, WeightNotFound
from thalamus_lite.weights.entries import eviction
from thalamus_lite.weights.entries.layout import disk_errors
from thalamus_lite.weights.entries.recovery import read_manifest
from thalamus_lite.weights.entries.shelf import OUT_OF_MEANS, identity
from thalamus_lite.weights.index.sqlerrors import IndexDamaged, IndexNewer
from thalamus_lite.weights.local import file_sha256

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from thalamus_lite.weights.cache import WeightCache
    from thalamus_lite.weights.entries.shelf import Identity
    from thalamus_lite.weights.entries.store import Store
    from thalamus_lite.weights.index.records import Listed

_UNREAD = "unread"


@dataclass(frozen=True, slots=True)
class Verdict:
    """``problem`` is "" for an entry that is as it was published; any other was removed.

    ``in_use``: somebody has a lease on it, so it was only taken out of the index: the next
    `acquire` fetches it again, and the folder goes after the lease. ``failed``: it stays, since it
    could not be looked at, or not be removed.
    """

    entry_id: str
    name: str
    problem: str
    in_use: bool = False
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Removal:
    removed: tuple[str, ...]
    in_use: tuple[str, ...]
    freed_bytes: int


def list_entries(cache: WeightCache) -> list[Listed]:
    """All entries, the most recently used first."""
    return cache.mended(lambda store: store.index.entries())


def verify(cache: WeightCache) -> Iterator[Verdict]:
    """Read every byte again, entry by entry; what is not as it was published is removed.

    Each file is read once, however many entries share it.
    """
    digests: dict[Identity, str] = {}
    for entry in list_entries(cache):
        if entry.state != "READY":
            continue
        store = cache.store()
        problem, in_use, failed = "", False, False
        try:
            problem = _problem(store, entry.entry_id, digests)
            in_use = bool(problem) and not eviction.condemn(store, entry.entry_id)
        except (IndexDamaged, IndexNewer):
            raise
        except WeightError as error:
            # Of this entry only: all others are still to be looked at.
            problem, failed = f"{problem}: {error}" if problem else str(error), True
        yield Verdict(entry.entry_id, entry.name, problem, in_use, failed)


def remove(cache: WeightCache, name: str | None = None) -> Removal:
    """Remove the entries of a name, or whose id begins with it; None: all.

    Leased ones stay, and so do downloads that somebody is at; others that are not finished go too.

    Raises:
        WeightNotFound: nothing has that name.
    """
    chosen = [
        entry
        for entry in _removable(cache)
        if name is None or entry.name == name or (name and entry.entry_id.startswith(name))
    ]
    if name is None:
        freed, _ = cache.clear()
    elif chosen:
        freed = cache.mended(lambda store: _remove(store, chosen))
        cache.refresh()
    else:
        raise WeightNotFound(
            f"nothing in the weight cache is called {name!r}: `thalamus-lite cache ls` shows"
            " the names"
        )
    left = {entry.entry_id for entry in _removable(cache)}
    return Removal(
        removed=tuple(entry.name for entry in chosen if entry.entry_id not in left),
        in_use=tuple(entry.name for entry in chosen if entry.entry_id in left),
        freed_bytes=freed,
    )


def _removable(cache: WeightCache) -> list[Listed]:
    return [entry for entry in list_entries(cache) if entry.state != "EVICTING"]


def _remove(store: Store, chosen: list[Listed]) -> int:
    """Bytes that went."""
    unfinished = {entry.entry_id for entry in chosen if entry.state == "FETCHING"}
    freed = eviction.drop_dead_partials(store, math.inf, unfinished)
    whole = [entry.entry_id for entry in chosen if entry.state == "READY"]
    before = store.index.totals().bytes
    for start in range(0, len(whole), eviction.PAGE):
        eviction.evict(store, whole[start : start + eviction.PAGE])
    return freed + max(0, before - store.index.totals().bytes)


def _problem(store: Store, entry_id: str, digests: dict[Identity, str]) -> str:
    try:
        fd = store.lock(entry_id, fcntl.LOCK_SH)
    except FileNotFoundError:
        fd = None
    if fd is None:
        # On its way out, or out by now, is no fault: who evicts says so before the folder goes.
        missing = not store.layout.entry(entry_id).exists()
        missing = missing and store.index.state(entry_id) == "READY"
        return "its folder is missing" if missing else ""
    store.leases.at_work(fd)
    try:
        manifest = read_manifest(store.layout, entry_id)
        if manifest is None:
            return "its manifest or a file is missing or cut short"
        files = store.layout.path(entry_id, None)
        with disk_errors():
            for file in manifest.files:
                if _digest(store.layout.blob(file.sha256), digests) not in (file.sha256, ""):
                    # Nobody may share it any more, lease or not.
                    store.layout.unlink_blob(file.sha256)
                found = _digest(files / file.relpath, digests)
                if found == _UNREAD:
                    return f"{file.relpath} cannot be read"
                if found not in (file.sha256, ""):
                    return f"{file.relpath} was changed"
        return ""
    finally:
        store.leases.done_with(fd)


def _digest(path: Path, digests: dict[Identity, str]) -> str:
    """ "" for a file that is not there: a blob that nobody can share, but no fault of the entry.

    `_UNREAD` for one that cannot be read. Raises OSError for what says nothing about the file.
    """
    try:
        key = identity(path.stat())
        if key not in digests:
            digests[key] = file_sha256(path)
        return digests[key]
    except FileNotFoundError:
        return ""
    except OSError as error:
        if error.errno in OUT_OF_MEANS:
            raise
        return _UNREAD
