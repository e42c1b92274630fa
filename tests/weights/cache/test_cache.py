"""What one who asks gets: bytes, leases, freshness."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests_weights_cache_fakes import Clock, Engine, Folder, Steps, http, sha256

from thalamus_lite.errors import (
    CacheFull,
    CacheUnusable,
    UnsafeName,
    WeightChanged,
    WeightCorrupt,
    WeightNotFound,
    WeightOffline,
    WeightSourceInvalid,
    WeightUnreachable,
)
from thalamus_lite.settings import Settings
from thalamus_lite.weights.cache import CacheOptions, WeightCache
from thalamus_lite.weights.origin import DownloadCancelled, RemoteFile, RemoteFiles
from thalamus_lite.weights.sources import FileWeight
from thalamus_lite.weights.transfer.download import Transfer, TransferOptions

if TYPE_CHECKING:
    from pathlib import Path


def test_a_lease_points_at_the_bytes_of_the_origin(make: Any, origin: Folder) -> None:
    data = origin.put("model.bin", os.urandom(200_000))
    with make().acquire(http("model.bin")) as lease:
        assert lease.path.name == "model.bin"
        assert lease.path.read_bytes() == data


def test_several_files_give_a_folder(make: Any, origin: Folder) -> None:
    one, two = origin.put("a/one.bin", b"one"), origin.put("two.bin", b"two")
    with make().acquire(http("a/one.bin", "two.bin")) as lease:
        assert (lease.path / "a/one.bin").read_bytes() == one
        assert (lease.path / "two.bin").read_bytes() == two


def test_an_empty_file_is_a_file(make: Any, origin: Folder) -> None:
    origin.put("empty", b"")
    with make().acquire(http("empty")) as lease:
        assert lease.path.read_bytes() == b""


def test_a_second_acquire_asks_nobody(make: Any, origin: Folder) -> None:
    origin.put("m", b"x")
    cache = make()
    cache.acquire(http("m")).release()
    before = origin.notes()
    cache.acquire(http("m")).release()
    assert origin.notes() == before
    assert (cache.snapshot().hits, cache.snapshot().misses) == (1, 1)


def test_another_process_life_finds_what_was_cached(make: Any, origin: Folder) -> None:
    data = origin.put("m", b"x" * 1000)
    first = make()
    first.acquire(http("m")).release()
    first.close()
    with make().acquire(http("m")) as lease:
        assert lease.path.read_bytes() == data
    assert len(origin.notes("download")) == 1


def test_cached_files_are_read_only_and_the_folder_is_private(
    make: Any, origin: Folder, root: Path
) -> None:
    origin.put("m", b"x")
    with make().acquire(http("m")) as lease:
        assert lease.path.stat().st_mode & 0o777 == 0o444
    assert root.stat().st_mode & 0o777 == 0o700
    assert (root / "index.db").stat().st_mode & 0o077 == 0


def test_a_file_and_its_blob_share_their_bytes(make: Any, origin: Folder, root: Path) -> None:
    data = origin.put("m", b"x" * 5000)
    with make().acquire(http("m")) as lease:
        digest = sha256(data)
        assert (root / "blobs" / digest[:2] / digest).samefile(lease.path)


def test_the_same_bytes_are_downloaded_once_when_the_origin_tells_their_sha256(
    make: Any, origin: Folder
) -> None:
    origin.digests = True
    data = origin.put("one", os.urandom(1000))
    origin.put("two", data)
    cache = make()
    with cache.acquire(http("one")) as one, cache.acquire(http("two")) as two:
        assert one.path.samefile(two.path)
        assert two.path.name == "two"
    assert len(origin.notes("download")) == 1
    assert cache.stats().total_size_bytes == 1000


def test_the_same_bytes_are_stored_once_even_if_nobody_said_so(make: Any, origin: Folder) -> None:
    data = origin.put("one", os.urandom(1000))
    origin.put("two", data)
    cache = make()
    with cache.acquire(http("one")), cache.acquire(http("two")) as two:
        assert two.path.read_bytes() == data
    assert cache.stats().total_size_bytes == 1000
    assert cache.stats().file_count == 1


def test_the_users_sha256_is_checked(make: Any, origin: Folder) -> None:
    data = origin.put("m", b"abc")
    cache = make()
    with pytest.raises(WeightCorrupt):
        cache.acquire(http("m", sha256="0" * 64))
    assert cache.stats().total_size_bytes == 0
    with cache.acquire(http("m", sha256=sha256(data))) as lease:
        assert lease.path.read_bytes() == data


def test_a_cached_copy_does_not_satisfy_another_sha256(make: Any, origin: Folder) -> None:
    origin.put("m", b"abc")
    cache = make()
    cache.acquire(http("m")).release()
    with pytest.raises(WeightCorrupt):
        cache.acquire(http("m", sha256="0" * 64))


def test_an_engine_that_lies_about_the_sha256_is_not_believed(make: Any, origin: Folder) -> None:
    class Lying(Engine):
        def __call__(self, origin: Any, file: Any, part: Any, **kwargs: Any) -> Any:
            got = super().__call__(origin, type(file)(**_without_digests(file)), part, **kwargs)
            part.path.write_bytes(b"other")
            return got

    origin.put("m", b"abc")
    with pytest.raises(WeightCorrupt, match="size"):
        make(download=Lying()).acquire(http("m"))


def _without_digests(file: Any) -> dict[str, Any]:
    return {name: getattr(file, name) for name in file.__dataclass_fields__} | {"digests": {}}


def test_a_digest_that_the_engine_did_not_check_is_checked(make: Any, origin: Folder) -> None:
    class Careless(Engine):
        def __call__(self, origin: Any, file: Any, part: Any, **kwargs: Any) -> Any:
            return super().__call__(origin, type(file)(**_without_digests(file)), part, **kwargs)

    origin.put("m", b"abc")
    with pytest.raises(WeightCorrupt, match="sha256"):
        make(download=Careless()).acquire(http("m", sha256="0" * 64))


def test_a_sha256_in_capitals_is_the_same(make: Any, origin: Folder) -> None:
    data = origin.put("m", b"x")

    def describe(name: str) -> RemoteFile:
        return RemoteFile(name, name, len(data), "", {"sha256": sha256(data).upper()})

    origin._file = describe  # type: ignore[method-assign]
    with make(download=Engine()).acquire(http("m")) as lease:
        assert lease.path.read_bytes() == data


@pytest.mark.parametrize("size", [-5, 1.5, True])
def test_a_size_that_is_none_is_an_error_of_the_server(
    make: Any, origin: Folder, root: Path, size: Any
) -> None:
    origin.put("good", b"x")
    cache = make()
    cache.acquire(http("good")).release()
    index = (root / "index.db").stat().st_ino
    origin._file = lambda name: RemoteFile(name, name, size, "v", {})  # type: ignore[method-assign]
    with pytest.raises(WeightUnreachable, match="sizes that no files have"):
        cache.acquire(http("bad"))
    assert (root / "index.db").stat().st_ino == index


def test_a_source_of_no_files_is_an_error(make: Any, origin: Folder) -> None:
    class Empty(Folder):
        def list(self, source: Any) -> RemoteFiles:
            return RemoteFiles((), True, "v", False)

    with pytest.raises(WeightNotFound):
        make(origin=Empty(origin.path)).acquire(http("m"))


def test_names_that_would_leave_the_entry_are_refused(
    make: Any, origin: Folder, root: Path
) -> None:
    class Hostile(Folder):
        def _file(self, name: str) -> Any:
            file = super()._file(name)
            return type(file)(**_without_digests(file) | {"relpath": "../../escaped"})

    origin.put("m", b"x")
    with pytest.raises(UnsafeName):
        make(origin=Hostile(origin.path)).acquire(http("m"))
    assert not list(root.parent.rglob("escaped"))
    assert not origin.notes("download")


def test_fresh_names_are_asked_again_after_the_ttl(make: Any, origin: Folder) -> None:
    clock = Clock()
    origin.put("m", b"one")
    cache = make(ttl_s=60.0, wall_clock=clock)
    cache.acquire(http("m")).release()
    clock.now += 59
    cache.acquire(http("m")).release()
    assert origin.notes("revalidate") == []
    clock.now += 2
    cache.acquire(http("m")).release()
    assert len(origin.notes("revalidate")) == 1
    # The answer "unchanged" counts as of now.
    clock.now += 59
    cache.acquire(http("m")).release()
    assert len(origin.notes("revalidate")) == 1
    assert len(origin.notes("download")) == 1


def test_changed_content_is_a_new_entry_and_old_leases_keep_the_old_one(
    make: Any, origin: Folder
) -> None:
    clock = Clock()
    origin.put("m", b"one")
    cache = make(ttl_s=1.0, wall_clock=clock)
    with cache.acquire(http("m")) as old:
        origin.put("m", b"two!")
        clock.now += 2
        with cache.acquire(http("m")) as new:
            assert new.path.read_bytes() == b"two!"
        assert old.path.read_bytes() == b"one"


def test_content_that_comes_back_is_not_downloaded_again(make: Any, origin: Folder) -> None:
    clock = Clock()
    cache = make(ttl_s=1.0, wall_clock=clock)
    for content in (b"one", b"two", b"one"):
        origin.put("m", content)
        clock.now += 2
        with cache.acquire(http("m")) as lease:
            assert lease.path.read_bytes() == content
    assert len(origin.notes("download")) == 2


def test_immutable_content_is_never_asked_after(make: Any, origin: Folder) -> None:
    clock = Clock()
    origin.immutable = True
    origin.put("m", b"one")
    cache = make(wall_clock=clock)
    cache.acquire(http("m")).release()
    clock.now += 10**9
    cache.acquire(http("m")).release()
    assert origin.notes("revalidate") == []


def test_a_source_with_a_sha256_is_never_asked_after(make: Any, origin: Folder) -> None:
    clock = Clock()
    data = origin.put("m", b"one")
    cache = make(wall_clock=clock)
    cache.acquire(http("m", sha256=sha256(data))).release()
    clock.now += 10**9
    origin.down = True
    cache.acquire(http("m", sha256=sha256(data))).release()
    assert origin.notes("revalidate") == []


@pytest.mark.parametrize("jump", [-(10**6), 10**6])
def test_a_clock_that_jumps_only_costs_a_question(make: Any, origin: Folder, jump: int) -> None:
    clock = Clock()
    data = origin.put("m", b"one")
    cache = make(wall_clock=clock)
    cache.acquire(http("m")).release()
    clock.now += jump
    for _ in range(2):
        with cache.acquire(http("m")) as lease:
            assert lease.path.read_bytes() == data
    assert len(origin.notes("revalidate")) == 1
    assert len(origin.notes("download")) == 1


def test_an_unreachable_origin_leaves_the_cached_copy_served(
    make: Any, origin: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    clock, ticks = Clock(), Clock(0.0)
    data = origin.put("m", b"one")
    cache = make(ttl_s=60.0, wall_clock=clock, monotonic=ticks)
    cache.acquire(http("m")).release()
    origin.down = True
    clock.now += 61
    with cache.acquire(http("m")) as lease:
        assert lease.path.read_bytes() == data
    assert "cached copy is served" in caplog.text
    assert cache.snapshot().stale_total == 1
    # Nobody waits for the origin's time-out at each request.
    cache.acquire(http("m")).release()
    assert len(origin.notes("revalidate")) == 1
    assert cache.snapshot().stale_total == 2
    ticks.now += 61
    origin.down = False
    cache.acquire(http("m")).release()
    assert len(origin.notes("revalidate")) == 2
    assert cache.snapshot().stale_total == 2


def test_an_origin_that_says_gone_is_believed(make: Any, origin: Folder) -> None:
    clock = Clock()
    origin.put("m", b"one")
    cache = make(wall_clock=clock)
    cache.acquire(http("m")).release()
    (origin.path / "m").unlink()
    clock.now += 61
    with pytest.raises(WeightNotFound):
        cache.acquire(http("m"))


def test_a_failed_download_of_new_content_leaves_the_old_served(make: Any, origin: Folder) -> None:
    clock = Clock()

    def fail(file: Any, done: int) -> None:
        if origin.notes("revalidate"):
            raise WeightUnreachable("the connection broke")

    origin.put("m", b"one")
    cache = make(wall_clock=clock, download=Engine(fail))
    cache.acquire(http("m")).release()
    origin.put("m", b"two!")
    clock.now += 61
    with cache.acquire(http("m")) as lease:
        assert lease.path.read_bytes() == b"one"


def test_an_unreachable_origin_without_a_copy_is_an_error(make: Any, origin: Folder) -> None:
    origin.down = True
    with pytest.raises(WeightUnreachable):
        make().acquire(http("m"))


def test_offline_serves_what_is_here_and_asks_nobody(make: Any, origin: Folder) -> None:
    clock = Clock()
    data = origin.put("m", b"one")
    make(wall_clock=clock).acquire(http("m")).release()
    before = origin.notes()
    clock.now += 10**6
    offline = make(wall_clock=clock, offline=True)
    with offline.acquire(http("m")) as lease:
        assert lease.path.read_bytes() == data
    with pytest.raises(WeightOffline, match="THALAMUS_OFFLINE"):
        offline.acquire(http("other"))
    assert origin.notes() == before


def test_offline_asks_nobody_while_another_process_keeps_the_entry_locked(
    make: Any, origin: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.put("m", b"x")
    with make().acquire(http("m")) as lease:
        folder = lease.path.parent.parent
    asked = len(origin.notes())
    monkeypatch.setattr(time, "sleep", lambda s: None)
    fd = os.open(folder, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(WeightOffline, match="keeps it locked"):
        make(offline=True, ttl_s=0.0).acquire(http("m"))
    os.close(fd)
    assert len(origin.notes()) == asked


def test_an_origin_without_validators_is_downloaded_once(make: Any, origin: Folder) -> None:
    clock = Clock()
    origin.validators = False
    origin.put("m", b"one")
    cache = make(wall_clock=clock)
    cache.acquire(http("m")).release()
    clock.now += 61
    cache.acquire(http("m")).release()
    assert len(origin.notes("download")) == 1


def test_an_object_that_changes_under_the_download_is_listed_again(
    make: Any, origin: Folder
) -> None:
    def change(file: Any, done: int) -> None:
        if len(origin.notes("download")) == 1:
            origin.put("m", b"second")
            raise WeightChanged("changed")

    origin.put("m", b"first")
    with make(download=Engine(change)).acquire(http("m")) as lease:
        assert lease.path.read_bytes() == b"second"
    assert len(origin.notes("list")) == 2


def test_an_object_that_changes_all_the_time_is_given_up(make: Any, origin: Folder) -> None:
    def change(file: Any, done: int) -> None:
        raise WeightChanged("changed")

    origin.put("m", b"x")
    cache = make(download=Engine(change))
    with pytest.raises(WeightChanged):
        cache.acquire(http("m"))
    assert len(origin.notes("download")) == 3
    assert not list((cache.cache_dir / "partial").iterdir())


def test_an_interrupted_download_goes_on_where_it_was(make: Any, origin: Folder) -> None:
    data = origin.put("m", os.urandom(500_000))
    cancel = threading.Event()

    def stop(file: Any, done: int) -> None:
        if done >= 300_000:
            cancel.set()

    with pytest.raises(DownloadCancelled):
        make(download=Engine(stop)).acquire(http("m"), cancel=cancel)
    sent = sum(int(line.split()[1]) for line in origin.notes("bytes"))
    cache = make()
    with cache.acquire(http("m")) as lease:
        assert lease.path.read_bytes() == data
    assert sum(int(line.split()[1]) for line in origin.notes("bytes")) == len(data)
    assert sent >= 300_000
    assert cache.snapshot().resumed_total == 1
    assert cache.snapshot().bytes_total == len(data) - sent


def test_parts_of_another_boot_are_not_believed(make: Any, origin: Folder) -> None:
    data = origin.put("m", os.urandom(500_000))
    cancel = threading.Event()

    def stop(file: Any, done: int) -> None:
        cancel.set()

    with pytest.raises(DownloadCancelled):
        make(download=Engine(stop), boot_id=lambda: "one").acquire(http("m"), cancel=cancel)
    cache = make(boot_id=lambda: "two")
    with cache.acquire(http("m")) as lease:
        assert lease.path.read_bytes() == data
    assert cache.snapshot().bytes_total == len(data)


def test_files_of_a_folder_that_are_whole_are_not_downloaded_again(
    make: Any, origin: Folder
) -> None:
    names = [f"f{n}" for n in range(5)]
    for name in names:
        origin.put(name, os.urandom(1000))
    failing = {"f4"}

    def fail(file: Any, done: int) -> None:
        if file.relpath in failing:
            raise WeightUnreachable("the connection broke")

    cache = make(download=Engine(fail, chunk=100))
    with pytest.raises(WeightUnreachable):
        cache.acquire(http(*names))
    failing.clear()
    cache.acquire(http(*names)).release()
    assert sum(int(line.split()[1]) for line in origin.notes("bytes")) == 5000


def test_what_is_gone_on_with_can_be_written_by_a_user_who_is_not_root(
    make: Any, origin: Folder
) -> None:
    names = ["f0", "f1"]
    for name in names:
        origin.put(name, os.urandom(1000))
    modes: list[int] = []

    class Looking(Engine):
        def __call__(self, origin: Any, file: Any, part: Any, **means: Any) -> Any:
            if part.path.exists():
                modes.append(part.path.stat().st_mode & 0o777)
            return super().__call__(origin, file, part, **means)

    steps = Steps(at="verified", skip=1, error=WeightUnreachable("the connection broke"))
    with pytest.raises(WeightUnreachable):
        make(reached=steps).acquire(http(*names))
    make(download=Looking()).acquire(http(*names)).release()
    assert set(modes) == {0o600}


def test_a_cancelled_waiter_does_not_end_the_download(make: Any, origin: Folder) -> None:
    origin.put("m", b"x" * 1000)
    waiting, leave = threading.Event(), threading.Event()

    def pause(file: Any, done: int) -> None:
        waiting.set()
        assert leave.wait(10)

    cache = make(download=Engine(pause))
    led: list[Any] = []
    leader = threading.Thread(target=lambda: led.append(cache.acquire(http("m"))))
    leader.start()
    assert waiting.wait(10)
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(DownloadCancelled):
        cache.acquire(http("m"), cancel=cancel)
    leave.set()
    leader.join()
    led[0].release()


def test_a_cancelled_leader_leaves_the_work_to_those_who_wait(make: Any, origin: Folder) -> None:
    data = origin.put("m", os.urandom(300_000))
    started, go_on = threading.Event(), threading.Event()

    def pause(file: Any, done: int) -> None:
        started.set()
        assert go_on.wait(10)

    cache = make(download=Engine(pause))
    cancel = threading.Event()
    outcome: list[Any] = []

    def lead() -> None:
        try:
            cache.acquire(http("m"), cancel=cancel)
        except DownloadCancelled as error:
            outcome.append(error)

    def follow() -> None:
        with cache.acquire(http("m")) as lease:
            outcome.append(lease.path.read_bytes())

    leader, follower = threading.Thread(target=lead), threading.Thread(target=follow)
    leader.start()
    assert started.wait(10)
    follower.start()
    cancel.set()
    go_on.set()
    leader.join()
    follower.join()
    assert isinstance(outcome[0], DownloadCancelled)
    assert outcome[1] == data


def test_threads_that_want_the_same_download_it_once(make: Any, origin: Folder) -> None:
    data = origin.put("m", os.urandom(100_000))
    cache = make()
    gate = threading.Barrier(8)
    seen: list[bytes] = []

    def want() -> None:
        gate.wait()
        with cache.acquire(http("m")) as lease:
            seen.append(lease.path.read_bytes())

    threads = [threading.Thread(target=want) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [data] * 8
    assert len(origin.notes("download")) == len(origin.notes("list")) == 1


def _stacks() -> list[Any]:
    import sys

    return [frame.f_code.co_filename for frame in sys._current_frames().values()]


def test_progress_is_seen_without_touching_the_disk(make: Any, origin: Folder) -> None:
    origin.put("m", b"x" * 200_000)
    seen: list[Any] = []
    cache = make(download=Engine(lambda file, done: seen.append(cache.snapshot().downloads)))
    cache.acquire(http("m")).release()
    assert [state.done_bytes for (state,) in seen] == [65536, 131072, 196608, 200_000]
    assert seen[0][0].total_bytes == 200_000
    assert seen[0][0].name == "http://fake/m"
    after = cache.snapshot()
    assert after.downloads == ()
    assert (after.bytes_total, after.size_bytes, after.files, after.entries) == (
        *(200_000, 200_000),
        *(1, 1),
    )


def test_a_snapshot_needs_no_cache_at_all(make: Any, root: Path) -> None:
    assert make(max_bytes=7).snapshot().max_bytes == 7
    assert not root.exists()


def test_leases_are_counted_and_released_once(make: Any, origin: Folder) -> None:
    origin.put("m", b"x")
    cache = make()
    lease = cache.acquire(http("m"))
    other = cache.acquire(http("m"))
    assert cache.snapshot().leases == 2
    lease.release()
    lease.release()
    assert cache.snapshot().leases == 1
    other.release()
    assert cache.snapshot().leases == 0


def test_clear_keeps_what_is_leased(make: Any, origin: Folder) -> None:
    origin.put("one", b"1" * 100)
    origin.put("two", b"2" * 100)
    cache = make()
    cache.acquire(http("two")).release()
    with cache.acquire(http("one")) as lease:
        assert cache.clear() == (100, 1)
        assert lease.path.read_bytes() == b"1" * 100
        assert (cache.snapshot().hits, cache.snapshot().misses) == (0, 0)
    assert cache.clear() == (100, 1)
    assert not any(cache.cache_dir.glob("blobs/*/*"))
    assert not any(cache.cache_dir.glob("trash/*"))


def test_clear_forgets_interrupted_downloads(make: Any, origin: Folder) -> None:
    origin.put("m", b"x" * 500_000)
    cancel = threading.Event()
    cache = make(download=Engine(lambda file, done: cancel.set()))
    with pytest.raises(DownloadCancelled):
        cache.acquire(http("m"), cancel=cancel)
    assert list((cache.cache_dir / "partial").iterdir())
    cache.clear()
    assert not list((cache.cache_dir / "partial").iterdir())


def test_the_least_recently_used_goes_first(make: Any, origin: Folder) -> None:
    cache = make(max_bytes=300)
    for name in ("a", "b", "c"):
        origin.put(name, name.encode() * 100)
        cache.acquire(http(name)).release()
    cache.acquire(http("a")).release()
    origin.put("d", b"d" * 100)
    cache.acquire(http("d")).release()
    before = len(origin.notes("download"))
    for name in ("a", "c", "d"):
        cache.acquire(http(name)).release()
    assert len(origin.notes("download")) == before
    cache.acquire(http("b")).release()
    assert len(origin.notes("download")) == before + 1


def test_what_is_leased_is_never_evicted(make: Any, origin: Folder) -> None:
    cache = make(max_bytes=250)
    origin.put("kept", b"k" * 100)
    with cache.acquire(http("kept")) as lease:
        for n in range(10):
            origin.put(f"m{n}", b"m" * 90 + str(n).encode() * 10)
            cache.acquire(http(f"m{n}")).release()
        assert lease.path.read_bytes() == b"k" * 100
        assert cache.stats().total_size_bytes <= 250


def test_a_cache_full_of_leases_says_so(make: Any, origin: Folder) -> None:
    cache = make(max_bytes=150)
    origin.put("kept", b"k" * 100)
    origin.put("more", b"m" * 100)
    with cache.acquire(http("kept")):
        with pytest.raises(CacheFull) as caught:
            cache.acquire(http("more"))
        assert (caught.value.need, caught.value.free, caught.value.leased) == (100, 50, 100)
        assert len(origin.notes("download")) == 1
    cache.acquire(http("more")).release()


def test_an_entry_beyond_the_budget_is_refused_before_its_download(
    make: Any, origin: Folder
) -> None:
    origin.put("small", b"s" * 10)
    origin.put("large", b"l" * 151)
    cache = make(max_bytes=150)
    cache.acquire(http("small")).release()
    with pytest.raises(CacheFull):
        cache.acquire(http("large"))
    assert len(origin.notes("download")) == 1
    # And nothing went for it.
    assert cache.stats().total_size_bytes == 10


def test_an_entry_of_unknown_size_is_stopped_at_the_budget(make: Any, origin: Folder) -> None:
    origin.sizes = False
    origin.put("large", b"l" * 1000)
    origin.put("fits", b"f" * 400)
    cache = make(max_bytes=500, download=Engine(chunk=100))
    cache.acquire(http("fits")).release()
    with pytest.raises(CacheFull):
        cache.acquire(http("large"))
    assert len(origin.notes("bytes 100 large")) <= 6
    with cache.acquire(http("fits")) as lease:
        assert lease.path.read_bytes() == b"f" * 400


def test_an_answer_without_an_end_is_stopped_at_the_budget(make: Any, root: Path) -> None:
    engine = Transfer(TransferOptions(save_bytes=1000))
    cache = make(max_bytes=500_000, download=engine, origin=Endless())
    with pytest.raises(CacheFull):
        cache.acquire(http("m"))
    assert list(root.glob("partial/*/*")) == []


class Endless:
    def identity(self, source: Any) -> str:
        return source.name

    def list(self, source: Any) -> RemoteFiles:
        return RemoteFiles((RemoteFile("m", "m", None, '"v"', {}),), False, '"v"', False)

    def open(self, file: RemoteFile, start: int = 0, stop: int | None = None) -> Any:
        return EndlessBody()


class EndlessBody:
    status, start, total, validator = 200, 0, None, '"v"'

    def read(self, n: int) -> bytes:
        time.sleep(0.001)
        return bytes(min(n, 10_000))

    def close(self) -> None:
        pass


def test_what_an_entry_of_unknown_size_has_on_the_disk_is_not_waited_for(
    make: Any, origin: Folder
) -> None:
    origin.sizes = False
    origin.put("m", b"m" * 300)
    seen = []

    def look(file: RemoteFile, done: int) -> None:
        totals = cache.store().index.totals()
        seen.append((totals.reserved_bytes, totals.pending_bytes))

    cache = make(download=Engine(look, chunk=100))
    cache.acquire(http("m")).release()
    assert seen == [(100, 0), (200, 0), (300, 0)]


def test_an_interrupted_download_makes_room_for_others(make: Any, origin: Folder) -> None:
    origin.put("left", b"l" * 100_000)
    origin.put("next", b"n" * 100_000)
    cancel = threading.Event()
    with pytest.raises(DownloadCancelled):
        make(download=Engine(lambda file, done: cancel.set(), chunk=60_000)).acquire(
            http("left"), cancel=cancel
        )
    cache = make(max_bytes=120_000)
    cache.acquire(http("next")).release()
    assert cache.stats().total_size_bytes == 100_000
    assert not list((cache.cache_dir / "partial").iterdir())


def test_an_entry_evicted_between_two_looks_is_fetched_again(make: Any, origin: Folder) -> None:
    origin.put("m", b"x")
    cache = make()
    cache.acquire(http("m")).release()
    make().clear()
    cache.acquire(http("m")).release()
    assert len(origin.notes("download")) == 2


def test_a_local_file_is_leased_as_it_is_and_opens_no_cache(
    make: Any, root: Path, tmp_path: Path
) -> None:
    file = tmp_path / "model.pt"
    file.write_bytes(b"abc")
    cache = make()
    with cache.acquire(FileWeight(file, sha256=sha256(b"abc"))) as lease:
        assert lease.path == file
    lease.release()
    with cache.acquire(FileWeight(str(tmp_path))) as lease:
        assert lease.path == tmp_path
    assert not root.exists()


def test_a_local_file_must_exist_and_match(make: Any, tmp_path: Path) -> None:
    cache = make()
    with pytest.raises(WeightNotFound):
        cache.acquire(FileWeight(tmp_path / "missing"))
    with pytest.raises(WeightNotFound, match="too long"):
        cache.acquire(FileWeight("a" * 300))
    (tmp_path / "m").write_bytes(b"abc")
    with pytest.raises(WeightCorrupt):
        cache.acquire(FileWeight(tmp_path / "m", sha256="0" * 64))
    with pytest.raises(WeightSourceInvalid):
        cache.acquire(FileWeight(tmp_path, sha256="0" * 64))


def test_options_come_from_settings(tmp_path: Path) -> None:
    settings = Settings.from_env(
        {
            "THALAMUS_CACHE_DIR": str(tmp_path),
            "THALAMUS_CACHE_MAX_GB": "2",
            "THALAMUS_CACHE_MIN_FREE_GB": "0.5",
            "THALAMUS_CACHE_TTL_S": "5",
            "HF_HUB_OFFLINE": "1",
            "THALAMUS_DENY_PRIVATE_ADDRESSES": "1",
        }
    )
    assert CacheOptions.from_settings(settings) == CacheOptions(
        cache_dir=tmp_path,
        max_bytes=2 * 10**9,
        min_free_bytes=5 * 10**8,
        ttl_s=5.0,
        offline=True,
        deny_private_addresses=True,
    )


def test_the_size_of_the_constructor_is_in_gb_of_ten_to_the_nine(tmp_path: Path) -> None:
    cache = WeightCache(tmp_path / "c", max_size_gb=0.5)
    assert cache.snapshot().max_bytes == 500_000_000
    assert cache.cache_dir == tmp_path / "c"
    cache.close()


def test_a_network_file_system_is_refused(make: Any) -> None:
    with pytest.raises(CacheUnusable, match="network file system"):
        make(fs_type=lambda path: "nfs4").stats()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away")
def test_a_folder_of_another_user_is_refused(make: Any, root: Path) -> None:
    (root / "blobs").mkdir(parents=True)
    os.chown(root / "blobs", 12345, -1)
    with pytest.raises(CacheUnusable, match="belongs to this user alone"):
        make().stats()


def test_folders_that_others_can_write_to_are_refused_until_they_cannot(
    make: Any, origin: Folder, root: Path
) -> None:
    data = origin.put("m", b"x")
    cache = make()
    cache.acquire(http("m")).release()
    cache.close()
    # What a kubelet does to a volume with an fsGroup.
    subprocess.run(["chmod", "-R", "g+rwX", root], check=True)
    with pytest.raises(CacheUnusable, match="fsGroupChangePolicy") as refused:
        make().stats()
    advice = re.search("`(.*)`", str(refused.value))
    assert advice is not None
    subprocess.run(advice[1], shell=True, check=True)
    with make(offline=True).acquire(http("m")) as lease:
        assert lease.path.read_bytes() == data


def test_a_file_in_the_place_of_the_folder_is_refused(make: Any, root: Path) -> None:
    root.write_bytes(b"")
    with pytest.raises(CacheUnusable, match="THALAMUS_CACHE_DIR"):
        make().stats()


def test_a_closed_cache_opens_again(make: Any, origin: Folder) -> None:
    origin.put("m", b"x")
    cache = make()
    cache.acquire(http("m")).release()
    cache.close()
    cache.close()
    cache.acquire(http("m")).release()
    assert len(origin.notes("download")) == 1
