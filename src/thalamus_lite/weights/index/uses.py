"""When entries were last used: remembered at each hit, written down at most once a minute."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from thalamus_lite.errors import WeightError

if TYPE_CHECKING:
    from collections.abc import Callable

    from thalamus_lite.weights.index.transactions import Index

WRITE_EVERY_S = 60.0


class Uses:
    """A hit costs no write: the order of the last minute may be lost in a crash, nothing else."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._pending: dict[str, None] = {}
        self._written_at: float | None = None

    def used(self, index: Index, entry_id: str) -> None:
        now = self._clock()
        with self._lock:
            # Out and in again: the dict's order is the order of use.
            self._pending.pop(entry_id, None)
            self._pending[entry_id] = None
            due = self._written_at is None or now - self._written_at >= WRITE_EVERY_S
        if due:
            self.flush(index)

    def flush(self, index: Index) -> None:
        """Write down what is pending; a full disk or a locked index is no reason to fail a hit."""
        with self._lock:
            pending, self._pending = self._pending, {}
            self._written_at = self._clock()
        if pending:
            with suppress(WeightError):
                index.touch(pending)

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self._pending = {}
