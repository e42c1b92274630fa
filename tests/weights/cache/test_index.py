"""The transactions: what each leaves in the tables, and what each costs."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests_weights_cache_fakes import sha256

from thalamus_lite.errors import CacheUnusable, DiskFull
from thalamus_lite.weights.index import schema, statements
from thalamus_lite.weights.index.database import Database
from thalamus_lite.weights.index.records import Claim, Known, Part
from thalamus_lite.weights.index.sqlerrors import IndexDamaged
from thalamus_lite.weights.index.transactions import Index
from thalamus_lite.weights.manifest import Manifest, ManifestFile
from thalamus_lite.weights.options import System

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BOOT = "boot"


def create(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript(f"BEGIN; {schema.TABLES} COMMIT;")


@pytest.fixture
def database(root: Path) -> Iterator[Database]:
    root.mkdir()
    create(root / "index.db")
    made = Database(root / "index.db", 0.2, System().flock)
    yield made
    made.close()


@pytest.fixture
def index(database: Database) -> Index:
    return Index(database)


def key(n: int) -> str:
    return sha256(f"key {n}".encode())


def claim(n: int, size: int) -> Claim:
    return Claim(key(n), sha256(f"ident {n}".encode()), f"name {n}", None, size, BOOT)


def files(*contents: str) -> tuple[ManifestFile, ...]:
    return tuple(ManifestFile(f"f{i}", sha256(c.encode()), len(c)) for i, c in enumerate(contents))


def manifest(n: int, entry_id: str, *contents: str) -> Manifest:
    c = claim(n, 0)
    return Manifest(entry_id, c.key, c.ident, c.name, "v", 1.0, None, files(*contents))


def add(index: Index, n: int, *contents: str) -> str:
    reserved = index.reserve(claim(n, sum(map(len, contents))), 10**9)
    assert index.stage(reserved.entry_id, claim(n, 0), files(*contents)) == reserved.entry_id
    assert index.publish(manifest(n, reserved.entry_id, *contents), BOOT) == reserved.entry_id
    return reserved.entry_id


def counted(database: Database) -> tuple[int, ...]:
    """The counters, computed from the rows."""
    with database.read() as db:
        return tuple(
            db.execute(sql).fetchone()[0]
            for sql in (
                "SELECT coalesce(sum(size), 0) FROM blob",
                "SELECT count(*) FROM blob",
                "SELECT count(*) FROM entry WHERE state = 'READY'",
                "SELECT coalesce(sum(bytes), 0) FROM entry WHERE state = 'FETCHING'",
            )
        )


def refs_are_true(database: Database) -> bool:
    with database.read() as db:
        return not db.execute(
            "SELECT 1 FROM blob b WHERE refs !="
            " (SELECT count(*) FROM entry_file f WHERE f.blob_id = b.id)"
        ).fetchall()


def totals(index: Index) -> tuple[int, ...]:
    t = index.totals()
    return (t.bytes, t.blobs, t.entries, t.reserved_bytes)


def test_an_entry_is_reserved_staged_and_published(index: Index, database: Database) -> None:
    reserved = index.reserve(claim(1, 5), 100)
    assert (reserved.ready, reserved.short, reserved.free) == (False, 0, 95)
    assert totals(index) == (0, 0, 0, 5)
    assert index.known(key(1)) is None
    assert index.ready(claim(1, 0).ident) is None
    index.stage(reserved.entry_id, claim(1, 0), files("abc", "de"))
    assert totals(index) == (5, 2, 0, 0)
    assert index.staged(claim(1, 0).ident) == index.files(reserved.entry_id) != {}
    index.publish(manifest(1, reserved.entry_id, "abc", "de"), BOOT)
    assert totals(index) == counted(database) == (5, 2, 1, 0)
    assert index.known(key(1)) == Known(reserved.entry_id, "v", 1.0, None, 5)
    assert index.state(reserved.entry_id) == "READY"
    assert index.reserve(claim(1, 5), 100).ready
    assert index.stage(reserved.entry_id, claim(1, 0), files("abc", "de")) is None


def test_a_reservation_that_does_not_fit_reserves_nothing(index: Index) -> None:
    assert index.reserve(claim(1, 60), 100).short == 0
    refused = index.reserve(claim(2, 60), 100)
    assert (refused.short, refused.free) == (20, 40)
    assert totals(index) == (0, 0, 0, 60)
    # The same ident replaces what it had.
    assert index.reserve(claim(1, 90), 100).short == 0
    assert totals(index) == (0, 0, 0, 90)


def test_what_an_unfinished_entry_holds_only_shrinks(index: Index) -> None:
    entry_id = index.reserve(claim(1, 60), 100).entry_id
    index.hold(entry_id, 10)
    index.hold(entry_id, 50)
    assert totals(index)[3] == 10


def test_parts_count_as_no_longer_pending(index: Index) -> None:
    index.reserve(claim(1, 60), 100)
    assert index.totals().pending_bytes == 60
    part = Part("t", 60, "v", ((0, 10), (20, 30)), BOOT)
    index.save_part(claim(1, 0).ident, 0, part)
    assert index.totals().pending_bytes == 40
    assert index.parts(claim(1, 0).ident) == {0: part}
    index.save_part(claim(1, 0).ident, 0, Part("u", 60, "v", (), BOOT))
    assert index.totals().pending_bytes == 60


def test_a_shared_blob_goes_with_its_last_holder(index: Index, database: Database) -> None:
    one, two = add(index, 1, "same", "own"), add(index, 2, "same")
    assert totals(index) == (7, 2, 2, 0)
    assert index.forget(one) == [sha256(b"own")]
    dead = index.forget(two)
    assert dead == [sha256(b"same")]
    assert index.sized_blobs([sha256(b"same")]) == {}
    assert len(index.dead_blobs()) == 2
    index.drop_blobs(index.dead_blobs())
    assert totals(index) == counted(database) == (0, 0, 0, 0)


def test_a_blob_taken_into_use_again_is_not_dropped(index: Index, database: Database) -> None:
    one = add(index, 1, "same")
    dead = index.forget(one)
    two = add(index, 2, "same")
    index.drop_blobs(dead)
    assert index.files(two) == {"f0": (sha256(b"same"), 4)}
    assert index.sized_blobs([sha256(b"same"), "x"]) == {sha256(b"same"): 4}
    assert refs_are_true(database)


def test_a_key_does_not_come_to_mean_an_entry_that_is_gone(
    index: Index, database: Database
) -> None:
    one = add(index, 1, "abc")
    index.evict([one])
    index.forget(one)
    index.point(key(1), one, "v", None)
    with database.read() as db:
        assert db.execute("SELECT count(*) FROM source").fetchone() == (0,)


def test_an_evicted_ident_may_be_fetched_again_at_once(index: Index) -> None:
    one = add(index, 1, "abc")
    index.evict([one, "unknown"])
    assert index.known(key(1)) is None
    assert index.state(one) == "EVICTING"
    assert [(row.entry_id, row.state) for row in index.unfinished()] == [(one, "EVICTING")]
    two = add(index, 1, "abc")
    index.forget(one)
    known = index.known(key(1))
    assert known is not None
    assert known.entry_id == two


def test_candidates_come_in_the_order_of_use_and_in_pages(index: Index) -> None:
    ids = [add(index, n, f"content {n}") for n in range(5)]
    index.touch([ids[1], ids[0]])
    pages, after = [], (-1, "")
    while page := index.candidates(after, 2):
        pages.append([c.entry_id for c in page])
        after = (page[-1].last_used, page[-1].entry_id)
    assert [each for page in pages for each in page] == [ids[2], ids[3], ids[4], ids[1], ids[0]]
    (blob,) = index.candidates((-1, ""), 1)[0].blobs
    assert blob[1:] == (9, 1)


def test_what_a_name_meant_before_is_the_first_to_go(index: Index) -> None:
    old, other = add(index, 1, "old"), add(index, 2, "other")
    new = add(index, 3, "new")
    index.point(key(1), new, "v2", 2.0)
    order = [c.entry_id for c in index.candidates((-1, ""), 9)]
    assert order == [old, other, new]
    known = index.known(key(1))
    assert known is not None
    assert (known.entry_id, known.validator, known.checked_at) == (new, "v2", 2.0)


def test_an_entry_published_twice_serves_the_first(index: Index, database: Database) -> None:
    one = add(index, 1, "abc")
    other = manifest(1, statements.new_id(key(1)), "abc")
    assert index.publish(other, BOOT) == one
    assert refs_are_true(database)


def test_a_row_made_beside_a_published_folder_gives_way_to_it(
    index: Index, database: Database
) -> None:
    lost = index.reserve(claim(1, 3), 100).entry_id
    index.stage(lost, claim(1, 0), files("abc"))
    whole = manifest(1, statements.new_id(key(1)), "abc")
    assert index.publish(whole, BOOT) == whole.id
    assert totals(index) == counted(database) == (3, 1, 1, 0)
    assert refs_are_true(database)
    # And who lost its row stages under the id that is there.
    assert index.stage(lost, claim(1, 0), files("abc")) is None


def test_staging_makes_a_lost_row_again(index: Index, database: Database) -> None:
    entry_id = statements.new_id(key(1))
    assert index.stage(entry_id, claim(1, 0), files("abc")) == entry_id
    # A second attempt whose file came out different replaces it.
    assert index.stage(entry_id, claim(1, 0), files("xyz!")) == entry_id
    assert index.files(entry_id) == {"f0": (sha256(b"xyz!"), 4)}
    assert refs_are_true(database)


def test_entries_are_listed_the_last_used_first(index: Index) -> None:
    one, two = add(index, 1, "a", "b"), add(index, 2, "c")
    assert [(e.entry_id, e.name, e.state, e.bytes) for e in index.entries()] == [
        (two, "name 2", "READY", 1),
        (one, "name 1", "READY", 2),
    ]


def test_extents_that_cannot_be_read_are_none(index: Index, database: Database) -> None:
    ident = claim(1, 0).ident
    index.reserve(claim(1, 1), 100)
    index.save_part(ident, 0, Part("t", 1, "v", ((0, 1),), BOOT))
    with database.write() as db:
        db.execute("UPDATE part SET extents = 'rubbish'")
    assert index.parts(ident)[0].extents == ()


def test_parts_of_a_download_without_a_row_of_its_own_are_not_saved(index: Index) -> None:
    index.save_part("i", 0, Part("t", 1, "v", ((0, 1),), BOOT))
    assert index.parts("i") == {}


actions = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "stage", "add", "evict", "forget", "hold", "touch", "point"]),
        st.integers(0, 4),
        st.lists(st.sampled_from(["a", "bb", "ccc"]), min_size=1, max_size=3, unique=True),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(actions)
def test_counters_and_references_are_true_whatever_happens(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, list[str]]]
) -> None:
    folder = tmp_path_factory.mktemp("index")
    create(folder / "index.db")
    database = Database(folder / "index.db", 1.0, lambda fd, kind: None)
    index = Index(database)
    ids: dict[int, str] = {}
    for action, n, contents in steps:
        entry_id = ids.get(n, "none")
        if action == "add":
            ready = index.ready(claim(n, 0).ident)
            ids[n] = ready.entry_id if ready else add(index, n, *contents)
        elif action == "reserve":
            ids[n] = index.reserve(claim(n, len(contents)), 12).entry_id
        elif action == "stage":
            index.stage(statements.new_id(key(n)), claim(n, 0), files(*contents))
        elif action == "evict":
            index.evict([entry_id])
        elif action == "forget":
            index.drop_blobs(index.forget(entry_id))
        elif action == "hold":
            index.hold(entry_id, 1)
        elif action == "touch":
            index.touch([entry_id])
        else:
            index.point(key(n), entry_id, "v", None)
        assert totals(index) == counted(database)
        assert refs_are_true(database)
    database.close()


def plan(database: Database, sql: str, *values: Any) -> str:
    with database.read() as db:
        return " ".join(row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", values))


def test_victims_are_read_from_the_lru_index_in_order(database: Database) -> None:
    told = plan(database, statements.CANDIDATES, -1, "", 64)
    assert "lru" in told
    assert "TEMP B-TREE" not in told


@pytest.mark.parametrize(
    ("sql", "uses"),
    [
        ("SELECT 1 FROM entry WHERE state != 'READY'", "unfinished_entry"),
        (
            "SELECT id, sha256 FROM blob WHERE state = 'EVICTING' AND state != 'READY'",
            "unfinished_blob",
        ),
        ("DELETE FROM source WHERE entry_id = 'x'", "source_of_entry"),
        ("SELECT id FROM entry WHERE ident = 'x'", "ident=?"),
        ("SELECT id FROM blob WHERE sha256 = 'x'", "sha256=?"),
    ],
)  # fmt: skip
def test_no_look_up_scans_a_table(database: Database, sql: str, uses: str) -> None:
    assert uses in plan(database, sql)


def test_a_locked_index_is_a_typed_error_after_the_time_limit(
    index: Index, database: Database
) -> None:
    with closing(sqlite3.connect(database.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(CacheUnusable, match="locked"):
            index.touch(["x"])
        with pytest.raises(CacheUnusable, match="locked"):
            index.totals()
        other.execute("ROLLBACK")
    index.touch(["x"])


def test_ctrl_c_in_the_wait_for_another_transaction_leaves_none_open(database: Database) -> None:
    patient = Database(database.path, 10.0, System().flock)
    index = Index(patient)
    index.totals()
    with closing(
        sqlite3.connect(database.path, isolation_level=None, check_same_thread=False)
    ) as other:
        other.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.1, other.execute, ["COMMIT"])
        release.start()
        threading.Timer(0.03, os.kill, [os.getpid(), signal.SIGINT]).start()
        with pytest.raises(KeyboardInterrupt):
            index.touch(["x"])
        release.join()
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")
    index.touch(["x"])
    patient.close()


def test_a_transaction_that_was_left_open_is_rolled_back(index: Index, database: Database) -> None:
    with database.read() as db:
        db.execute("BEGIN IMMEDIATE")
    index.touch(["x"])


def test_a_connection_closed_by_another_thread_just_before_its_use_is_opened_again(
    index: Index, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = database._link
    closes = iter([True, True])

    def find_and_close() -> Any:
        link = find()
        if next(closes, False):
            database.close()
        return link

    monkeypatch.setattr(database, "_link", find_and_close)
    index.touch(["x"])


def test_a_full_disk_is_a_typed_error_and_changes_nothing(index: Index, database: Database) -> None:
    with database.read() as db:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(DiskFull):
        _ = [index.reserve(claim(n, 1), 10**9) for n in range(10_000)]
    assert totals(index) == counted(database)


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b""])
def test_a_file_that_is_no_index_is_damage(root: Path, content: bytes) -> None:
    root.mkdir()
    (root / "index.db").write_bytes(content)
    database = Database(root / "index.db", 0.2, System().flock)
    with pytest.raises(IndexDamaged) as caught:
        Index(database).totals()
    assert caught.value.file_id == (
        (root / "index.db").stat().st_dev,
        (root / "index.db").stat().st_ino,
    )
    assert not database.version()
    database.close()


def test_lost_counters_are_damage(index: Index, database: Database) -> None:
    with database.write() as db:
        db.execute("DELETE FROM counter WHERE name = 'blobs'")
    with pytest.raises(IndexDamaged):
        index.totals()


def test_a_missing_file_or_folder_is_damage(root: Path, database: Database, index: Index) -> None:
    index.totals()
    (root / "index.db").rename(root / "elsewhere")
    with pytest.raises(IndexDamaged):
        index.totals()
    root.rename(root.parent / "moved")
    with pytest.raises(IndexDamaged):
        index.totals()
    assert database.version() is None


def test_a_replaced_file_is_seen(root: Path, index: Index) -> None:
    add(index, 1, "abc")
    create(root / "new.db")
    (root / "new.db").rename(root / "index.db")
    assert totals(index) == (0, 0, 0, 0)


def test_each_thread_has_its_connection_and_closing_waits_for_none_of_them(
    index: Index, database: Database
) -> None:
    seen: list[Any] = []

    def use() -> None:
        with database.read() as db:
            seen.append(db)

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(db) for db in seen}) == 3
    seen.clear()
    database.close()
    assert totals(index) == (0, 0, 0, 0)


def test_an_error_inside_a_transaction_undoes_it(index: Index, database: Database) -> None:
    def fail() -> None:
        with database.write() as db:
            db.execute("DELETE FROM counter")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert totals(index) == (0, 0, 0, 0)
