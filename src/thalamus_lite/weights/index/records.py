"""What the index answers, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thalamus_lite.weights.origin import Extents


@dataclass(frozen=True, slots=True)
class Known:
    """What a key meant when its origin was last asked. ``relpath`` is None for a directory."""

    entry_id: str
    validator: str
    checked_at: float | None
    relpath: str | None
    bytes: int


@dataclass(frozen=True, slots=True)
class Claim:
    """An entry to be; ``bytes`` is what it still has to bring."""

    key: str
    ident: str
    name: str
    relpath: str | None
    bytes: int
    boot_id: str


@dataclass(frozen=True, slots=True)
class Reservation:
    """``short``: bytes that must go before this fits; nothing is reserved unless it is 0."""

    entry_id: str
    ready: bool
    short: int
    free: int


@dataclass(frozen=True, slots=True)
class Part:
    token: str
    size: int | None
    validator: str
    extents: Extents
    boot_id: str


@dataclass(frozen=True, slots=True)
class Totals:
    """``pending_bytes``: reserved, and not yet on the disk."""

    bytes: int
    blobs: int
    entries: int
    reserved_bytes: int
    pending_bytes: int


@dataclass(frozen=True, slots=True)
class Unfinished:
    entry_id: str
    ident: str
    state: str
    boot_id: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A READY entry in the order of use; ``blobs`` are (id, size, refs), one for each file."""

    entry_id: str
    last_used: int
    blobs: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Listed:
    entry_id: str
    name: str
    state: str
    bytes: int
