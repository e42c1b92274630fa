"""Full disks, disks that cannot be written, file systems that cannot link."""

from __future__ import annotations

import ctypes
import errno
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from tests_weights_cache_fakes import Crash, Disk, Engine, Folder, Steps, audit, disk_full, http

from thalamus_lite.errors import CacheFull, CacheUnusable, DiskFull
from thalamus_lite.weights import mounts
from thalamus_lite.weights.entries import eviction, layout, strangers


def test_free_space_is_kept(make: Any, origin: Folder) -> None:
    disk = Disk(free=1000)
    origin.put("a", b"a" * 300)
    origin.put("b", b"b" * 300)
    cache = make(min_free_bytes=500, free_bytes=disk)
    cache.acquire(http("a")).release()
    disk.free = 700
    with pytest.raises(DiskFull, match="MIN_FREE"), cache.acquire(http("a")):
        cache.acquire(http("b"))
    assert cache.store().index.totals().reserved_bytes == 0
    assert len(origin.notes("download")) == 1


def test_entries_go_to_keep_space_free(make: Any, origin: Folder, root: Path) -> None:
    class Shared(Disk):
        """What blobs occupy is not free."""

        def __call__(self, path: Path) -> int:
            return self.free - sum(p.stat().st_size for p in root.glob("blobs/*/*"))

    for name in ("a", "b", "c"):
        origin.put(name, name.encode() * 300)
    cache = make(min_free_bytes=100, free_bytes=Shared(800))
    for name in ("a", "b", "c"):
        cache.acquire(http(name)).release()
    assert cache.stats().total_size_bytes == 600
    assert audit(root) == []


def test_downloads_under_way_count_before_they_are_on_the_disk(make: Any, origin: Folder) -> None:
    origin.put("a", b"a" * 600)
    origin.put("b", b"b" * 600)
    refused: list[str] = []

    def also(file: Any, done: int) -> None:
        if file.relpath == "a" and not refused:
            refused.append("first")
            with pytest.raises(DiskFull):
                other.acquire(http("b"))

    disk = Disk(free=1000)
    other = make(free_bytes=disk)
    make(free_bytes=disk, download=Engine(also, chunk=100)).acquire(http("a")).release()
    assert refused == ["first"]


def test_files_that_are_all_here_need_no_free_space(make: Any, origin: Folder) -> None:
    origin.digests = True
    data = os.urandom(300)
    for name in ("a", "b"):
        origin.put(name, data)
    origin.put("other", os.urandom(300))
    disk = Disk(free=1000)
    cache = make(min_free_bytes=500, free_bytes=disk)
    cache.acquire(http("other")).release()
    cache.acquire(http("a")).release()
    disk.free = 100
    with cache.acquire(http("b")) as lease:
        assert lease.path.read_bytes() == data
    assert cache.stats().file_count == 2


@pytest.mark.parametrize(("free", "fits"), [(1599, False), (1600, True)])
def test_where_files_cannot_be_linked_room_for_both_copies_is_kept(
    make: Any, origin: Folder, monkeypatch: pytest.MonkeyPatch, free: int, fits: bool
) -> None:
    monkeypatch.setattr(layout.os, "link", no_link(errno.EPERM))
    data = origin.put("m", os.urandom(300))
    cache = make(min_free_bytes=1000, free_bytes=Disk(free))
    if fits:
        with cache.acquire(http("m")) as lease:
            assert lease.path.read_bytes() == data
        return
    with pytest.raises(DiskFull, match="1 more free"):
        cache.acquire(http("m"))
    assert not origin.notes("download")
    assert not list((cache.cache_dir / "partial").iterdir())


def test_where_files_cannot_be_linked_those_that_are_here_are_copied(
    make: Any, origin: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout.os, "link", no_link(errno.EPERM))
    origin.digests = True
    for name in ("a", "b"):
        origin.put(name, b"x" * 300)
    disk = Disk(free=1600)
    cache = make(min_free_bytes=1000, free_bytes=disk)
    with cache.acquire(http("a")):
        disk.free = 1000
        with pytest.raises(DiskFull):
            cache.acquire(http("b"))
        disk.free = 1300
        cache.acquire(http("b")).release()


def no_link(code: int) -> Any:
    def link(*args: Any, **kwargs: Any) -> None:
        raise OSError(code, os.strerror(code))

    return link


@pytest.mark.parametrize("name", ["extents", "verified", "staged", "entry_built", "shelved"])
def test_a_disk_that_fills_up_at_any_step_loses_nothing_that_is_cached(
    make: Any, origin: Folder, root: Path, name: str
) -> None:
    data = origin.put("old", os.urandom(1000))
    fresh = origin.put("new", os.urandom(200_000))
    make().acquire(http("old")).release()

    def fill(step: str) -> None:
        if step == name:
            raise DiskFull("full")

    with pytest.raises(DiskFull):
        make(reached=fill).acquire(http("new"))
    with make().acquire(http("old")) as lease:
        assert lease.path.read_bytes() == data
    assert audit(root) == []
    with make().acquire(http("new")) as lease:
        assert lease.path.read_bytes() == fresh
    assert audit(root) == []


@pytest.mark.parametrize(
    ("module", "function"),
    [
        (layout.os, "open"),
        (layout.os, "fchmod"),
        (layout.os, "link"),
        (Path, "unlink"),
        (Path, "mkdir"),
        (Path, "rename"),
        (Path, "write_bytes"),
    ],
)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_every_call_that_can_fail_ends_in_a_typed_error(
    make: Any,
    origin: Folder,
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    function: str,
    code: int,
) -> None:
    origin.put("m", os.urandom(1000))
    cache = make()
    cache.refresh()
    real = getattr(module, function)
    failed: list[str] = []

    def fail(*args: Any, **kwargs: Any) -> Any:
        ours = isinstance(args[0], int) or str(cache.cache_dir) in str(args[0])
        if not failed and ours:
            failed.append(function)
            raise OSError(code, os.strerror(code))
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(module, function, fail)
        with suppress(DiskFull if code == errno.ENOSPC else CacheUnusable):
            cache.acquire(http("m")).release()
    assert failed
    cache.acquire(http("m")).release()
    assert cache.snapshot().leases == 0
    cache.close()
    again = make()
    again.refresh()
    assert audit(cache.cache_dir) == []


def test_an_fsync_that_fails_publishes_nothing(make: Any, origin: Folder, root: Path) -> None:
    origin.put("m", b"abc")

    def fail(fd: int) -> None:
        raise disk_full()

    with pytest.raises(DiskFull):
        make(fsync=fail).acquire(http("m"))
    assert audit(root) == []
    assert make().stats().total_size_bytes == 0


@pytest.mark.parametrize("code", [errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP, errno.EXDEV])
def test_where_files_cannot_be_linked_they_are_copied(
    make: Any, origin: Folder, root: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(layout.os, "link", no_link(code))
    data = origin.put("m", os.urandom(1000))
    with make().acquire(http("m")) as lease:
        assert lease.path.read_bytes() == data
        assert lease.path.stat().st_nlink == 1
        assert lease.path.stat().st_mode & 0o777 == 0o444
    assert audit(root) == []


@pytest.fixture
def mounted(tmp_path: Path) -> Any:
    """A tmpfs of 4 MiB, and a function that makes it read-only."""
    libc = ctypes.CDLL(None, use_errno=True)
    target = tmp_path / "mounted"
    target.mkdir()
    place = str(target).encode()
    if libc.mount(b"tmpfs", place, b"tmpfs", 0, b"size=4m,mode=0700") != 0:
        pytest.skip(f"this user may not mount a tmpfs: {os.strerror(ctypes.get_errno())}")

    def read_only() -> None:
        remount, rdonly = 32, 1
        assert libc.mount(b"tmpfs", place, b"tmpfs", remount | rdonly, None) == 0

    yield target, read_only
    libc.umount2(place, 2)


def test_a_disk_that_is_really_full(make: Any, origin: Folder, mounted: Any) -> None:
    target, _ = mounted
    data = origin.put("small", os.urandom(500_000))
    origin.put("large", os.urandom(5_000_000))
    cache = make(root=target / "cache")
    cache.acquire(http("small")).release()
    with pytest.raises(DiskFull):
        cache.acquire(http("large"))
    with cache.acquire(http("small")) as lease:
        assert lease.path.read_bytes() == data
    # With the true free space the download is not even begun.
    before = len(origin.notes("bytes"))
    honest = make(root=target / "cache", free_bytes=lambda path: _free(path))
    with honest.acquire(http("small")), pytest.raises(DiskFull):
        honest.acquire(http("large"))
    assert len(origin.notes("bytes")) == before
    cache.clear()
    assert audit(target / "cache") == []


def _free(path: Path) -> int:
    stat = os.statvfs(path)
    return stat.f_bavail * stat.f_frsize


def test_a_read_only_disk_serves_what_it_has(make: Any, origin: Folder, mounted: Any) -> None:
    target, read_only = mounted
    data = origin.put("m", os.urandom(1000))
    origin.put("n", os.urandom(1000))
    cache = make(root=target / "cache")
    cache.acquire(http("m")).release()
    cache.close()
    read_only()
    cache = make(root=target / "cache")
    with cache.acquire(http("m")) as lease:
        assert lease.path.read_bytes() == data
    with pytest.raises(CacheUnusable, match="writable"):
        cache.acquire(http("n"))
    with pytest.raises(CacheUnusable):
        cache.clear()
    with cache.acquire(http("m")) as lease:
        assert lease.path.read_bytes() == data


def test_a_read_only_disk_serves_what_the_origin_says_is_unchanged(
    make: Any, origin: Folder, mounted: Any, caplog: pytest.LogCaptureFixture
) -> None:
    target, read_only = mounted
    data = origin.put("m", os.urandom(1000))
    cache = make(root=target / "cache", ttl_s=0.0)
    cache.acquire(http("m")).release()
    cache.close()
    read_only()
    cache = make(root=target / "cache", ttl_s=0.0)
    for _ in range(2):
        with cache.acquire(http("m")) as lease:
            assert lease.path.read_bytes() == data
    assert len(origin.notes("revalidate")) == 2
    assert "note down" in caplog.text
    origin.put("m", b"another")
    with pytest.raises(CacheUnusable, match="writable"):
        cache.acquire(http("m"))
    assert cache.snapshot().leases == 0


def test_a_read_only_disk_with_something_unfinished_still_serves(
    make: Any, origin: Folder, mounted: Any, caplog: pytest.LogCaptureFixture
) -> None:
    target, read_only = mounted
    data = origin.put("m", os.urandom(1000))
    origin.put("n", os.urandom(100_000))
    cache = make(root=target / "cache", reached=Steps(at="extents", skip=1, error=_crash()))
    cache.acquire(http("m")).release()
    with pytest.raises(BaseException, match="crash"):
        cache.acquire(http("n"))
    cache.close()
    read_only()
    with make(root=target / "cache").acquire(http("m")) as lease:
        assert lease.path.read_bytes() == data


def _crash() -> BaseException:
    return KeyboardInterrupt("crash")


def test_an_empty_read_only_disk_is_refused_with_a_sentence(make: Any, mounted: Any) -> None:
    target, read_only = mounted
    read_only()
    with pytest.raises(CacheUnusable, match="THALAMUS_CACHE_DIR"):
        make(root=target / "cache").stats()


def test_a_new_cache_on_a_full_disk_says_so(make: Any, mounted: Any) -> None:
    target, _ = mounted
    for name in ("blobs", "entries", "partial", "trash"):
        (target / "cache" / name).mkdir(mode=0o700, parents=True)
    with suppress(OSError):
        (target / "filler").write_bytes(bytes(_free(target)))
    with pytest.raises(DiskFull, match="free space"):
        make(root=target / "cache").stats()
    (target / "filler").unlink()
    assert make(root=target / "cache").stats().file_count == 0


def dangling(path: Path) -> Path:
    path.symlink_to(path.parent / "nowhere")
    return path


def circular(path: Path) -> Path:
    path.symlink_to(path)
    return path


def below_a_file(path: Path) -> Path:
    path.write_bytes(b"")
    return path / "cache"


def too_long(path: Path) -> Path:
    return path.joinpath(*["d" * 100] * 5)


def a_short_link_to_a_long_path(path: Path) -> Path:
    (there := too_long(path / "far")).mkdir(parents=True)
    (path / "link").symlink_to(there)
    return path / "link"


def as_long_as_it_gets(path: Path) -> Path:
    return path.joinpath(*["d" * 100] * 36)


@pytest.mark.parametrize(
    "place",
    [
        dangling,
        circular,
        below_a_file,
        too_long,
        a_short_link_to_a_long_path,
        as_long_as_it_gets,
        lambda path: path / ("d" * 300),
        lambda path: path / "\udcff",
        lambda path: path / "a\0b",
        lambda path: Path("/proc/thalamus"),
        lambda path: Path("/dev/null"),
        lambda path: Path("/dev/null/cache"),
    ],
)
@pytest.mark.parametrize("use", ["stats", "rebuild", "acquire"])
def test_a_folder_that_cannot_be_one_is_refused_with_a_sentence(
    make: Any, origin: Folder, tmp_path: Path, place: Any, use: str
) -> None:
    origin.put("m", b"x")
    cache = make(root=place(tmp_path / "place"), fs_type=mounts.fs_type)
    with pytest.raises(CacheUnusable, match="THALAMUS_CACHE_DIR"):
        cache.acquire(http("m")) if use == "acquire" else getattr(cache, use)()


def test_the_longest_path_that_is_not_refused_works(
    make: Any, origin: Folder, tmp_path: Path
) -> None:
    data = origin.put("m", b"x")
    root = tmp_path
    while (left := layout._PATH_BYTES - len(str(root))) > 200:
        root = root / ("d" * 100)
    root = root / ("d" * (left - 1))
    assert len(str(root)) == layout._PATH_BYTES
    cache = make(root=root)
    with cache.acquire(http("m")) as lease:
        assert lease.path.read_bytes() == data
    cache.rebuild()


def tree(root: Path) -> dict[str, bytes | None]:
    """Each path below, with what is in it."""
    paths = sorted(root.rglob("*"))
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in paths
    }


def of_another_program(index: Path) -> None:
    with closing(sqlite3.connect(index)) as db:
        db.execute("CREATE TABLE theirs (x)")


@pytest.mark.parametrize("index", [None, of_another_program, Path.touch])
@pytest.mark.parametrize(
    "name",
    [
        "blobs/sha256/9f86d081",
        f"blobs/9f/{'9f86d081' * 8}",
        "blobs/note",
        "entries/2025/post.md",
        "entries/2025/manifest.json",
        "trash/keep.txt",
        "partial/thesis.tex",
        "trash/link/keep.txt",
        f"partial/{'9f86d081' * 8}/thesis.tex",
        f"entries/{'9f86d081' * 2}-{'9f86d081' * 2}/post.md",
    ],
)
@pytest.mark.parametrize("use", ["stats", "rebuild", "clear", "acquire"])
def test_a_folder_of_somebody_else_is_refused_and_not_touched(
    make: Any, origin: Folder, root: Path, name: str, index: Any, use: str
) -> None:
    origin.put("m", b"x")
    if "link" in name:
        (root / "elsewhere").mkdir(parents=True)
        (root / name).parent.parent.mkdir()
        (root / name).parent.symlink_to(root / "elsewhere")
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(b"{}")
    if index is not None:
        index(root / "index.db")
    before = tree(root)
    cache = make()
    with pytest.raises(CacheUnusable, match=f"{name.split('/')[0]}/ .* folder of its own"):
        cache.acquire(http("m")) if use == "acquire" else getattr(cache, use)()
    assert tree(root) == before


def test_an_emptied_cache_that_lost_its_index_is_one(make: Any, origin: Folder, root: Path) -> None:
    origin.put("m", b"x")
    cache = make()
    cache.acquire(http("m")).release()
    cache.clear()
    cache.close()
    assert list((root / "blobs").iterdir())
    (root / "index.db").unlink()
    make().acquire(http("m")).release()
    assert audit(root) == []


def torn(index: Path) -> None:
    index.write_bytes(bytes(8192))


def half_replaced(index: Path) -> None:
    index.rename(index.with_name("index.db.corrupt"))


@pytest.mark.parametrize("lose", [Path.unlink, torn, half_replaced])
@pytest.mark.parametrize("step", ["extents", "verified", "entry_built", "blob_in_place", "shelved"])
def test_a_cache_that_lost_its_index_before_its_first_entry_was_whole_is_one(
    make: Any, origin: Folder, root: Path, lose: Any, step: str
) -> None:
    data = origin.put("m", os.urandom(1000))
    cache = make(reached=Steps(at=step, error=Crash()))
    with pytest.raises(Crash):
        cache.acquire(http("m"))
    cache.close()
    assert list(root.glob("partial/*/*"))
    lose(root / "index.db")
    with make().acquire(http("m")) as lease:
        assert lease.path.read_bytes() == data
    assert audit(root) == []


@pytest.mark.parametrize("left", ["made/deep/a.bin", "made", "twin", "probe"])
def test_a_cache_that_was_killed_at_its_first_put_and_lost_its_index_is_one(
    make: Any, root: Path, left: str
) -> None:
    path = root / "partial" / ("9f86d081" * 8) / f"{'9f86d081' * 2}.{left}"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    assert make().put("k", lambda path: path.write_bytes(b"x")).read_bytes() == b"x"
    assert audit(root) == []


def test_a_cache_whose_only_entry_was_condemned_in_use_and_that_lost_its_index_is_one(
    make: Any, origin: Folder, root: Path
) -> None:
    origin.put("m", b"x")
    cache, other = make(), make()
    with cache.acquire(http("m")) as lease:
        assert not eviction.condemn(other.store(), lease.entry_id)
        other.close()
        (root / "index.db").unlink()
        make().acquire(http("m")).release()
        assert lease.path.exists()
    (root / "blobs" / ".DS_Store").touch()
    make().clear()
    (root / "index.db").unlink()
    make().acquire(http("m")).release()


def test_a_cache_of_damaged_entries_that_lost_its_index_is_one(
    make: Any, origin: Folder, root: Path
) -> None:
    origin.put("m", b"x")
    cache = make()
    cache.acquire(http("m")).release()
    cache.close()
    for path in (root / "index.db", *root.glob("entries/*/files/m")):
        path.unlink()
    make().acquire(http("m")).release()
    assert audit(root) == []


def test_a_folder_whose_index_another_process_makes_meanwhile_is_no_one_elses(
    make: Any, origin: Folder, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins a download right after this one has found no index."""
    origin.put("m", b"x")
    origin.put("n", b"n" * 1000)
    there = strangers._is_index

    def late(index: Path) -> bool:
        monkeypatch.setattr(strangers, "_is_index", there)
        found = there(index)
        with pytest.raises(Crash):
            make(reached=Steps(at="extents", error=Crash())).acquire(http("n"))
        return found

    monkeypatch.setattr(strangers, "_is_index", late)
    cache = make()
    cache.acquire(http("m")).release()
    cache.acquire(http("n")).release()


@pytest.fixture
def image(make: Any, origin: Folder, mounted: Any) -> Any:
    """A function that makes a container's view of the cache that its image came with."""
    lower, target = mounted[0] / "lower", mounted[0] / "container"
    for name in ("lower", "upper", "work", "container"):
        (mounted[0] / name).mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    place = str(target).encode()

    def start() -> Path:
        layers = [f"{name}dir={mounted[0] / name}" for name in ("lower", "upper", "work")]
        if libc.mount(b"overlay", place, b"overlay", 0, ",".join(layers).encode()) != 0:
            pytest.skip(f"this user may not mount an overlay: {os.strerror(ctypes.get_errno())}")
        return target / "cache"

    yield lower / "cache", start
    libc.umount2(place, 2)


def test_a_cache_that_came_with_an_image_makes_room(make: Any, origin: Folder, image: Any) -> None:
    built, start = image
    content = {name: origin.put(name, os.urandom(1000)) for name in ("m", "n")}
    cache = make(root=built)
    cache.acquire(http("m")).release()
    cache.close()
    root = start()
    cache = make(root=root, max_bytes=1500)
    for name in ("m", "n", "m"):
        with cache.acquire(http(name)) as lease:
            assert lease.path.read_bytes() == content[name]
    assert cache.clear() == (1000, 1)
    assert audit(root) == []
    cache.close()


@pytest.fixture
def unmovable(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders of entries cannot be renamed, as in a lower layer."""
    real = Path.rename

    def rename(path: Path, target: Path) -> Path:
        if path.parent.name == "entries":
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)


def test_what_cannot_be_moved_is_deleted_where_it_is(
    make: Any, origin: Folder, root: Path, unmovable: None
) -> None:
    content = {name: origin.put(name, os.urandom(1000)) for name in ("m", "n")}
    cache = make(max_bytes=1500)
    for name in ("m", "n", "m"):
        with cache.acquire(http(name)) as lease:
            assert lease.path.read_bytes() == content[name]
    assert cache.clear() == (1000, 1)
    assert audit(root) == []


@pytest.mark.parametrize("reopened", [False, True])
def test_a_crash_in_the_middle_of_a_deletion_is_gone_on_with(
    make: Any,
    origin: Folder,
    root: Path,
    unmovable: None,
    monkeypatch: pytest.MonkeyPatch,
    reopened: bool,
) -> None:
    data = origin.put("m", os.urandom(1000))
    cache = make(max_bytes=1500)
    cache.acquire(http("m")).release()

    def crash(path: Path) -> None:
        (path / "files" / "m").unlink()
        raise _crash()

    with monkeypatch.context() as patch:
        patch.setattr(layout.shutil, "rmtree", crash)
        with pytest.raises(BaseException, match="crash"):
            cache.clear()
    if reopened:
        cache.close()
        cache = make(max_bytes=1500)
        cache.refresh()
        assert audit(root) == []
    with cache.acquire(http("m")) as lease:
        assert lease.path.read_bytes() == data
    assert audit(root) == []


def test_what_can_neither_be_moved_nor_deleted_is_an_error(
    make: Any, origin: Folder, root: Path, unmovable: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.put("m", os.urandom(1000))
    cache = make()
    cache.acquire(http("m")).release()

    def fail(path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(layout.shutil, "rmtree", fail)
        with pytest.raises(CacheUnusable):
            cache.clear()
    cache.clear()
    assert audit(root) == []


_READ_ONLY = """
import os
from pathlib import Path
from thalamus_lite.weights.entries.layout import remove

if os.geteuid() == 0:
    os.setuid(65534)
made, kept = Path("made"), Path("kept")
kept.mkdir(mode=0o500)
(made / "a" / "b").mkdir(parents=True)
(made / "a" / "link").symlink_to("../../kept")
for folder in (made, made / "a", made / "a" / "b"):
    (folder / "w.bin").write_bytes(b"x")
for folder in (made / "a" / "b", made / "a", made):
    folder.chmod(0o555)
remove(made)
print(made.exists(), oct(kept.stat().st_mode & 0o777))
"""


def test_read_only_folders_that_a_function_has_made_do_not_stay(root: Path) -> None:
    """In a process of its own that is not root's, who may do everything."""
    root.mkdir()
    root.chmod(0o777)
    done = subprocess.run(
        [sys.executable, "-c", _READ_ONLY], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False 0o500\n"


def test_an_entry_that_cannot_be_removed_is_in_nobodys_way(
    make: Any, root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def put(key: str, size: int = 1000) -> Path:
        path: Path = cache.put(key, lambda path: path.write_bytes(os.urandom(size)))
        return path

    cache = make(max_bytes=3000)
    stuck = put("a").parent.parent
    put("b")
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path == stuck:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        with pytest.raises(CacheUnusable):
            put("c", 2000)
        for reopened in (False, True):
            if reopened:
                cache.close()
                cache = make(max_bytes=3000)
            paths = [put(f"{key}{reopened}") for key in "defgh"]
            assert [path.exists() for path in paths] == [False] * 3 + [True] * 2
            assert cache.stats().total_size_bytes == 3000
            started = time.monotonic()
            with pytest.raises(CacheFull):
                put("more", 2500)
            assert time.monotonic() - started < cache.options.busy_s / 2
            assert cache.clear() == (2000, 2)
            assert cache.stats().total_size_bytes == 1000
            assert caplog.text.count(f"cannot remove its entry {stuck.name}") == 1
            caplog.clear()
    assert cache.clear() == (1000, 1)
    assert audit(root) == []
