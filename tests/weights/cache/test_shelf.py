"""Equal bytes lie on the disk once, and what is shared is read before it is handed out again."""

from __future__ import annotations

import errno
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest
from tests_weights_cache_fakes import Crash, Folder, Steps, audit, http, no_flock, sha256

from thalamus_lite.weights.entries import shelf
from thalamus_lite.weights.entries.eviction import unlink_blobs
from thalamus_lite.weights.maintenance import _digest, verify
from thalamus_lite.weights.origin import DownloadCancelled

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 50_000


@pytest.fixture
def data(origin: Folder) -> bytes:
    """``one``, ``two``, ``three`` are equal, and nobody says so."""
    data = os.urandom(SIZE)
    for name in ("one", "two", "three"):
        origin.put(name, data)
    return data


def on_disk(root: Path) -> int:
    """Bytes of all files, each counted once however many names it has."""
    files = [p.lstat() for p in root.rglob("*") if p.is_file() and "index.db" not in p.name]
    return sum({f.st_ino: f.st_size for f in files if f.st_size >= SIZE}.values())


def blob_of(root: Path, data: bytes) -> Path:
    return root / "blobs" / sha256(data)[:2] / sha256(data)


def harm(path: Path) -> None:
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(b"EVIL")


def test_entries_of_equal_bytes_occupy_what_stats_says(make: Any, data: bytes, root: Path) -> None:
    cache = make()
    leases = [cache.acquire(http(name)) for name in ("one", "two", "three")]
    assert len({lease.path.stat().st_ino for lease in leases}) == 1
    assert leases[0].path.samefile(blob_of(root, data))
    assert on_disk(root) == cache.stats().total_size_bytes == SIZE
    assert audit(root) == []
    for lease in leases[:2]:
        lease.release()
    assert cache.clear() == (0, 0)
    assert leases[2].path.read_bytes() == data
    leases[2].release()
    assert cache.clear() == (SIZE, 1)
    assert on_disk(root) == 0


def test_equal_files_of_one_entry_are_one_file(make: Any, data: bytes, root: Path) -> None:
    cache = make()
    with cache.acquire(http("one", "two", "three")) as lease:
        assert len({path.stat().st_ino for path in lease.path.iterdir()}) == 1
    assert on_disk(root) == cache.stats().total_size_bytes == SIZE
    assert audit(root) == []


def test_equal_bytes_published_at_the_same_time_are_one_file(
    make: Any, data: bytes, root: Path
) -> None:
    gate = threading.Barrier(3)

    def together(step: str) -> None:
        if step == "entry_built":
            gate.wait(30)

    cache = make(reached=together)
    leases: list[Any] = []
    threads = [
        threading.Thread(target=lambda name=name: leases.append(cache.acquire(http(name))))
        for name in ("one", "two", "three")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({lease.path.stat().st_ino for lease in leases}) == 1
    assert on_disk(root) == SIZE
    assert audit(root) == []


@pytest.mark.parametrize(
    "step", ["reserved", "verified", "staged", "entry_built", "blob_in_place", "entry_in_place"]
)
def test_the_last_other_entry_may_be_evicted_at_any_step(
    make: Any, data: bytes, root: Path, step: str
) -> None:
    make().acquire(http("one")).release()
    steps = Steps(at=step)
    steps.action = lambda: make().clear()
    cache = make(reached=steps)
    with cache.acquire(http("two")) as lease:
        assert lease.path.read_bytes() == data
        assert lease.path.samefile(blob_of(root, data))
        assert on_disk(root) == SIZE
    assert audit(root) == []
    assert cache.clear() == (SIZE, 1)


@pytest.mark.parametrize("step", ["evicting", "trashed", "forgotten", "unlinked"])
def test_equal_bytes_may_be_published_at_any_step_of_an_eviction(
    make: Any, data: bytes, root: Path, step: str
) -> None:
    make().acquire(http("one")).release()
    leases: list[Any] = []
    steps = Steps(at=step)
    steps.action = lambda: leases.append(make().acquire(http("two")))
    make(reached=steps).clear()
    assert leases[0].path.read_bytes() == data
    assert leases[0].path.samefile(blob_of(root, data))
    assert on_disk(root) == SIZE
    leases[0].release()
    assert audit(root) == []


@pytest.mark.parametrize("skip", [0, 1])
@pytest.mark.parametrize(
    "step", ["verified", "staged", "entry_built", "blob_in_place", "shelved", "entry_in_place"]
)
def test_killed_while_sharing(
    make: Any, origin: Folder, data: bytes, child: Any, root: Path, step: str, skip: int
) -> None:
    make().acquire(http("one")).release()
    dying = child(names=[["two", "three"]], die_at=step, skip=skip)
    dying.lines()
    assert dying.end() == -signal.SIGKILL or skip
    cache = make()
    with cache.acquire(http("two", "three")) as lease:
        for path in lease.path.iterdir():
            assert path.read_bytes() == data
            assert path.samefile(blob_of(root, data))
    assert on_disk(root) == cache.stats().total_size_bytes == SIZE
    assert audit(root) == []
    assert cache.clear() == (SIZE, 1)


def test_a_part_that_a_crash_left_as_a_blob_too_is_not_written_to(
    make: Any, origin: Folder, root: Path
) -> None:
    """Between the blob's name and the end of the part's."""
    content = [origin.put(name, os.urandom(SIZE)) for name in ("a", "b")]

    def stop(step: str) -> None:
        if step == "entry_built":
            (part,) = root.glob("partial/*/0.*.part")
            blob = blob_of(root, content[0])
            blob.parent.mkdir(exist_ok=True)
            os.link(part, blob)
            raise Crash

    with pytest.raises(Crash):
        make(reached=stop).acquire(http("a", "b"))
    blob = blob_of(root, content[0])
    harm(blob)
    harmed = blob.read_bytes()
    with blob.open("rb") as reader:
        with make().acquire(http("a", "b")) as lease:
            assert (lease.path / "a").read_bytes() == content[0]
        assert reader.read() == harmed
    assert audit(root) == []


def damaged_by_a_write(blob: Path) -> None:
    harm(blob)


def longer(blob: Path) -> None:
    blob.chmod(0o644)
    with blob.open("ab") as file:
        file.write(b"more")


def a_link(blob: Path) -> None:
    copy = blob.parent.parent.parent / "elsewhere"
    copy.write_bytes(blob.read_bytes())
    blob.unlink()
    blob.symlink_to(copy)


def a_folder(blob: Path) -> None:
    blob.unlink()
    (blob / "sub").mkdir(parents=True)


def a_pipe(blob: Path) -> None:
    blob.unlink()
    os.mkfifo(blob)


@pytest.mark.parametrize("damage", [damaged_by_a_write, longer, a_link, a_folder, a_pipe])
@pytest.mark.parametrize("told", ["by the user", "by the origin", "by nobody"])
def test_a_damaged_blob_is_handed_out_to_nobody_else(
    make: Any,
    origin: Folder,
    data: bytes,
    root: Path,
    damage: Any,
    told: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache = make()
    cache.acquire(http("one")).release()
    damage(blob_of(root, data))
    origin.digests = told == "by the origin"
    given = {"sha256": sha256(data)} if told == "by the user" else {}
    with cache.acquire(http("two", **given)) as lease:
        assert lease.path.read_bytes() == data
        assert lease.path.samefile(blob_of(root, data))
        assert not lease.path.is_symlink()
    assert "cache verify" in caplog.text
    assert len(origin.notes("download")) == 2
    # The next finds the fresh one, and what has the damaged one can still be found out.
    origin.digests = True
    cache.acquire(http("three")).release()
    assert len(origin.notes("download")) == 2
    damaged = {verdict.name for verdict in verify(cache) if verdict.problem}
    assert damaged == ({"http://fake/one"} if damage in (damaged_by_a_write, longer) else set())
    assert audit(root) == []


def test_a_sound_blob_is_read_instead_of_downloaded(
    make: Any, origin: Folder, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = make()
    cache.acquire(http("one")).release()
    read: list[int] = []
    digest = shelf.Shelf._digest
    monkeypatch.setattr(
        shelf.Shelf, "_digest", lambda self, fd: read.append(fd) or digest(self, fd)
    )
    origin.digests = True
    cache.acquire(http("two", "three")).release()
    assert len(read) == 1
    assert len(origin.notes("download")) == 1


def test_whoever_waits_for_a_blob_to_be_read_can_give_up(
    make: Any, origin: Folder, data: bytes
) -> None:
    cache = make()
    cache.acquire(http("one")).release()
    origin.digests = True
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(DownloadCancelled):
        cache.acquire(http("two"), cancel=cancel)


def test_a_file_with_all_the_links_it_can_have_is_begun_anew(
    make: Any, data: bytes, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = make()
    cache.acquire(http("one")).release()
    link = os.link

    def full(source: Any, target: Any) -> None:
        if str(target).endswith(".twin"):
            raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))
        link(source, target)

    monkeypatch.setattr(shelf.os, "link", full)
    with cache.acquire(http("two")) as lease:
        assert lease.path.samefile(blob_of(root, data))
    assert audit(root) == []


def test_equal_bytes_where_locks_do_nothing(make: Any, data: bytes, root: Path) -> None:
    cache = make(flock=no_flock)
    leases = [cache.acquire(http(name)) for name in ("one", "two")]
    assert leases[0].path.samefile(leases[1].path)
    assert on_disk(root) == SIZE


def test_a_dead_blob_that_two_remove_at_once_leaves_nothing_behind(
    make: Any, origin: Folder, root: Path
) -> None:
    other = make().store()

    def overtake() -> None:
        unlink_blobs(other, other.index.dead_blobs())

    origin.put("m", b"bytes")
    cache = make(reached=Steps(at="unlinked", action=overtake))
    cache.acquire(http("m")).release()
    cache.clear()
    assert audit(root) == []


def test_a_file_that_has_got_the_inode_of_another_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    os.utime(path, ns=(1, 1))
    digests: dict[Any, str] = {}
    assert _digest(path, digests) == sha256(b"one")
    # The same inode, as a file system hands it out again at once.
    path.write_bytes(b"two")
    assert _digest(path, digests) == sha256(b"two")
