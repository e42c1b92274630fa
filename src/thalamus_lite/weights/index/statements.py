"""Pieces of transactions that several of the index's methods share; the caller has begun one."""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Any

from thalamus_lite.weights.index.records import Claim, Totals
from thalamus_lite.weights.index.sqlerrors import IndexDamaged

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from thalamus_lite.weights.manifest import Manifest, ManifestFile
    from thalamus_lite.weights.origin import Extents

CANDIDATES = (
    "SELECT id, last_used FROM entry WHERE state = 'READY' AND (last_used, id) > (?, ?)"
    " ORDER BY last_used, id LIMIT ?"
)


Row = tuple[Any, ...]


def checked(row: Row, *kinds: type | tuple[type, ...]) -> Row:
    """``row`` itself, if its values are of these types: SQLite does not look at what it reads."""
    if len(row) != len(kinds) or not all(map(isinstance, row, kinds)):
        raise IndexDamaged("the weight cache's index is corrupt")
    return row


def new_id(key: str) -> str:
    """A folder's name that was never used before, so that no path ever changes its meaning."""
    return f"{key[:16]}-{secrets.token_hex(8)}"


def totals(db: sqlite3.Connection) -> Totals:
    value = dict(db.execute("SELECT name, value FROM counter").fetchall())
    if len(value) < 6 or not all(isinstance(each, int) for each in value.values()):
        raise IndexDamaged("the weight cache's index has lost its counters")
    reserved = value["reserved_bytes"]
    return Totals(
        bytes=value["blob_bytes"],
        blobs=value["blobs"],
        entries=value["entries"],
        reserved_bytes=reserved,
        pending_bytes=max(0, reserved - value["part_bytes"]),
    )


def next_use(db: sqlite3.Connection) -> int:
    db.execute("UPDATE counter SET value = value + 1 WHERE name = 'sequence'")
    (value,) = db.execute("SELECT value FROM counter WHERE name = 'sequence'").fetchone()
    return int(value)


def blobs_of(db: sqlite3.Connection, entry_id: str) -> tuple[tuple[int, int, int], ...]:
    """(id, size, refs) of the blob of each file."""
    rows = db.execute(
        "SELECT b.id, b.size, b.refs FROM entry_file f JOIN blob b ON b.id = f.blob_id"
        " WHERE f.entry_id = ?",
        (entry_id,),
    ).fetchall()
    for row in rows:
        checked(row, int, int, int)
    return tuple((blob_id, size, refs) for blob_id, size, refs in rows)


def upsert_claim(db: sqlite3.Connection, entry_id: str, claim: Claim) -> None:
    # All of the claim: the row may be of `condemn`, which knew no more than the folder's name.
    db.execute(
        "INSERT INTO entry (id, ident, name, relpath, state, bytes, boot_id)"
        " VALUES (?, ?, ?, ?, 'FETCHING', ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET ident = excluded.ident, name = excluded.name,"
        " relpath = excluded.relpath, bytes = excluded.bytes, boot_id = excluded.boot_id",
        (entry_id, claim.ident, claim.name, claim.relpath, claim.bytes, claim.boot_id),
    )


def put_files(
    db: sqlite3.Connection, entry_id: str, files: Iterable[ManifestFile], state: str
) -> None:
    """``state`` is that of blobs that are not READY yet; a READY one stays READY."""
    for file in files:
        db.execute(
            "INSERT INTO blob (sha256, size, state) VALUES (?, ?, ?) ON CONFLICT (sha256) DO UPDATE"
            " SET state = excluded.state WHERE state != 'READY'",
            (file.sha256, file.size, state),
        )
        (blob_id,) = db.execute("SELECT id FROM blob WHERE sha256 = ?", (file.sha256,)).fetchone()
        # Not OR REPLACE: it deletes without telling the triggers.
        held = db.execute(
            "SELECT blob_id FROM entry_file WHERE entry_id = ? AND relpath = ?",
            (entry_id, file.relpath),
        ).fetchone()
        if held == (blob_id,):
            continue
        if held is not None:
            db.execute(
                "DELETE FROM entry_file WHERE entry_id = ? AND relpath = ?",
                (entry_id, file.relpath),
            )
        db.execute("INSERT INTO entry_file VALUES (?, ?, ?)", (entry_id, file.relpath, blob_id))


def drop_entry(db: sqlite3.Connection, entry_id: str) -> list[str]:
    """Its rows; returns the blobs (sha256) that are left without a holder, EVICTING now."""
    blobs = db.execute(
        "SELECT DISTINCT b.sha256 FROM entry_file f JOIN blob b ON b.id = f.blob_id"
        " WHERE f.entry_id = ?",
        (entry_id,),
    ).fetchall()
    db.execute("DELETE FROM entry_file WHERE entry_id = ?", (entry_id,))
    db.execute("DELETE FROM entry WHERE id = ?", (entry_id,))
    dead = []
    for (sha256,) in blobs:
        changed = db.execute(
            "UPDATE blob SET state = 'EVICTING' WHERE sha256 = ? AND refs = 0", (sha256,)
        ).rowcount
        if changed:
            dead.append(sha256)
    return dead


def point(
    db: sqlite3.Connection, key: str, entry_id: str, validator: str, checked_at: float | None
) -> None:
    if db.execute("SELECT 1 FROM entry WHERE id = ?", (entry_id,)).fetchone() is None:
        # It was evicted meanwhile: nothing would ever remove this row.
        return
    before = db.execute("SELECT entry_id FROM source WHERE key = ?", (key,)).fetchone()
    if before is not None and before[0] != entry_id:
        # What the name meant before is the first to go.
        db.execute("UPDATE entry SET last_used = 0 WHERE id = ?", before)
    db.execute(
        "INSERT INTO source VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET"
        " entry_id = excluded.entry_id, validator = excluded.validator,"
        " checked_at = excluded.checked_at",
        (key, entry_id, validator, checked_at),
    )


def condemn(db: sqlite3.Connection, entry_id: str, boot_id: str) -> None:
    """Have a later opener remove the folder of that name, which is no entry and still in use."""
    db.execute(
        "INSERT INTO entry (id, ident, name, state, bytes, boot_id)"
        " VALUES (?, '#' || ?, ?, 'EVICTING', 0, ?)",
        (entry_id, entry_id, entry_id, boot_id),
    )


def adopt(db: sqlite3.Connection, manifest: Manifest, boot_id: str) -> str:
    """Make READY what lies whole in the folder of ``manifest.id``; returns the id that serves."""
    row = db.execute("SELECT id, state FROM entry WHERE ident = ?", (manifest.ident,)).fetchone()
    if row is not None and row[0] != manifest.id:
        if row[1] == "READY":
            return str(row[0])
        # Made for the same content while the index was being rebuilt; its holder finds this one.
        drop_entry(db, row[0])
    claim = Claim(manifest.key, manifest.ident, manifest.name, manifest.relpath, 0, boot_id)
    upsert_claim(db, manifest.id, claim)
    put_files(db, manifest.id, manifest.files, "READY")
    db.execute(
        "UPDATE entry SET state = 'READY', bytes = ?, last_used = ? WHERE id = ?",
        (manifest.size, next_use(db), manifest.id),
    )
    db.execute("DELETE FROM part WHERE ident = ?", (manifest.ident,))
    point(db, manifest.key, manifest.id, manifest.validator, manifest.checked_at)
    return manifest.id


def extents(text: str) -> Extents:
    try:
        return tuple((int(start), int(stop)) for start, stop in json.loads(text))
    except (TypeError, ValueError):
        return ()


def length(ranges: Extents) -> int:
    return sum(stop - start for start, stop in ranges)
