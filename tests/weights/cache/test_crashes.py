"""kill -9 anywhere: what is served afterwards is whole, and nothing is lost track of."""

from __future__ import annotations

import os
import random
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests_weights_cache_fakes import Clock, Crash, Engine, Folder, Steps, audit, http, sha256

from thalamus_lite.weights.entries import recovery

if TYPE_CHECKING:
    from pathlib import Path

FILLING = [
    "reserved",
    "extents",
    "verified",
    "staged",
    "entry_built",
    "blob_in_place",
    "shelved",
    "entry_in_place",
    "ready",
    "cleaned",
]
EVICTING = ["evicting", "trashed", "forgotten", "unlinked", "removed"]
SIZE = 200_000
SOAK = bool(os.environ.get("THALAMUS_SOAK"))


def sent(origin: Folder) -> int:
    return sum(int(line.split()[1]) for line in origin.notes("bytes"))


def test_every_step_is_reached(make: Any, origin: Folder) -> None:
    steps = Steps()
    origin.put("m", os.urandom(SIZE))
    cache = make(reached=steps)
    cache.acquire(http("m")).release()
    cache.clear()
    assert set(steps.seen) == {*FILLING, *EVICTING}


@pytest.mark.parametrize("skip", [0, 1])
@pytest.mark.parametrize("step", FILLING)
def test_killed_while_filling(
    make: Any, origin: Folder, child: Any, root: Path, step: str, skip: int
) -> None:
    one, two = origin.put("one", os.urandom(SIZE)), origin.put("d/two", os.urandom(SIZE))
    dying = child(names=[["one", "d/two"]], die_at=step, skip=skip)
    dying.lines()
    died = dying.end() == -signal.SIGKILL
    before = sent(origin)
    started = time.perf_counter()
    cache = make()
    cache.refresh()
    reopened_s = time.perf_counter() - started
    with cache.acquire(http("one", "d/two")) as lease:
        assert (lease.path / "one").read_bytes() == one
        assert (lease.path / "d/two").read_bytes() == two
    assert audit(root) == []
    # A step of this engine is 16 KiB a file; nothing that was told to the index comes again.
    assert sent(origin) - before <= (
        2 * SIZE if step in ("reserved",) else 2 * SIZE - before + 2**16
    )
    assert died or skip
    assert reopened_s < 1.0
    cache.clear()
    assert audit(root) == []
    assert cache.stats().total_size_bytes == 0


@pytest.mark.parametrize("step", EVICTING)
def test_killed_while_evicting(
    make: Any, origin: Folder, child: Any, root: Path, step: str
) -> None:
    content = {name: origin.put(name, os.urandom(1000)) for name in ("a", "b", "c")}
    dying = child(names=[["a"], ["b"], ["c"]], die_at=step, options={"max_bytes": 2000})
    dying.lines()
    assert dying.end() == -signal.SIGKILL
    cache = make(max_bytes=2000)
    cache.refresh()
    assert audit(root) == []
    for name, data in content.items():
        with cache.acquire(http(name)) as lease:
            assert lease.path.read_bytes() == data
    assert audit(root) == []


@pytest.mark.parametrize("step", [*FILLING, *EVICTING])
def test_the_same_process_goes_on_after_a_failure_at_any_step(
    make: Any, origin: Folder, root: Path, step: str
) -> None:
    content = {name: origin.put(name, os.urandom(SIZE)) for name in ("a", "b", "c")}
    steps = Steps(at=step, skip=1, error=Crash())
    cache = make(max_bytes=2 * SIZE, reached=steps)
    for _ in range(2):
        for name, data in content.items():
            try:
                with cache.acquire(http(name)) as lease:
                    assert lease.path.read_bytes() == data
            except Crash:
                steps.at = ""
    assert steps.at == ""
    cache.close()
    again = make(max_bytes=2 * SIZE)
    again.refresh()
    assert audit(root) == []
    assert cache.snapshot().leases == 0


def test_killed_at_random_points(make: Any, origin: Folder, child: Any, root: Path) -> None:
    """Between the steps too: after so many milliseconds of a storm of fetching and evicting."""
    dice = random.Random(4)
    content = {f"m{n}": origin.put(f"m{n}", os.urandom(60_000)) for n in range(6)}
    digests = {name: sha256(data) for name, data in content.items()}
    options = {"max_bytes": 200_000, "ttl_s": 0.0}
    for round_ in range(200 if SOAK else 20):
        dying = child(
            names=[[name] for name in content], threads=3, rounds=1000, seed=round_, options=options
        )
        assert dying.line() == {"started": True}
        served = 0
        deadline = time.monotonic() + dice.uniform(0.0, 0.15)
        while time.monotonic() < deadline or not served:
            line = dying.line()
            assert line["sha256"] == [digests[name] for name in line["names"]]
            served += 1
        dying.kill()
        cache = make(**options)
        started = time.perf_counter()
        cache.refresh()
        assert time.perf_counter() - started < 1.0
        assert audit(root) == []
        name = dice.choice(list(content))
        with cache.acquire(http(name)) as lease:
            assert lease.path.read_bytes() == content[name]
        cache.close()


def test_a_published_folder_whose_row_was_not_is_taken_over_without_a_download(
    make: Any, origin: Folder, child: Any, root: Path
) -> None:
    origin.put("m", os.urandom(SIZE))
    dying = child(names=[["m"]], die_at="entry_in_place")
    dying.lines()
    dying.end()
    before = origin.notes()
    clock = Clock(0.0)
    cache = make(offline=True, wall_clock=clock)
    cache.acquire(http("m")).release()
    assert origin.notes() == before
    assert audit(root) == []


def test_what_was_left_by_another_boot_is_dropped(
    make: Any, origin: Folder, child: Any, root: Path
) -> None:
    origin.put("m", os.urandom(SIZE))
    dying = child(names=[["m"]], die_at="extents", skip=3)
    dying.lines()
    dying.end()
    cache = make(boot_id=lambda: "another")
    cache.refresh()
    assert not list((root / "partial").iterdir())
    assert cache.snapshot().size_bytes == 0
    assert audit(root) == []


def test_the_parts_of_a_dead_download_count_until_somebody_needs_the_room(
    make: Any, origin: Folder, child: Any, root: Path
) -> None:
    origin.put("m", os.urandom(SIZE))
    other = origin.put("other", os.urandom(SIZE))
    dying = child(names=[["m"]], die_at="extents", skip=3)
    dying.lines()
    dying.end()
    cache = make(max_bytes=SIZE + 10_000)
    assert cache.store().index.totals().reserved_bytes == 4 * 16 * 1024
    with cache.acquire(http("other")) as lease:
        assert lease.path.read_bytes() == other
    assert not list((root / "partial").iterdir())
    assert audit(root) == []


def test_a_live_download_is_left_alone_by_an_opener(
    make: Any, origin: Folder, child: Any, root: Path
) -> None:
    """Another process opens the cache and clears it while a download is under way."""
    data = origin.put("m", os.urandom(SIZE))

    def disturb(file: Any, done: int) -> None:
        if done == 65536:
            other = make()
            other.refresh()
            other.clear()

    cache = make(download=Engine(disturb))
    with cache.acquire(http("m")) as lease:
        assert lease.path.read_bytes() == data
    assert len(origin.notes("download")) == 1
    assert audit(root) == []


def test_recovery_looks_only_at_what_is_not_ready(
    make: Any, origin: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = make()
    for n in range(10):
        origin.put(f"m{n}", b"x" * n)
        cache.acquire(http(f"m{n}")).release()
    cache.close()
    looked: list[str] = []
    monkeypatch.setattr(recovery, "read_manifest", lambda *args: looked.append(args[1]))
    make().refresh()
    assert looked == []
