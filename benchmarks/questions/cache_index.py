"""Does a full cache stay quick? Row 16: hits, and victims, among 100,000 entries.

``python -m benchmarks.questions.cache_index COUNT FOLDER URL`` measures in our environment. Most of
the entries are rows alone: those that are asked for or evicted are real, files and all.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import file_server
from benchmarks.answer import Answer, Row, Table
from benchmarks.load.outcome import quantile

if TYPE_CHECKING:
    from benchmarks.run import Run

HOT = 60
VICTIMS = 150
_HITS = 5_000
_BYTES = 1024
# A transaction is as long as the syncs of its journal: memory shows what is left without them.
PLACES = {"on disk": None, "in memory": Path("/dev/shm")}


def count(run: Run) -> int:
    return int(run.pick(100_000, 5_000))


def estimate_s(run: Run) -> float:
    return run.pick(40, 7)


def measure(run: Run) -> Answer:
    answer = Answer()
    for place, parent in list(PLACES.items())[: run.rounds(2)]:
        if parent is None or parent.is_dir():
            with run.reporting(answer, f"a full cache {place}"):
                _measure_in(run, answer, place, parent)
        run.step(f"{count(run)} entries {place}", estimate_s(run) / run.rounds(2))
    return answer


def _measure_in(run: Run, answer: Answer, place: str, parent: Path | None) -> None:
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        root = Path(folder, "www")
        root.mkdir()
        for number in range(HOT):
            (root / f"{number}.bin").write_bytes(random.Random(number).randbytes(_BYTES))
        sync_ms = quantile([_sync_ms(Path(folder, "synced")) for _ in range(50)], 0.5)
        with file_server.serving(root) as url:
            seen = run.inside(__name__, str(count(run)), f"{folder}/cache", url)
    if place == "on disk":
        note = f"on a disk whose fsync takes {sync_ms:.2f} ms"
        answer.read("16 hit", quantile(seen["hits_us"], 0.5))
        answer.read("16 victims", quantile(seen["victims_ms"], 0.99), note)
    rows: tuple[Row, ...] = (
        ("hit with its lease, µs", *_spread(seen["hits_us"])),
        ("a victim chosen and committed, ms", *_spread(seen["victims_ms"])),
        ("the same, its files removed, ms", *_spread(seen["removed_ms"])),
    )
    columns = (f"{count(run):,} entries", "p50", "p90", "p99", "max")
    note = f"One fsync of 4 KiB takes {sync_ms:.3g} ms here (median)."
    answer.tables.append(Table(f"A full cache {place}", columns, rows, note))


def _sync_ms(path: Path) -> float:
    with path.open("ab") as file:
        file.write(bytes(4096))
        file.flush()
        begun = time.perf_counter()
        os.fsync(file.fileno())
        return (time.perf_counter() - begun) * 1e3


def _spread(values: list[float]) -> tuple[float, ...]:
    return tuple(quantile(values, q) for q in (0.5, 0.9, 0.99, 1.0))


def fill(size: int, folder: str, url: str) -> dict[str, Any]:
    from thalamus_lite import HTTPWeight, WeightCache
    from thalamus_lite.weights.cache import CacheOptions
    from thalamus_lite.weights.entries import eviction
    from thalamus_lite.weights.options import System
    from thalamus_lite.weights.wiring import Wiring

    committed: list[float] = []

    def reached(step: str) -> None:
        if step == "evicting":
            committed.append(time.perf_counter())

    options = CacheOptions(Path(folder), min_free_bytes=0, ttl_s=1e9)
    cache = WeightCache.of(options, Wiring(system=System(reached=reached, fsync=lambda _fd: None)))
    # The first to come are the first to go. Filling is not measured: without syncing it is shorter.
    for number in range(VICTIMS):
        content = random.Random(HOT + number).randbytes(_BYTES)
        cache.put(f"victim {number}", lambda path, content=content: path.write_bytes(content))  # type: ignore[misc]
    sources = [HTTPWeight(urls=(f"{url}/{number}.bin",)) for number in range(HOT)]
    for source in sources:
        cache.acquire(source).release()
    cache.close()
    _rows(Path(folder, "index.db"), size - VICTIMS - HOT)
    hits_us = []
    for source in random.Random(1).choices(sources, k=_HITS):
        begun = time.perf_counter()
        lease = cache.acquire(source)
        hits_us.append((time.perf_counter() - begun) * 1e6)
        lease.release()
    victims_ms, removed_ms = [], []
    store = cache.store()
    for _ in range(VICTIMS):
        committed.clear()
        begun = time.perf_counter()
        if not eviction.make_room(store, 1):
            raise SystemExit("there was nothing to evict")
        removed_ms.append((time.perf_counter() - begun) * 1e3)
        victims_ms.append((committed[0] - begun) * 1e3)
    entries = store.index.totals().entries
    cache.close()
    if entries != size - VICTIMS:
        raise SystemExit(f"{entries} entries are left")
    return {"hits_us": hits_us, "victims_ms": victims_ms, "removed_ms": removed_ms}


def _rows(index: Path, count: int) -> None:
    """Entries that are rows and nothing else, used after all that are there."""
    with sqlite3.connect(index) as db:
        (last,) = db.execute("SELECT max(last_used) FROM entry").fetchone()
        (boot,) = db.execute("SELECT boot_id FROM entry LIMIT 1").fetchone()
        (blob,) = db.execute("SELECT max(id) FROM blob").fetchone()
        names = [(f"{n:016x}", f"{n:016x}-{n:016x}", n) for n in range(1, count + 1)]
        db.executemany(
            "INSERT INTO blob (id, sha256, size, state) VALUES (?, ?, ?, 'READY')",
            [(blob + n, f"{n:064x}", _BYTES) for _, _, n in names],
        )
        db.executemany(
            "INSERT INTO entry (id, ident, name, relpath, state, bytes, last_used, boot_id)"
            " VALUES (?, ?, 'row', 'f', 'READY', ?, ?, ?)",
            [(entry, f"ident {n}", _BYTES, last + n, boot) for _, entry, n in names],
        )
        db.executemany(
            "INSERT INTO entry_file (entry_id, relpath, blob_id) VALUES (?, 'f', ?)",
            [(entry, blob + n) for _, entry, n in names],
        )
        db.executemany(
            "INSERT INTO source (key, entry_id, validator, checked_at) VALUES (?, ?, 'v', NULL)",
            [(f"{key}{key}{key}{key}", entry) for key, entry, _ in names],
        )
        db.execute("UPDATE counter SET value = ? WHERE name = 'sequence'", (last + count,))
    db.close()


if __name__ == "__main__":
    print("@" + json.dumps(fill(int(sys.argv[1]), sys.argv[2], sys.argv[3])))
