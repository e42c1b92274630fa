"""Serving one who asks: lease what is fresh, ask after what may be old, fill what is missing."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from thalamus_lite.errors import (
    CacheUnusable,
    WeightChanged,
    WeightError,
    WeightOffline,
    WeightUnreachable,
)
from thalamus_lite.weights.entries.fill import fill
from thalamus_lite.weights.entries.holds import FolderDeleted, PublishedMeanwhile
from thalamus_lite.weights.entries.order import Means, Order
from thalamus_lite.weights.flight import Flight
from thalamus_lite.weights.freshness import is_fresh
from thalamus_lite.weights.index.sqlerrors import IndexDamaged
from thalamus_lite.weights.index.uses import Uses
from thalamus_lite.weights.origin import OriginOptions
from thalamus_lite.weights.put import NoOrigin, NoProgress, Put, put_files, put_name, take
from thalamus_lite.weights.transfer.giving_up import until
from thalamus_lite.weights.want import Asked, Want, content_ident, order_of, source_key

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from thalamus_lite.weights.entries.stats import Tally
    from thalamus_lite.weights.entries.store import Store
    from thalamus_lite.weights.index.records import Known
    from thalamus_lite.weights.lease import EntryLease
    from thalamus_lite.weights.options import CacheOptions
    from thalamus_lite.weights.origin import Origin, RemoteFiles
    from thalamus_lite.weights.wiring import Wiring

_log = logging.getLogger("thalamus_lite")

# Between two looks an entry may be evicted again; each round but the first needs such bad luck.
_ROUNDS = 8
_RESTARTS = 2
# Each costs a download, and who deletes folders under a download twice will do so again.
_DELETIONS = 1
_MEMO_SIZE = 1024


class Asker:
    def __init__(self, options: CacheOptions, wiring: Wiring, tally: Tally) -> None:
        self._options = options
        self._wiring = wiring
        self._system = wiring.system
        self._tally = tally
        self._flight = Flight()
        self._uses = Uses(wiring.system.monotonic)
        self._origins: dict[tuple[str, float], Origin] = {}
        self._wants: dict[Asked, Want] = {}
        self._unreachable: dict[str, float] = {}

    def ask(self, store: Store, asked: Asked, cancel: threading.Event) -> EntryLease:
        want = self._want(asked)
        since = self._system.wall_clock()
        for _ in range(_ROUNDS):
            lease = self._fresh(store, want, since)
            if lease is None:
                lease = self._flight.run(
                    want.key, lambda: self._bring(store, want, since, cancel), cancel
                )
            if lease is not None:
                return lease
        raise CacheUnusable(
            f"{asked.source.name} is evicted as fast as it is fetched: raise THALAMUS_CACHE_MAX_GB"
        )

    def get(self, store: Store, key: str) -> Path | None:
        known = store.index.known(source_key("put", key))
        lease = known and self._lease(store, source_key("put", key), known)
        if not lease:
            self._tally.miss()
            return None
        self._hit(store, lease)
        lease.release()
        return lease.path

    def put(self, store: Store, key: str, make: Callable[[Path], object]) -> Path:
        name, remote = source_key("put", key), put_files(key)
        order = Order(name, content_ident(name, remote), put_name(key), remote, None)
        never = threading.Event()
        prepare = Put(make, remote)
        means = Means(NoOrigin(), take, NoProgress, self._tally, never, prepare)
        for _ in range(_ROUNDS):
            known = store.index.known(name)
            lease = known and self._lease(store, name, known)
            if lease:
                self._hit(store, lease)
            else:
                lease = self._flight.run(name, lambda: self._fill(store, order, means), never)
            if lease is not None:
                lease.release()
                return lease.path
        raise CacheUnusable("the weight cache evicts as fast as it is filled: raise its size")

    def contains(self, store: Store, key: str) -> bool:
        known = store.index.known(source_key("put", key))
        return known is not None and store.layout.path(known.entry_id, known.relpath).exists()

    def flush(self, store: Store) -> None:
        self._uses.flush(store.index)

    def after_fork(self) -> None:
        self._flight.after_fork()
        self._uses.after_fork()
        # Their connections are the parent's: two processes on one would get each other's answers.
        self._wants = {}
        self._origins = {}

    def _want(self, asked: Asked) -> Want:
        want = self._wants.get(asked)
        if want is None:
            source, timeout_s = asked.source, asked.timeout_s or self._options.timeout_s
            origin = self._origins.get((source.type, timeout_s))
            if origin is None:
                options = OriginOptions(self._options.deny_private_addresses, timeout_s)
                origin = self._wiring.origin_for(source, options)
                self._origins[source.type, timeout_s] = origin
            patterns = getattr(source, "allow_patterns", None)
            narrowed = sorted(patterns) if patterns else None
            key = source_key(origin.identity(source), narrowed, source.sha256, asked.filename)
            if len(self._wants) >= _MEMO_SIZE:
                self._wants.clear()
            want = self._wants[asked] = Want(asked, key, origin)
        return want

    def _fresh(self, store: Store, want: Want, since: float) -> EntryLease | None:
        """A lease on what may be served without asking anybody."""
        known = store.index.known(want.key)
        if known is None:
            return None
        stale = self._system.monotonic() < self._unreachable.get(want.key, 0.0)
        now = self._system.wall_clock()
        fresh = is_fresh(known, now=now, ttl_s=self._options.ttl_s, since=since)
        if not (fresh or stale or self._options.offline):
            return None
        lease = self._lease(store, want.key, known)
        if lease is not None:
            self._hit(store, lease)
            if stale and not fresh:
                self._tally.served_stale()
        return lease

    def _lease(self, store: Store, key: str, known: Known) -> EntryLease | None:
        """None: it is gone, or on its way."""
        pause = 0.001
        while True:
            lease = store.lease(key, known)
            if lease is not None or pause > 1.0:
                return lease
            # Who plans an eviction holds each entry for a moment, to see whether it could go.
            still = store.index.known(key)
            if still is None:
                return None
            known = still
            time.sleep(pause)
            pause *= 2

    def _confirmed(self, store: Store, key: str, known: Known) -> EntryLease | None:
        """A lease on what the origin has just said that the key means.

        Where that cannot be noted down it is asked again the next time; it is served all the same.
        """
        lease = self._lease(store, key, known)
        if lease is None:
            return None
        try:
            store.index.point(key, known.entry_id, known.validator, known.checked_at)
        except BaseException as error:
            if not isinstance(error, WeightError) or isinstance(error, IndexDamaged):
                lease.release()
                raise
            _log.warning("the weight cache cannot note down what it has asked: %s", error)
        self._hit(store, lease)
        return lease

    def _hit(self, store: Store, lease: EntryLease) -> None:
        self._tally.hit()
        self._uses.used(store.index, lease.entry_id)

    def _bring(
        self, store: Store, want: Want, since: float, cancel: threading.Event
    ) -> EntryLease | None:
        """What the one thread does that all others wait for."""
        lease = self._fresh(store, want, since)
        if lease is not None:
            return lease
        known = store.index.known(want.key)
        try:
            with until(cancel):
                return self._ask_origin(store, want, known, cancel)
        except WeightUnreachable as error:
            if known is None:
                raise
            lease = self._lease(store, want.key, known)
            if lease is None:
                raise
            _log.warning(
                "%s cannot be asked after, the cached copy is served: %s",
                want.asked.source.name,
                error,
            )
            self._unreachable[want.key] = self._system.monotonic() + self._options.ttl_s
            self._hit(store, lease)
            self._tally.served_stale()
            return lease

    def _ask_origin(
        self, store: Store, want: Want, known: Known | None, cancel: threading.Event
    ) -> EntryLease | None:
        source = want.asked.source
        asked_at = self._system.wall_clock()
        remote: RemoteFiles | None
        if self._options.offline:
            raise WeightOffline(
                f"{source.name} is not in the weight cache, and THALAMUS_OFFLINE or HF_HUB_OFFLINE"
                " is set: fetch it once while online"
                if known is None
                else f"{source.name} is in the weight cache, but another process keeps it locked,"
                " perhaps to evict it, and THALAMUS_OFFLINE or HF_HUB_OFFLINE is set: try again"
            )
        if known is not None:
            remote = want.origin.revalidate(source, known.validator)
            if remote is None:
                self._unreachable.pop(want.key, None)
                return self._confirmed(store, want.key, replace(known, checked_at=asked_at))
        else:
            remote = want.origin.list(source)
        means = Means(
            want.origin, self._wiring.download, self._wiring.progress, self._tally, cancel
        )
        for restarts in range(_RESTARTS + 1):
            try:
                lease = self._fill(store, order_of(want, remote, asked_at), means)
            except WeightChanged:
                if restarts == _RESTARTS:
                    raise
                asked_at = self._system.wall_clock()
                remote = want.origin.list(source)
            else:
                self._unreachable.pop(want.key, None)
                return lease
        return None

    def _fill(self, store: Store, order: Order, means: Means) -> EntryLease | None:
        """A lease on the content of the order, made here unless it is there; None: look again."""
        self._uses.flush(store.index)
        deletions = 0
        for _ in range(_ROUNDS):
            ready = store.index.ready(order.ident)
            if ready is not None:
                validator, checked_at = order.remote.validator, order.checked_at
                ready = replace(ready, validator=validator, checked_at=checked_at)
                lease = self._confirmed(store, order.key, ready)
                if lease is not None:
                    return lease
            try:
                made = fill(store, order, means)
            except PublishedMeanwhile:
                continue
            except FolderDeleted:
                deletions += 1
                if deletions > _DELETIONS:
                    raise
                continue
            self._tally.miss()
            with suppress(WeightError):
                self._tally.totals = store.index.totals()
            return made
        return None
