"""What `WeightCache` keeps of thalamus-serve: get, put, contains, stats, clear."""

from __future__ import annotations

import os
import shutil
import threading
from typing import TYPE_CHECKING, Any

import pytest
from tests_weights_cache_fakes import Crash, Steps, audit

from thalamus_lite.errors import CacheFull, UnsafeName, WeightNotFound
from thalamus_lite.weights.cache import CacheStats, WeightCache

if TYPE_CHECKING:
    from pathlib import Path


def writer(data: bytes, calls: list[Path] | None = None) -> Any:
    def write(path: Path) -> None:
        if calls is not None:
            calls.append(path)
        path.write_bytes(data)

    return write


def test_put_makes_a_file_once_and_get_finds_it(make: Any) -> None:
    cache, calls = make(), []
    assert cache.get("s3://b/model.pt") is None
    path = cache.put("s3://b/model.pt", writer(b"abc", calls))
    assert path.name == "model.pt"
    assert path.read_bytes() == b"abc"
    assert cache.put("s3://b/model.pt", writer(b"other", calls)) == path
    assert cache.get("s3://b/model.pt") == path
    assert len(calls) == 1
    assert not calls[0].exists()
    assert (cache.contains("s3://b/model.pt"), cache.contains("s3://b/x")) == (True, False)
    assert cache.stats() == CacheStats(
        total_size_bytes=3,
        file_count=1,
        max_size_bytes=50 * 10**9,
        hit_count=2,
        miss_count=2,
    )
    assert cache.stats().hit_rate == 0.5
    assert cache.stats().model_dump()["hit_rate"] == 0.5


def test_the_function_has_the_name_that_thalamus_serve_gave_it_too(make: Any) -> None:
    cache = make()
    assert cache.put("one", download=writer(b"one")).read_bytes() == b"one"
    assert cache.put("two", download_fn=writer(b"two")).read_bytes() == b"two"
    with pytest.raises(TypeError, match="one function"):
        cache.put("three")
    with pytest.raises(TypeError, match="one function"):
        cache.put("three", writer(b"three"), download_fn=writer(b"three"))


def folder(files: dict[str, bytes]) -> Any:
    def write(path: Path) -> None:
        for name, data in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)

    return write


def test_the_function_may_make_a_folder(make: Any, root: Path) -> None:
    cache = make()
    files = {"config.json": b"{}", "sub/model.bin": os.urandom(1000), "copy.bin": b"{}"}
    path = cache.put("repo", folder(files))
    assert {name: (path / name).read_bytes() for name in files} == files
    assert cache.put("repo", folder({})) == cache.get("repo") == path
    assert cache.contains("repo")
    assert cache.stats().total_size_bytes == 1002
    assert audit(root) == []
    cache.close()
    assert make().get("repo") == path
    assert make().rebuild() == 1
    assert make().clear() == (1002, 2)
    assert not list(root.glob("partial/*"))


def test_links_to_files_become_files(make: Any, tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"mine")

    def write(path: Path) -> None:
        path.mkdir()
        (path / "link").symlink_to(tmp_path / "mine")

    path = make().put("k", write)
    assert not (path / "link").is_symlink()
    assert (path / "link").read_bytes() == b"mine"
    single = make().put("l", lambda path: path.symlink_to(tmp_path / "mine"))
    assert not single.is_symlink()
    assert single.read_bytes() == b"mine"
    assert (tmp_path / "mine").stat().st_mode & 0o200


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def linked_whole(mine: Path, path: Path) -> None:
    path.symlink_to(mine)


def hard_linked(mine: Path, path: Path) -> None:
    shutil.copytree(mine, path, copy_function=os.link)


@pytest.mark.parametrize("make_it", [linked_whole, hard_linked])
def test_what_is_also_the_users_own_is_copied_and_stays_his(
    make: Any, root: Path, make_it: Any
) -> None:
    # Beside the cache: hard links do not reach another disk.
    mine = root.parent / "mine"
    folder({"a.bin": b"a", "sub/b.bin": b"b"})(mine)
    (mine / "a.bin").chmod(0o640)
    cache = make()
    path = cache.put("k", lambda path: make_it(mine, path))
    assert contents(path) == contents(mine) == {"a.bin": b"a", "sub/b.bin": b"b"}
    assert (mine / "a.bin").stat().st_mode & 0o777 == 0o640
    (mine / "a.bin").write_bytes(b"other")
    assert (path / "a.bin").read_bytes() == b"a"
    cache.clear()
    assert contents(mine) == {"a.bin": b"other", "sub/b.bin": b"b"}
    assert audit(root) == []


def test_a_hard_link_to_a_file_of_the_users_is_copied(make: Any, root: Path) -> None:
    mine = root.parent / "mine.bin"
    mine.write_bytes(b"mine")
    mine.chmod(0o640)
    path = make().put("k", lambda path: os.link(mine, path))
    assert not path.samefile(mine)
    assert mine.stat().st_mode & 0o777 == 0o640
    assert audit(root) == []


def test_links_between_the_files_of_a_folder_become_files(make: Any, root: Path) -> None:
    def write(path: Path) -> None:
        folder({"blobs/1": b"one", "large": b"l" * 2_000})(path)
        (path / "name").symlink_to("blobs/1")
        os.link(path / "large", path / "same")

    path = make().put("k", write)
    expected = {"blobs/1": b"one", "name": b"one", "large": b"l" * 2_000, "same": b"l" * 2_000}
    assert contents(path) == expected
    assert not (path / "name").is_symlink()
    assert audit(root) == []


def test_a_file_is_not_copied_on_its_way_into_the_cache(make: Any) -> None:
    made: list[int] = []

    def write(path: Path) -> None:
        path.write_bytes(b"large")
        made.append(path.stat().st_ino)

    assert [make().put("k", write).stat().st_ino] == made


@pytest.mark.parametrize("kind", ["pipe", "dangling", "link to a folder"])
def test_what_is_neither_a_file_nor_a_folder_is_refused(
    make: Any, root: Path, kind: str, tmp_path: Path
) -> None:
    def write(path: Path) -> None:
        path.mkdir()
        (path / "good").write_bytes(b"good")
        if kind == "pipe":
            os.mkfifo(path / "bad")
        else:
            (path / "bad").symlink_to(tmp_path if kind != "dangling" else tmp_path / "nowhere")

    with pytest.raises(UnsafeName, match="bad"):
        make().put("k", write)
    assert not list(root.glob("partial/*"))
    assert audit(root) == []


def test_a_folder_without_files_is_no_weights(make: Any, root: Path) -> None:
    with pytest.raises(WeightNotFound, match="wrote no file"):
        make().put("k", lambda path: (path / "sub").mkdir(parents=True))
    assert not list(root.glob("partial/*"))


def test_a_folder_beyond_the_budget_leaves_nothing_behind(make: Any, root: Path) -> None:
    with pytest.raises(CacheFull):
        make(max_bytes=100).put("k", folder({"a": b"a" * 60, "b": b"b" * 60}))
    assert not list(root.glob("partial/*"))
    assert audit(root) == []


@pytest.mark.parametrize(
    "step", ["reserved", "verified", "staged", "blob_in_place", "shelved", "entry_in_place"]
)
def test_after_a_crash_the_function_makes_everything_anew(make: Any, root: Path, step: str) -> None:
    steps = Steps(at=step, error=Crash())
    cache = make(reached=steps)
    with pytest.raises(Crash):
        cache.put("k", folder({"old": b"old", "same": b"one"}))
    steps.at = ""
    path = cache.put("k", folder({"same": b"two", "new": b"new"}))
    assert sorted(p.name for p in path.iterdir()) == ["new", "same"]
    assert (path / "same").read_bytes() == b"two"
    assert audit(root) == []
    assert not list(root.glob("partial/*"))


def test_keys_of_one_basename_are_two_files(make: Any) -> None:
    cache = make()
    one, two = cache.put("a/model", writer(b"one")), cache.put("b/model", writer(b"two"))
    assert (one.read_bytes(), two.read_bytes()) == (b"one", b"two")


@pytest.mark.parametrize(
    "key", ["../../escaped", "a/..", "", "x" * 1000, "k\0", "https://h/?sig=s"]
)
def test_no_key_leaves_the_cache(make: Any, root: Path, key: str) -> None:
    path = make().put(key, writer(b"abc"))
    assert path.resolve().is_relative_to(root.resolve())
    assert "sig" not in str(path)
    assert make().get(key) == path


def test_what_the_function_raises_is_raised_and_nothing_is_kept(make: Any, root: Path) -> None:
    cache = make()

    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise FileNotFoundError("the user's own")

    with pytest.raises(FileNotFoundError, match="the user's own"):
        cache.put("k", fail)
    assert not cache.contains("k")
    assert cache.stats().total_size_bytes == 0
    assert not list(root.glob("partial/*"))
    assert audit(root) == []
    assert cache.put("k", writer(b"whole")).read_bytes() == b"whole"


def test_a_function_that_writes_nothing_is_told_so(make: Any) -> None:
    with pytest.raises(WeightNotFound, match="wrote no file"):
        make().put("k", lambda path: None)


def test_the_oldest_goes_when_the_cache_is_full(make: Any) -> None:
    cache = make(max_bytes=250)
    paths = [cache.put(f"k{n}", writer(bytes([n]) * 100)) for n in range(3)]
    assert [path.exists() for path in paths] == [False, True, True]
    assert cache.clear() == (200, 2)
    assert cache.stats().hit_count == cache.stats().miss_count == 0


def test_threads_that_put_one_key_run_the_function_once(make: Any) -> None:
    cache, calls = make(), []
    gate = threading.Barrier(6)
    paths = []

    def put() -> None:
        gate.wait()
        paths.append(cache.put("k", writer(b"x", calls)))

    threads = [threading.Thread(target=put) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len(set(paths)) == 1


def test_a_put_may_put_another_key(make: Any) -> None:
    cache = make()

    def nested(path: Path) -> None:
        path.write_bytes(cache.put("inner", writer(b"inner")).read_bytes() + b" and outer")

    assert cache.put("outer", nested).read_bytes() == b"inner and outer"


def test_a_put_of_the_same_key_inside_is_told_so(make: Any, root: Path) -> None:
    cache = make()

    def nested(path: Path) -> None:
        cache.put("other", lambda _: cache.put("k", writer(b"inner")))

    with pytest.raises(RuntimeError, match="wait for itself"):
        cache.put("k", nested)
    assert audit(root) == []
    assert cache.put("k", writer(b"whole")).read_bytes() == b"whole"


def test_put_survives_a_restart(root: Path) -> None:
    for _ in range(2):
        cache = WeightCache(root, max_size_gb=1)
        path = cache.put("k", writer(b"abc"))
        assert path.read_bytes() == b"abc"
        cache.close()
    assert cache.snapshot().hits == 1
