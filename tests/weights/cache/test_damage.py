"""Indexes and files that something else has changed: set aside, made again, never served wrong."""

from __future__ import annotations

import errno
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from tests_weights_cache_fakes import Crash, Engine, Folder, audit, http, sha256

from thalamus_lite.errors import CacheUnusable, WeightError
from thalamus_lite.weights import local, maintenance
from thalamus_lite.weights.cache import _MENDS
from thalamus_lite.weights.entries import recovery
from thalamus_lite.weights.entries.store import EntryDamaged
from thalamus_lite.weights.index.sqlerrors import IndexDamaged
from thalamus_lite.weights.index.transactions import Index
from thalamus_lite.weights.maintenance import verify
from thalamus_lite.weights.transfer.part import PartWriter

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def content(make: Any, origin: Folder) -> dict[str, bytes]:
    """Four entries, one of them a folder that shares its bytes with another."""
    origin.digests = True
    content = {f"m{n}": origin.put(f"m{n}", os.urandom(500 + n)) for n in range(4)}
    cache = make()
    for name in ("m0", "m1"):
        cache.acquire(http(name)).release()
    cache.acquire(http("m1", "m2", "m3")).release()
    cache.close()
    return content


def check(cache: Any, content: dict[str, bytes]) -> None:
    with cache.acquire(http("m0")) as lease:
        assert lease.path.read_bytes() == content["m0"]
    with cache.acquire(http("m1")) as lease:
        assert lease.path.read_bytes() == content["m1"]
    with cache.acquire(http("m1", "m2", "m3")) as lease:
        for name in ("m1", "m2", "m3"):
            assert (lease.path / name).read_bytes() == content[name]


def delete(index: Path) -> None:
    index.unlink()


def empty(index: Path) -> None:
    index.write_bytes(b"")


def rubbish(index: Path) -> None:
    index.write_bytes(b"rubbish" * 5000)


def cut(index: Path) -> None:
    os.truncate(index, 5000)


def old_version(index: Path) -> None:
    with closing(sqlite3.connect(index)) as db:
        db.execute("PRAGMA user_version = 0")


def no_tables(index: Path) -> None:
    with closing(sqlite3.connect(index)) as db:
        db.execute("DROP TABLE counter")


HARMS = [delete, empty, rubbish, cut, old_version, no_tables]


@pytest.mark.parametrize("harm", HARMS)
def test_a_harmed_index_is_made_again_without_a_download(
    make: Any, origin: Folder, root: Path, content: dict[str, bytes], harm: Any
) -> None:
    harm(root / "index.db")
    before = origin.notes("download")
    check(make(), content)
    assert origin.notes("download") == before
    assert audit(root) == []


@pytest.mark.parametrize("harm", [harm for harm in HARMS if harm is not old_version])
def test_an_index_harmed_under_an_open_cache_is_made_again(
    make: Any, origin: Folder, root: Path, content: dict[str, bytes], harm: Any
) -> None:
    cache, other = make(), make()
    cache.refresh()
    other.refresh()
    harm(root / "index.db")
    before = origin.notes("download")
    other.refresh()
    for each in (cache, other, cache):
        check(each, content)
    assert origin.notes("download") == before
    assert audit(root) == []
    if harm is not delete:
        assert (root / "index.db.corrupt").exists()


def test_the_index_is_made_again_only_once(
    make: Any, root: Path, content: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    replace_index = recovery.replace_index
    monkeypatch.setattr(
        recovery, "replace_index", lambda *args: made.append(1) or replace_index(*args)
    )
    caches = [make() for _ in range(3)]
    for cache in caches:
        cache.refresh()
    rubbish(root / "index.db")
    for cache in caches:
        check(cache, content)
    assert made == [1]


def test_a_folder_that_was_deleted_is_made_again(
    make: Any, origin: Folder, root: Path, content: dict[str, bytes]
) -> None:
    cache = make()
    check(cache, content)
    root.rename(root.parent / "elsewhere")
    check(cache, content)
    assert audit(root) == []


def upgrade(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA user_version = 99")


def upgrade_with_other_tables(db: sqlite3.Connection) -> None:
    db.execute("ALTER TABLE entry RENAME TO thing")
    db.execute("DROP TABLE counter")
    db.execute("PRAGMA user_version = 99")


@pytest.mark.parametrize("change", [upgrade, upgrade_with_other_tables])
@pytest.mark.parametrize("replaced", [False, True])
def test_an_index_that_a_newer_version_changes_under_an_open_cache_is_left_alone(
    make: Any,
    origin: Folder,
    root: Path,
    content: dict[str, bytes],
    change: Any,
    replaced: bool,
) -> None:
    origin.put("other", b"other")
    cache = make()
    cache.refresh()
    if replaced:
        shutil.copy(root / "index.db", root / "copy.db")
        os.replace(root / "copy.db", root / "index.db")
    with closing(sqlite3.connect(root / "index.db")) as db, db:
        change(db)
    before = (root / "index.db").read_bytes()
    for work in (lambda: cache.acquire(http("other")), cache.rebuild, cache.clear):
        with pytest.raises(CacheUnusable, match="newer"):
            work()
    assert (root / "index.db").read_bytes() == before
    assert not (root / "index.db.corrupt").exists()
    assert not origin.notes("download other")


def test_an_index_of_a_newer_version_is_left_alone(
    make: Any, root: Path, content: dict[str, bytes]
) -> None:
    with closing(sqlite3.connect(root / "index.db")) as db:
        db.execute("PRAGMA user_version = 99")
    before = (root / "index.db").read_bytes()
    with pytest.raises(CacheUnusable, match="newer"):
        make().stats()
    assert (root / "index.db").read_bytes() == before


def test_a_locked_index_ends_in_a_sentence_and_leases_stay(
    make: Any, root: Path, content: dict[str, bytes]
) -> None:
    cache = make(busy_s=0.05)
    lease = cache.acquire(http("m0"))
    with closing(sqlite3.connect(root / "index.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(CacheUnusable, match="locked"):
            cache.acquire(http("m1"))
        assert lease.path.read_bytes() == content["m0"]
        assert cache.snapshot().leases == 1
        other.execute("ROLLBACK")
    check(cache, content)
    lease.release()


@pytest.mark.parametrize("answer", ["unchanged", "as it was before"])
def test_what_is_here_is_served_while_the_index_cannot_be_written(
    make: Any, origin: Folder, root: Path, content: dict[str, bytes], answer: str
) -> None:
    cache = make(busy_s=0.02, ttl_s=0.0)
    cache.acquire(http("m0")).release()
    if answer == "as it was before":
        origin.put("m0", b"meanwhile")
        cache.acquire(http("m0")).release()
        origin.put("m0", content["m0"])
    with closing(sqlite3.connect(root / "index.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for _ in range(2):
            with cache.acquire(http("m0")) as lease:
                assert lease.path.read_bytes() == content["m0"]
        other.execute("ROLLBACK")
    assert cache.snapshot().leases == 0
    check(cache, content)


@pytest.mark.parametrize("error", [IndexDamaged("torn"), KeyboardInterrupt()])
def test_a_lease_is_given_back_when_what_was_asked_cannot_be_noted_down(
    make: Any,
    origin: Folder,
    content: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    cache = make(ttl_s=0.0)
    origin.put("m0", b"meanwhile")
    cache.acquire(http("m0")).release()
    origin.put("m0", content["m0"])

    def fail(*_: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Index, "point", fail)
        with pytest.raises(type(error)):
            cache.acquire(http("m0"))
    assert cache.snapshot().leases == 0
    check(cache, content)


def test_a_fresh_entry_is_handed_out_when_the_totals_cannot_be_read(
    make: Any, origin: Folder, content: dict[str, bytes]
) -> None:
    data = origin.put("more", b"more")
    cache = make(reached=lambda step: step == "cleaned" and delete_counters())

    def delete_counters() -> None:
        with closing(sqlite3.connect(cache.cache_dir / "index.db")) as db, db:
            db.execute("DELETE FROM counter")

    with cache.acquire(http("more")) as lease:
        assert lease.path.read_bytes() == data
        assert cache.snapshot().leases == 1
    assert cache.snapshot().leases == 0
    assert cache.stats().file_count == 5


def test_flipped_bytes_of_the_index_never_serve_a_wrong_file(
    make: Any, origin: Folder, root: Path, content: dict[str, bytes]
) -> None:
    """Each byte may be any other: some damage SQLite finds, some only our own checks do."""
    dice = random.Random(1)
    clean = (root / "index.db").read_bytes()
    for _ in range(150):
        harmed = bytearray(clean)
        for _ in range(dice.choice([1, 1, 8, 200])):
            harmed[dice.randrange(len(harmed))] ^= 1 << dice.randrange(8)
        (root / "index.db").write_bytes(harmed)
        cache = make(busy_s=0.2)
        try:
            check(cache, content)
        except WeightError:
            # A typed error is an answer; a wrong file is not.
            pass
        finally:
            cache.close()
        for name in ("index.db-journal", "index.db.corrupt"):
            (root / name).unlink(missing_ok=True)
    (root / "index.db").write_bytes(clean)
    cache = make()
    cache.rebuild()
    check(cache, content)
    assert audit(root) == []


def test_an_index_that_mixes_its_entries_up_is_not_believed(
    make: Any, root: Path, content: dict[str, bytes]
) -> None:
    with closing(sqlite3.connect(root / "index.db")) as db, db:
        (one,), (two,) = db.execute("SELECT id FROM entry WHERE relpath IS NOT NULL")
        db.execute("UPDATE source SET entry_id = 'swap' WHERE entry_id = ?", (one,))
        db.execute("UPDATE source SET entry_id = ? WHERE entry_id = ?", (one, two))
        db.execute("UPDATE source SET entry_id = ? WHERE entry_id = 'swap'", (two,))
    check(make(), content)


@pytest.mark.parametrize("harm", ["delete", "cut", "folder"])
def test_an_entry_whose_files_were_changed_is_fetched_again(
    make: Any, origin: Folder, root: Path, content: dict[str, bytes], harm: str
) -> None:
    for path in [*root.glob("entries/*/files/m2"), *root.glob("entries/*/files/m0")]:
        path.chmod(0o644)
        if harm == "cut":
            os.truncate(path, 3)
        path.unlink()
        if harm == "cut":
            path.write_bytes(b"cut")
        if harm == "folder":
            path.mkdir()
    for path in root.glob("blobs/*/*"):
        if path.stat().st_size == 3:
            path.unlink()
    check(make(), content)


@pytest.mark.parametrize("opened", [False, True])
def test_an_entry_whose_folder_is_gone_is_fetched_again(
    make: Any, origin: Folder, root: Path, content: dict[str, bytes], opened: bool
) -> None:
    cache = make()
    if opened:
        check(cache, content)
    for folder in root.glob("entries/*"):
        shutil.rmtree(folder)
    check(cache, content)
    assert audit(root) == []


def test_a_single_file_that_goes_while_the_cache_is_open_is_fetched_again(
    make: Any, origin: Folder, root: Path, content: dict[str, bytes]
) -> None:
    cache = make()
    check(cache, content)
    (path,) = root.glob("entries/*/files/m0")
    path.unlink()
    check(cache, content)
    assert audit(root) == []


def test_a_damaged_entry_that_is_leased_elsewhere_is_fetched_beside_it(
    make: Any, origin: Folder, root: Path, content: dict[str, bytes]
) -> None:
    other = make()
    with other.acquire(http("m0")) as lease:
        lease.path.unlink()
        cache = make()
        check(cache, content)
    cache.close()
    again = make()
    again.refresh()
    assert audit(root) == []


def test_a_rebuild_does_not_bring_back_what_verify_has_condemned(
    make: Any, origin: Folder, root: Path, content: dict[str, bytes]
) -> None:
    cache = make()
    with cache.acquire(http("m0")) as damaged:
        damaged.path.chmod(0o644)
        damaged.path.write_bytes(content["m0"][::-1])
        found = [verdict for verdict in verify(cache) if verdict.problem]
        assert [verdict.in_use for verdict in found] == [True]
        check(cache, content)
        assert cache.rebuild() == 3
        check(cache, content)
        assert damaged.path.exists()
    assert len(origin.notes("download")) == 5
    cache.close()
    make().refresh()
    assert not damaged.path.exists()
    assert audit(root) == []


def test_a_rebuild_under_a_download_leaves_nothing_of_it_behind(
    make: Any, origin: Folder, root: Path, content: dict[str, bytes]
) -> None:
    """It goes on, tells the new index of what it brings, and does not come to its end."""
    origin.put("late", os.urandom(300_000))

    def rebuild(file: Any, done: int) -> None:
        if done == 65536:
            assert make().rebuild() == 3
        elif done > 200_000:
            raise Crash

    with pytest.raises(Crash):
        make(download=Engine(rebuild)).acquire(http("late"))
    cache = make()
    check(cache, content)
    with closing(sqlite3.connect(root / "index.db")) as db:
        assert db.execute("SELECT count(*) FROM part").fetchone() == (0,)
    assert audit(root) == []


def test_what_is_published_while_a_rebuild_looks_around_keeps_its_name(
    make: Any,
    origin: Folder,
    root: Path,
    content: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its folder is not among those with manifests yet, and among those that are in use already."""
    data = origin.put("late", os.urandom(500))
    shelved, listed, in_place, rebuilt = (threading.Event() for _ in range(4))
    waits = {"shelved": (shelved, listed), "entry_in_place": (in_place, rebuilt)}

    def reached(step: str) -> None:
        if step in waits:
            told, awaited = waits[step]
            told.set()
            assert awaited.wait(60)

    leases: list[Any] = []
    publisher = make(reached=reached)
    thread = threading.Thread(target=lambda: leases.append(publisher.acquire(http("late"))))
    thread.start()
    assert shelved.wait(60)
    list_them = recovery.strangers_to

    def late(*args: Any) -> Any:
        listed.set()
        assert in_place.wait(60)
        return list_them(*args)

    cache = make()
    with monkeypatch.context() as patch:
        patch.setattr(recovery, "strangers_to", late)
        recovery.remake_index(cache._database, cache._layout, cache._wiring.system)
    rebuilt.set()
    thread.join()
    with leases[0] as first, make().acquire(http("late")) as second:
        assert first.path == second.path
        assert second.path.read_bytes() == data
    assert http("late").name in {each.name for each in cache.store().index.entries()}
    with closing(sqlite3.connect(root / "index.db")) as db:
        assert db.execute("SELECT count(*) FROM entry WHERE ident LIKE '#%'").fetchone() == (0,)


def test_a_rebuild_removes_what_one_that_was_killed_has_left(
    make: Any, root: Path, content: dict[str, bytes]
) -> None:
    left = [root / "index.0123456789abcdef.db", root / "index.0123456789abcdef.db-journal"]
    mine = root / "index.notes.db"
    for path in (*left, mine):
        path.touch()
    make().rebuild()
    assert [path.exists() for path in left] == [False, False]
    assert mine.exists()


def test_what_is_evicted_while_verify_reads_is_no_fault(
    make: Any, content: dict[str, bytes]
) -> None:
    verdicts = verify(make())
    first = next(verdicts)
    make().clear()
    assert {verdict.problem for verdict in (first, *verdicts)} == {""}


def verify_where(
    monkeypatch: pytest.MonkeyPatch, cache: Any, bad: Path, code: int
) -> dict[str, Any]:
    """The verdicts, by the names of the entries, when that file cannot be opened."""
    inode, read = bad.stat().st_ino, local.file_sha256

    def fail(path: Path) -> str:
        if path.stat().st_ino == inode:
            raise OSError(code, os.strerror(code))
        return read(path)

    monkeypatch.setattr(maintenance, "file_sha256", fail)
    return {verdict.name: verdict for verdict in verify(cache)}


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ENOTDIR])
def test_a_file_that_cannot_be_read_is_damage_of_its_entry_alone(
    make: Any,
    root: Path,
    content: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    code: int,
) -> None:
    cache = make()
    found = verify_where(monkeypatch, cache, *root.glob("entries/*/files/m0"), code)
    assert len(found) == 3
    damaged = found.pop("http://fake/m0")
    assert (damaged.problem, damaged.in_use, damaged.failed) == ("m0 cannot be read", False, False)
    assert {verdict.problem for verdict in found.values()} == {""}
    check(cache, content)
    assert audit(root) == []


def test_a_blob_that_cannot_be_read_is_shared_no_more(
    make: Any, root: Path, content: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = root / "blobs" / sha256(content["m0"])[:2] / sha256(content["m0"])
    shutil.copyfile(blob, root / "copy")
    os.replace(root / "copy", blob)
    found = verify_where(monkeypatch, make(), blob, errno.EIO)
    assert {verdict.problem for verdict in found.values()} == {""}
    assert not blob.exists()


def test_what_verify_cannot_look_at_for_want_of_descriptors_stays(
    make: Any, root: Path, content: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = verify_where(monkeypatch, make(), *root.glob("entries/*/files/m0"), errno.EMFILE)
    failed = {name for name, verdict in found.items() if verdict.failed}
    assert failed == {"http://fake/m0"}
    assert os.strerror(errno.EMFILE) in found["http://fake/m0"].problem
    assert len(list((root / "entries").iterdir())) == 3


def test_what_verify_cannot_remove_keeps_it_from_nothing_else(
    make: Any, root: Path, content: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise CacheUnusable("not now")

    monkeypatch.setattr(maintenance.eviction, "condemn", refuse)
    found = verify_where(monkeypatch, make(), *root.glob("entries/*/files/m0"), errno.EIO)
    assert [verdict.problem for verdict in found.values() if verdict.failed] == [
        "m0 cannot be read: not now"
    ]
    assert len(found) == 3


def test_an_entry_that_is_damaged_again_and_again_is_an_error(
    make: Any, content: dict[str, bytes]
) -> None:
    cache = make()
    (entry,) = [
        each.entry_id for each in cache.store().index.entries() if each.name == "http://fake/m0"
    ]
    tries: list[int] = []

    def work(_store: Any) -> None:
        tries.append(1)
        raise EntryDamaged(entry)

    with pytest.raises(EntryDamaged, match="changed by another program"):
        cache.mended(work)
    assert len(tries) == _MENDS + 1
    check(cache, content)


def test_a_manifest_that_was_changed_drops_its_entry_from_a_rebuild(
    make: Any, origin: Folder, root: Path, content: dict[str, bytes]
) -> None:
    for manifest in root.glob("entries/*/manifest.json"):
        if '"m0"' in manifest.read_text():
            text = manifest.read_text()
            manifest.chmod(0o644)
            manifest.write_text(text.replace('"m0"', '"m9"'))
    assert make().rebuild() == 2
    assert len(list((root / "entries").iterdir())) == 2
    check(make(), content)
    assert audit(root) == []


def test_blobs_that_are_gone_are_linked_back_by_a_rebuild(
    make: Any, origin: Folder, root: Path, content: dict[str, bytes]
) -> None:
    for blob in root.glob("blobs/*/*"):
        blob.unlink()
    assert make().rebuild() == 3
    assert audit(root) == []


def test_a_shared_blob_that_is_gone_is_downloaded_again(
    make: Any, origin: Folder, root: Path, content: dict[str, bytes]
) -> None:
    for blob in root.glob("blobs/*/*"):
        blob.unlink()
    with make().acquire(http("m2")) as lease:
        assert lease.path.read_bytes() == content["m2"]


def test_a_rebuild_keeps_what_is_leased_and_drops_strangers(
    make: Any, origin: Folder, root: Path, content: dict[str, bytes]
) -> None:
    (root / "entries" / "stranger").mkdir()
    (root / "partial" / "stranger").mkdir()
    (root / "blobs" / "00").mkdir(exist_ok=True)
    (root / "blobs" / "00" / "stranger").write_bytes(b"x")
    cache = make()
    with cache.acquire(http("m0")) as lease:
        assert cache.rebuild() == 3
        assert lease.path.read_bytes() == content["m0"]
        check(cache, content)
    assert audit(root) == []


STRAY = [
    "blobs/.DS_Store",
    "blobs/00/.Trash/note",
    "entries/.DS_Store",
    "partial/.DS_Store",
]


@pytest.mark.parametrize("name", STRAY)
def test_a_stray_file_stands_in_nobodys_way(
    make: Any, origin: Folder, root: Path, content: dict[str, bytes], name: str
) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(b"stray")
    (root / "trash" / "left").touch()
    before = origin.notes("download")
    cache = make()
    check(cache, content)
    assert not list((root / "trash").iterdir())
    assert cache.rebuild() == 3
    cache.close()
    rubbish(root / "index.db")
    check(make(), content)
    assert origin.notes("download") == before
    assert (root / name).read_bytes() == b"stray"


def test_a_journal_of_a_killed_writer_is_rolled_back(
    make: Any, root: Path, content: dict[str, bytes]
) -> None:
    code = (
        "import os, sqlite3, sys; db = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "db.execute('PRAGMA cache_size = 1'); db.execute('PRAGMA cache_spill = 1');"
        "db.execute('BEGIN EXCLUSIVE'); db.execute('UPDATE counter SET value = value + 7');"
        "db.execute('CREATE TABLE junk AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL"
        " SELECT i + 1 FROM n WHERE i < 20000) SELECT i, hex(randomblob(50)) FROM n');"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(root / "index.db")], check=False)
    assert (root / "index.db-journal").exists()
    check(make(), content)
    assert audit(root) == []


FOLDERS = ["entries", "blobs", "partial", "trash"]


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("use", ["hit", "miss", "put", "clear"])
def test_a_folder_deleted_under_an_open_cache_is_made_again(
    make: Any, origin: Folder, root: Path, content: dict[str, bytes], folder: str, use: str
) -> None:
    origin.put("more", b"more")
    cache = make()
    check(cache, content)
    before = len(origin.notes("download"))
    shutil.rmtree(root / folder)
    if use == "hit":
        check(cache, content)
    elif use == "miss":
        with cache.acquire(http("more")) as lease:
            assert lease.path.read_bytes() == b"more"
        assert len(origin.notes("download")) == before + 1
    elif use == "put":
        assert cache.put("k", lambda path: path.write_bytes(b"put")).read_bytes() == b"put"
    cache.clear()
    assert list((root / "entries").glob("*")) == []
    check(cache, content)
    cache.rebuild()
    assert audit(root) == []


@pytest.mark.parametrize("names", [["more"], ["more", "still"]])
@pytest.mark.parametrize("folder", [*FOLDERS, ""])
def test_a_folder_deleted_under_a_download_costs_one_more_at_most(
    make: Any, origin: Folder, root: Path, folder: str, names: list[str]
) -> None:
    data = {name: origin.put(name, os.urandom(200_000)) for name in names}
    deleted: list[str] = []

    def delete(file: Any, done: int) -> None:
        if not deleted:
            deleted.append(folder)
            shutil.rmtree(root / folder)

    cache = make(download=Engine(delete))
    with cache.acquire(http(*names)) as lease:
        for name in names:
            path = lease.path / name if len(names) > 1 else lease.path
            assert path.read_bytes() == data[name]
    assert len(origin.notes("download")) <= 2 * len(names)
    assert audit(root) == []


def test_folders_that_are_deleted_again_and_again_are_spoken_of(
    make: Any, origin: Folder, root: Path
) -> None:
    origin.put("more", os.urandom(1000))
    cache = make(download=Engine(lambda file, done: shutil.rmtree(root / "partial")))
    with pytest.raises(CacheUnusable, match="are deleted while it is in use"):
        cache.acquire(http("more"))
    assert len(origin.notes("download")) == 2


def test_the_folder_of_a_download_deleted_between_two_files_is_made_again(
    make: Any, origin: Folder, root: Path
) -> None:
    """The engine itself finds no place for the second file."""
    names = ["a", "b", "c", "d", "e", "f"]
    data = {name: origin.put(name, os.urandom(1000)) for name in names}
    deleted: list[int] = []

    class Deleting(Engine):
        def __call__(self, origin: Any, file: Any, part: Any, **means: Any) -> Any:
            if not deleted and file.relpath == "f":
                deleted.append(1)
                shutil.rmtree(root / "partial")
                PartWriter(part, {})
            return super().__call__(origin, file, part, **means)

    with make(download=Deleting()).acquire(http(*names)) as lease:
        assert {name: (lease.path / name).read_bytes() for name in names} == data
    assert audit(root) == []
