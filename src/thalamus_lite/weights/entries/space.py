"""What the downloads under way will still need of the disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thalamus_lite.weights.entries.layout import can_link, disk_errors

if TYPE_CHECKING:
    from pathlib import Path

    from thalamus_lite.weights.entries.store import Store


def disk_short(store: Store, folder: Path, here: int, *, whole: bool) -> int:
    """Bytes by which all downloads under way, this one included, would fall below min_free.

    Args:
        folder: That of this download.
        here: Bytes of those of its files that are here already.
        whole: All of them are: it only gives them other names, if the disk can.
    """
    with disk_errors():
        free = store.system.free_bytes(store.layout.root)
    totals = store.index.totals()
    short = totals.pending_bytes + store.options.min_free_bytes - free
    # Where files cannot have two names each is copied at the end, for its entry and as a blob.
    copies = totals.reserved_bytes + here
    if short + copies <= 0:
        return 0
    if not can_link(folder):
        return short + copies
    return 0 if whole else max(0, short)
