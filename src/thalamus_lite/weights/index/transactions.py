"""Every transaction of the cache's index, and nothing else: no file is touched here.

An entry goes FETCHING → READY → EVICTING → gone; a blob goes PUBLISHING → READY → EVICTING → gone.
What is not READY is what a crash may have left, and all that recovery looks at.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from thalamus_lite.weights.index import statements
from thalamus_lite.weights.index.records import (
    Candidate,
    Claim,
    Known,
    Listed,
    Part,
    Reservation,
    Totals,
    Unfinished,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from thalamus_lite.weights.index.database import Database
    from thalamus_lite.weights.manifest import Manifest, ManifestFile


_MAYBE_TEXT = (str, type(None))
_KNOWN = (str, str, (float, int, type(None)), _MAYBE_TEXT, int)


class Index:
    """All methods raise what `Database.read` and `Database.write` raise."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def known(self, key: str) -> Known | None:
        """The READY entry that the key meant."""
        with self._db.read() as db:
            row = db.execute(
                "SELECT e.id, s.validator, s.checked_at, e.relpath, e.bytes FROM source s"
                " JOIN entry e ON e.id = s.entry_id WHERE s.key = ? AND e.state = 'READY'",
                (key,),
            ).fetchone()
        return None if row is None else Known(*statements.checked(row, *_KNOWN))

    def state(self, entry_id: str) -> str | None:
        """FETCHING, READY or EVICTING; None: there is no such entry."""
        with self._db.read() as db:
            row = db.execute("SELECT state FROM entry WHERE id = ?", (entry_id,)).fetchone()
        return None if row is None else row[0]

    def ready(self, ident: str) -> Known | None:
        """The READY entry of this very content."""
        with self._db.read() as db:
            row = db.execute(
                "SELECT id, '', NULL, relpath, bytes FROM entry"
                " WHERE ident = ? AND state = 'READY'",
                (ident,),
            ).fetchone()
        return None if row is None else Known(*statements.checked(row, *_KNOWN))

    def files(self, entry_id: str) -> dict[str, tuple[str, int]]:
        """relpath → (sha256, size)."""
        with self._db.read() as db:
            rows = db.execute(
                "SELECT f.relpath, b.sha256, b.size FROM entry_file f"
                " JOIN blob b ON b.id = f.blob_id WHERE f.entry_id = ?",
                (entry_id,),
            ).fetchall()
        for row in rows:
            statements.checked(row, str, str, int)
        return {relpath: (sha256, size) for relpath, sha256, size in rows}

    def staged(self, ident: str) -> dict[str, tuple[str, int]]:
        """`files` of an entry that a crash kept from becoming READY."""
        with self._db.read() as db:
            row = db.execute("SELECT id FROM entry WHERE ident = ?", (ident,)).fetchone()
        return {} if row is None else self.files(row[0])

    def sized_blobs(self, sha256s: Iterable[str]) -> dict[str, int]:
        """sha256 → size of those that are here and READY."""
        found = {}
        with self._db.read() as db:
            for sha256 in sha256s:
                row = db.execute(
                    "SELECT size FROM blob WHERE sha256 = ? AND state = 'READY'", (sha256,)
                ).fetchone()
                if row is not None:
                    found[sha256] = row[0]
        return found

    def totals(self) -> Totals:
        with self._db.read() as db:
            return statements.totals(db)

    def reserve(self, claim: Claim, max_bytes: int) -> Reservation:
        """Take ``claim.bytes`` of the budget, in place of what the same ident had reserved."""
        with self._db.write() as db:
            row = db.execute(
                "SELECT id, state, bytes FROM entry WHERE ident = ?", (claim.ident,)
            ).fetchone()
            entry_id, state, mine = statements.checked(
                row or (statements.new_id(claim.key), "", 0), str, str, int
            )
            totals = statements.totals(db)
            free = max_bytes - (totals.bytes + totals.reserved_bytes - mine)
            if state == "READY":
                return Reservation(entry_id, True, 0, free)
            if claim.bytes > free:
                return Reservation(entry_id, False, claim.bytes - free, free)
            statements.upsert_claim(db, entry_id, claim)
            return Reservation(entry_id, False, 0, free - claim.bytes)

    def hold(self, entry_id: str, size: int) -> None:
        """Shrink what an unfinished entry reserves to ``size``, what it has on the disk."""
        with self._db.write() as db:
            db.execute(
                "UPDATE entry SET bytes = min(bytes, ?) WHERE id = ? AND state = 'FETCHING'",
                (size, entry_id),
            )

    def parts(self, ident: str) -> dict[int, Part]:
        with self._db.read() as db:
            rows = db.execute(
                "SELECT n, token, size, validator, extents, boot_id FROM part WHERE ident = ?",
                (ident,),
            ).fetchall()
        for row in rows:
            statements.checked(row, int, str, (int, type(None)), str, str, str)
        return {
            n: Part(token, size, validator, statements.extents(extents), boot)
            for n, token, size, validator, extents, boot in rows
        }

    def save_part(self, ident: str, n: int, part: Part) -> None:
        """Only who holds the ident's folder alone calls this.

        Without a row of the entry (the index was made anew meanwhile) nothing is saved: nobody
        would ever go on with the part, or remove its row.
        """
        with self._db.write() as db:
            db.execute(
                "INSERT INTO part SELECT ?, ?, ?, ?, ?, ?, ?, ?"
                " WHERE EXISTS (SELECT 1 FROM entry WHERE ident = ?) ON CONFLICT (ident, n)"
                " DO UPDATE SET token = excluded.token, size = excluded.size,"
                " validator = excluded.validator, extents = excluded.extents,"
                " done = excluded.done, boot_id = excluded.boot_id",
                (
                    *(ident, n, part.token, part.size, part.validator),
                    *(json.dumps(part.extents), statements.length(part.extents), part.boot_id),
                    ident,
                ),
            )

    def stage(self, entry_id: str, claim: Claim, files: Sequence[ManifestFile]) -> str | None:
        """The blobs are about to be renamed into place: from here on their rows find them.

        Returns:
            The id to publish under: the ident's row may have been lost and made again by another.
            None: the ident is READY by now.
        """
        with self._db.write() as db:
            row = db.execute(
                "SELECT id, state FROM entry WHERE ident = ?", (claim.ident,)
            ).fetchone()
            if row is not None and row[1] == "READY":
                return None
            kept: str = entry_id if row is None else row[0]
            statements.upsert_claim(db, kept, claim)
            statements.put_files(db, kept, files, "PUBLISHING")
            db.execute("UPDATE entry SET bytes = 0 WHERE id = ?", (kept,))
            db.execute("UPDATE part SET done = 0 WHERE ident = ?", (claim.ident,))
            return kept

    def publish(self, manifest: Manifest, boot_id: str) -> str:
        """The folder is in its place: make it READY, and what its key means.

        Returns:
            The id that serves the ident; another's, if it was READY first.
        """
        with self._db.write() as db:
            return statements.adopt(db, manifest, boot_id)

    def point(self, key: str, entry_id: str, validator: str, checked_at: float | None) -> None:
        """The origin was asked: the key means this entry."""
        with self._db.write() as db:
            statements.point(db, key, entry_id, validator, checked_at)

    def touch(self, entry_ids: Iterable[str]) -> None:
        """They were used, in this order."""
        with self._db.write() as db:
            for entry_id in entry_ids:
                db.execute(
                    "UPDATE entry SET last_used = ? WHERE id = ? AND state = 'READY'",
                    (statements.next_use(db), entry_id),
                )

    def candidates(self, after: tuple[int, str], limit: int) -> list[Candidate]:
        """READY entries, the least recently used first."""
        with self._db.read() as db:
            rows = db.execute(statements.CANDIDATES, (*after, limit)).fetchall()
            return [
                Candidate(entry_id, last_used, statements.blobs_of(db, entry_id))
                for entry_id, last_used in (statements.checked(row, str, int) for row in rows)
            ]

    def evict(self, entry_ids: Sequence[str]) -> None:
        """READY → EVICTING. The ident is free at once: it may be fetched beside the removal."""
        with self._db.write() as db:
            for entry_id in entry_ids:
                db.execute(
                    "UPDATE entry SET state = 'EVICTING', ident = ident || '#' || id"
                    " WHERE id = ? AND state = 'READY'",
                    (entry_id,),
                )

    def forget(self, entry_id: str, ident: str | None = None) -> list[str]:
        """Drop the entry's rows, and the parts of ``ident``.

        Returns:
            The sha256 of the blobs that nothing holds any more, EVICTING by now: unlink them, then
            call `drop_blobs`.
        """
        with self._db.write() as db:
            blobs = statements.drop_entry(db, entry_id)
            db.execute("DELETE FROM source WHERE entry_id = ?", (entry_id,))
            db.execute("DELETE FROM part WHERE ident = ?", (ident,))
            return blobs

    def drop_blobs(self, sha256s: Iterable[str]) -> set[str]:
        """Their files are out of the way.

        Returns:
            Those that were taken into use again meanwhile, and stay.
        """
        kept = set()
        with self._db.write() as db:
            for sha256 in sha256s:
                db.execute(
                    "DELETE FROM blob WHERE sha256 = ? AND state = 'EVICTING' AND refs = 0",
                    (sha256,),
                )
                if db.execute("SELECT 1 FROM blob WHERE sha256 = ?", (sha256,)).fetchone():
                    kept.add(sha256)
        return kept

    def unfinished(self) -> list[Unfinished]:
        with self._db.read() as db:
            rows = db.execute(
                "SELECT id, ident, state, boot_id FROM entry WHERE state != 'READY'"
            ).fetchall()
        return [Unfinished(*statements.checked(row, str, str, str, str)) for row in rows]

    def dead_blobs(self) -> list[str]:
        """The sha256 of those whose removal did not come to its end."""
        with self._db.read() as db:
            rows = db.execute(
                "SELECT sha256 FROM blob WHERE state = 'EVICTING' AND state != 'READY'"
            ).fetchall()
        return [sha256 for (sha256,) in rows]

    def entries(self) -> list[Listed]:
        """All of them, the most recently used first; O(n), for the command line."""
        with self._db.read() as db:
            rows = db.execute(
                "SELECT id, name, state, bytes FROM entry ORDER BY last_used DESC"
            ).fetchall()
        return [Listed(*statements.checked(row, str, str, str, int)) for row in rows]
