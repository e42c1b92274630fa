"""How long a mutable name is believed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thalamus_lite.weights.index.records import Known


def is_fresh(known: Known, *, now: float, ttl_s: float, since: float) -> bool:
    """Whether the entry may be served without asking its origin.

    A look at the clock from the future counts as none: the clock was set back, and nobody knows by
    how much. What was asked after ``since``, the moment at which the caller came, is always fresh.
    """
    if known.checked_at is None:
        return True
    age = now - known.checked_at
    return age >= 0 and (age < ttl_s or known.checked_at >= since)
