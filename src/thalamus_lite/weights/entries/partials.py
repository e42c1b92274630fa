"""The files of a download under way, and what is remembered of them."""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from thalamus_lite.errors import WeightError
from thalamus_lite.weights.entries.layout import disk_errors, remove
from thalamus_lite.weights.index.records import Part
from thalamus_lite.weights.origin import PartFile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from thalamus_lite.weights.entries.holds import Hold
    from thalamus_lite.weights.entries.store import Store
    from thalamus_lite.weights.origin import Extents, RemoteFile


class Parts:
    """``<n>.<token>.part`` in the folder of a hold; the row of the token says what is in it."""

    def __init__(self, store: Store, hold: Hold, ident: str) -> None:
        self._store = store
        self._hold = hold
        self._ident = ident
        # Without the lock another may be writing to what the rows name.
        self._rows = store.index.parts(ident) if hold.alone else {}
        self._open: dict[int, Part] = {}
        self.paths: dict[int, Path] = {}

    def sweep(self) -> None:
        """Delete what a crash has left here and no row knows."""
        if not self._hold.alone:
            return
        known = {self._path(n, row.token) for n, row in self._rows.items()}
        with disk_errors():
            for path in self._hold.folder.iterdir():
                if path not in known:
                    remove(path)
            for path in known:
                # With a second name it is a blob by now: others read it, so nobody goes on with it.
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_nlink > 1:
                        remove(path)

    def open(self, n: int, file: RemoteFile, grown: Callable[[int], None]) -> PartFile:
        """The part of file ``n``: an earlier one if it can be gone on with, else a new one.

        ``grown`` is told the bytes in it each time that extents are saved; it may raise.
        """
        row = self._rows.get(n)
        if row is None or not self._fits(n, row, file):
            if row is not None:
                remove(self._path(n, row.token))
            # Its row is written with the first extents: most files are whole before that. One of
            # unknown size is never gone on with, and its row only counts.
            validator = file.validator if file.size is not None else ""
            boot_id = self._store.system.boot_id()
            row = Part(secrets.token_hex(8), file.size, validator, (), boot_id)
        self._open[n] = row
        path = self.paths[n] = self._path(n, row.token)
        with contextlib.suppress(FileNotFoundError), disk_errors():
            # It was made read-only if all of it was there.
            path.chmod(0o600)
        saved = partial(self._save, n, grown)
        return PartFile(path, file.size, file.validator, row.extents, saved)

    def complete(self, n: int, size: int) -> None:
        """All of it is there: an attempt after a crash only reads it again."""
        self._remember(n, ((0, size),) if size else ())

    def discard(self) -> None:
        """Delete the files that were opened here."""
        for path in self.paths.values():
            remove(path)

    def _save(
        self, n: int, grown: Callable[[int], None], extents: Sequence[tuple[int, int]]
    ) -> None:
        ranges: Extents = tuple(extents)
        self._remember(n, ranges)
        self._store.system.reached("extents")
        grown(sum(stop - start for start, stop in ranges))

    def _remember(self, n: int, extents: Extents) -> None:
        row = self._open[n]
        if extents == row.extents:
            return
        self._open[n] = replace(row, extents=extents)
        # Losing them costs bandwidth after a crash; a download does not end for that.
        with contextlib.suppress(WeightError):
            if self._hold.alone:
                self._store.index.save_part(self._ident, n, self._open[n])

    def _fits(self, n: int, row: Part, file: RemoteFile) -> bool:
        # Bytes that were written under another boot may never have reached the disk.
        same = (row.boot_id, row.size, row.validator) == (
            self._store.system.boot_id(),
            file.size,
            file.validator,
        )
        if not same or not file.validator or not row.extents:
            return False
        try:
            return self._path(n, row.token).stat().st_size >= row.extents[-1][1]
        except OSError:
            return False

    def _path(self, n: int, token: str) -> Path:
        return self._hold.folder / f"{n}.{token}.part"
