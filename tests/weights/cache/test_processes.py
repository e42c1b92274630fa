"""Several processes on one cache."""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests_weights_cache_fakes import Clock, Crash, Engine, Folder, audit, http, no_flock, sha256

from thalamus_lite.errors import CacheFull
from thalamus_lite.weights.entries import recovery
from thalamus_lite.weights.entries.holds import PublishedMeanwhile, hold_partial
from thalamus_lite.weights.forks import _Gate, no_fork

SOAK = bool(os.environ.get("THALAMUS_SOAK"))


def test_cold_processes_and_threads_download_each_key_once(
    origin: Folder, child: Any, root: Path
) -> None:
    processes, threads, keys = (16, 4, 50) if SOAK else (4, 4, 20)
    content = {f"m{n}": origin.put(f"m{n}", os.urandom(5_000 + n)) for n in range(keys)}
    names = [[name] for name in content]
    children = [child(names=names, threads=threads, seed=n, wait=True) for n in range(processes)]
    for each in children:
        assert each.line() == {"started": True}
    for each in children:
        each.go_on()
    for each in children:
        *served, last = each.lines()
        assert last == {"ended": True}
        assert len(served) == threads * keys
        for line in served:
            assert line["sha256"] == [sha256(content[name]) for name in line["names"]]
    downloads = Counter(line.split()[1] for line in origin.notes("download"))
    assert downloads == dict.fromkeys(content, 1)
    assert audit(root) == []


def test_a_storm_of_evictions_by_several_processes_serves_only_whole_files(
    origin: Folder, child: Any, root: Path, make: Any
) -> None:
    content = {f"m{n}": origin.put(f"m{n}", os.urandom(10_000)) for n in range(8)}
    kept = origin.put("kept", os.urandom(10_000))
    options = {"max_bytes": 95_000}
    cache = make(**options)
    with cache.acquire(http("kept")) as lease:
        inode = lease.path.stat().st_ino
        names = [[name] for name in content]
        children = [
            child(names=names, threads=2, rounds=3, seed=n, options=options) for n in range(3)
        ]
        for each in children:
            *served, last = each.lines()
            assert last == {"ended": True}
            for line in served[1:]:
                assert line["sha256"] == [sha256(content[name]) for name in line["names"]]
        # Never evicted, though it became the least recently used of all.
        assert lease.path.read_bytes() == kept
        assert lease.path.stat().st_ino == inode
    assert len(origin.notes("download kept")) == 1
    assert audit(root) == []


def test_a_lease_of_another_process_is_respected_until_that_dies(
    make: Any, origin: Folder, child: Any
) -> None:
    origin.put("m", b"m" * 100)
    origin.put("n", b"n" * 100)
    holder = child(names=[], hold=["m"])
    assert holder.line() == {"started": True}
    path = Path(holder.line()["held"])
    cache = make(max_bytes=150)
    assert cache.clear() == (0, 0)
    with pytest.raises(CacheFull):
        cache.acquire(http("n"))
    assert path.read_bytes() == b"m" * 100
    holder.kill()
    cache.acquire(http("n")).release()
    assert not path.exists()


def test_locks_that_do_nothing_cost_downloads_and_nothing_else(
    origin: Folder, child: Any, root: Path
) -> None:
    content = {f"m{n}": origin.put(f"m{n}", os.urandom(40_000)) for n in range(6)}
    names = [[name] for name in content] + [["m0", "m1"]]
    children = [
        child(names=names, threads=3, rounds=3, seed=n, no_flock=True, wait=True, chunk=4096)
        for n in range(4)
    ]
    for each in children:
        assert each.line() == {"started": True}
    for each in children:
        each.go_on()
    for each in children:
        *served, last = each.lines()
        assert last == {"ended": True}
        for line in served:
            assert line["sha256"] == [sha256(content[name]) for name in line["names"]]
    wrong = [
        line for line in audit(root) if not line.startswith(("partial/", "trash/", "entries/"))
    ]
    assert wrong == []


def test_nothing_is_evicted_where_locks_do_nothing(
    make: Any, origin: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    data = origin.put("m", b"m" * 100)
    origin.put("n", b"n" * 100)
    cache = make(flock=no_flock, max_bytes=150)
    lease = cache.acquire(http("m"))
    assert "nothing will be evicted" in caplog.text
    with pytest.raises(CacheFull):
        cache.acquire(http("n"))
    assert cache.clear() == (0, 0)
    assert lease.path.read_bytes() == data
    lease.release()


def test_a_holder_that_stands_still_is_passed_by(make: Any, origin: Folder, root: Path) -> None:
    """A process that holds the download's lock and does nothing, for longer than the patience."""
    data = origin.put("m", os.urandom(100_000))
    ticks = Clock(0.0)
    stopped: list[int] = []

    def freeze(file: Any, done: int) -> None:
        # The lock survives its process's will to go on: the descriptor is taken over.
        (folder,) = (root / "partial").iterdir()
        if not stopped:
            stopped.append(os.open(folder, os.O_RDONLY))
            raise Crash

    with pytest.raises(Crash):
        make(download=Engine(freeze)).acquire(http("m"))
    fcntl.flock(stopped[0], fcntl.LOCK_EX)

    def tick() -> float:
        ticks.now += 100
        return ticks.now

    with make(monotonic=tick).acquire(http("m")) as lease:
        assert lease.path.read_bytes() == data
    os.close(stopped[0])
    again = make()
    again.refresh()
    assert audit(root) == []


def test_a_failure_beside_a_holder_that_stands_still_leaves_nothing_behind(
    make: Any, origin: Folder, root: Path
) -> None:
    origin.put("m", os.urandom(100_000))
    ticks = Clock(0.0)
    cache = make(flock=no_flock, monotonic=ticks, download=Engine(_fail))
    with pytest.raises(CacheFull):
        cache.acquire(http("m"))
    assert cache.store().index.totals().reserved_bytes == 0
    assert not list(root.glob("partial/*/*"))


def _fail(file: Any, done: int) -> None:
    raise CacheFull(1, 0, 0)


def test_waiting_for_a_holder_ends_when_the_entry_is_ready(
    make: Any, origin: Folder, root: Path
) -> None:
    origin.put("m", b"x")
    cache = make()
    cache.acquire(http("m")).release()
    store = cache.store()
    (entry,) = store.index.entries()
    ident = next(iter(root.glob("entries/*/manifest.json"))).read_text().split('"ident": "')[1][:64]
    assert store.index.ready(ident).entry_id == entry.entry_id
    folder = root / "partial" / ident
    folder.mkdir()
    fd = os.open(folder, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(PublishedMeanwhile), hold_partial(store, ident, threading.Event()):
        pass
    os.close(fd)


fork = multiprocessing.get_context("fork")


def test_a_forked_child_uses_the_cache_with_connections_of_its_own(
    make: Any, origin: Folder, root: Path, in_child: Any
) -> None:
    one, two = origin.put("one", b"one"), origin.put("two", b"two")
    cache = make()
    cache.acquire(http("one")).release()

    def work() -> Any:
        with cache.acquire(http("one")) as old, cache.acquire(http("two")) as new:
            return old.path.read_bytes(), new.path.read_bytes()

    assert in_child(work) == (one, two)
    cache.acquire(http("two")).release()
    assert len(origin.notes("download")) == 2
    assert audit(root) == []


def test_a_forked_child_cannot_release_its_parents_lease(
    make: Any, origin: Folder, in_child: Any
) -> None:
    origin.put("m", b"x")
    cache = make()
    with cache.acquire(http("m")) as lease:

        def work() -> Any:
            lease.release()
            return cache.snapshot().leases

        assert in_child(work) == 0
        assert make().clear() == (0, 0)
        assert lease.path.exists()
    assert make().clear() == (1, 1)


def test_a_lease_released_by_its_process_is_gone_whatever_its_children_hold(
    make: Any, origin: Folder
) -> None:
    origin.put("m", b"x")
    cache = make()
    lease = cache.acquire(http("m"))
    here, there = fork.Pipe()
    # It inherits the descriptor of the lease, and lives on.
    process = fork.Process(target=there.recv)
    process.start()
    lease.release()
    assert make().clear() == (1, 1)
    here.send(None)
    process.join()
    process.close()
    here.close()
    there.close()


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc which folder is locked")
def test_a_child_forked_at_any_exclusive_lock_does_not_keep_it(
    make: Any, origin: Folder, root: Path
) -> None:
    origin.sizes = False
    for name, size in (("little", 10), ("large", 800), ("huge", 900)):
        origin.put(name, bytes(size))
    born: list[Any] = []
    locked: set[str] = set()

    def flock(fd: int, kind: int) -> None:
        fcntl.flock(fd, kind)
        path = os.readlink(f"/proc/self/fd/{fd}")
        if kind & fcntl.LOCK_EX and path not in locked:
            locked.add(path)
            born.append(fork.Process(target=signal.pause, daemon=True))
            born[-1].start()

    broken = make(download=Engine(_crash))
    with pytest.raises(Crash):
        broken.acquire(http("huge"))
    cache = make(flock=flock, max_bytes=1000)
    cache.acquire(http("little")).release()
    with cache.acquire(http("large")), pytest.raises(CacheFull):
        cache.acquire(http("huge"))
    cache.rebuild()
    cache.clear()
    kinds = {Path(path).parent.name for path in locked}
    assert kinds == {"entries", "partial", root.parent.name}
    for path in locked:
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(path, os.O_RDONLY)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(fd)
    for process in born:
        process.kill()
        process.join()
        process.close()
    assert audit(root) == []


def _crash(file: Any, done: int) -> None:
    raise Crash


def test_a_child_forked_in_the_middle_of_a_download_does_not_hold_it(
    make: Any, origin: Folder, root: Path
) -> None:
    data = origin.put("m", os.urandom(200_000))
    here, there = fork.Pipe()
    born: list[Any] = []

    def work() -> None:
        there.recv()

    def give_birth(file: Any, done: int) -> None:
        if not born:
            born.append(fork.Process(target=work))
            born[0].start()
            # The parent's download ends here, as if it had been killed.
            raise Crash

    cache = make(download=Engine(give_birth))
    with pytest.raises(Crash):
        cache.acquire(http("m"))
    # The child is still there, and does not keep the folder locked.
    with make().acquire(http("m")) as lease:
        assert lease.path.read_bytes() == data
    here.send(None)
    born[0].join()
    born[0].close()
    here.close()
    there.close()
    assert audit(root) == []


def test_forks_in_the_middle_of_transactions_break_nothing(
    make: Any, origin: Folder, root: Path, in_child: Any
) -> None:
    """Threads that write all the time, and children that use the same cache at once."""
    for n in range(4):
        origin.put(f"m{n}", bytes([n]) * 100)
    cache = make()
    for n in range(4):
        cache.acquire(http(f"m{n}")).release()
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            cache.store().index.touch(["none"])
            # SQLite gives its lock to whoever finds it free: without a gap a child may never.
            time.sleep(0.001)

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()

    def work() -> Any:
        with cache.acquire(http("m1")) as lease:
            cache.store().index.touch([lease.entry_id])
            return lease.path.read_bytes()

    try:
        for _ in range(50):
            assert in_child(work) == b"\1" * 100
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert audit(root) == []


def test_a_fork_waits_for_whoever_is_in_a_transaction() -> None:
    inside, leave, forked = threading.Event(), threading.Event(), threading.Event()

    def hold() -> None:
        with no_fork(), no_fork():
            inside.set()
            assert leave.wait(30)
            assert not forked.is_set()

    def give_birth() -> None:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        forked.set()
        os.waitpid(pid, 0)

    # The gate is registered with the first heir; any will do.
    from thalamus_lite.weights import forks

    class Heir:
        def after_fork(self) -> None: ...

    heir = Heir()
    forks.watch(heir)
    holder, parent = threading.Thread(target=hold), threading.Thread(target=give_birth)
    holder.start()
    assert inside.wait(30)
    parent.start()
    while not forks._gate._forking:
        time.sleep(0.001)
    entered = threading.Event()

    def enter() -> None:
        with no_fork():
            entered.set()

    late = threading.Thread(target=enter)
    late.start()
    assert not entered.is_set()
    leave.set()
    for thread in (holder, parent, late):
        thread.join()
    assert forked.is_set()
    assert entered.is_set()


def test_the_gate_stays_shut_until_the_last_of_several_forks() -> None:
    inside = threading.Event()

    def enter() -> None:
        with gate.closed():
            inside.set()

    gate = _Gate()
    gate._before()
    gate._before()
    gate._open()
    thread = threading.Thread(target=enter)
    thread.start()
    assert not inside.wait(0.05)
    gate._open()
    assert inside.wait(10)
    thread.join()


def test_first_index_that_another_made_meanwhile_stays_where_locks_do_nothing(
    make: Any, origin: Folder, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.put("m", b"m" * 100)
    late, early = make(flock=no_flock), make(flock=no_flock)
    build = recovery._build

    def slow(*given: Any) -> set[str]:
        monkeypatch.setattr(recovery, "_build", build)
        built = build(*given)
        # All that another does between this one's look for an index and its own.
        early.acquire(http("m")).release()
        return built

    monkeypatch.setattr(recovery, "_build", slow)
    late.acquire(http("m")).release()
    early.acquire(http("m")).release()
    assert len(origin.notes("download m")) == 1
    assert audit(root) == []
    assert not list(root.glob("index.*.db"))
