"""A model's life as a table of allowed moves.

REGISTERED ──▶ LOADING ──▶ READY ──▶ DRAINING ──▶ UNLOADED ──▶ LOADING …
                  └─▶ FAILED ──▶ LOADING
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    REGISTERED = "registered"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    UNLOADED = "unloaded"
    FAILED = "failed"


MOVES: dict[State, frozenset[State]] = {
    State.REGISTERED: frozenset({State.LOADING}),
    State.LOADING: frozenset({State.READY, State.FAILED}),
    State.READY: frozenset({State.DRAINING}),
    State.DRAINING: frozenset({State.UNLOADED}),
    State.UNLOADED: frozenset({State.LOADING}),
    State.FAILED: frozenset({State.LOADING}),
}


def check_move(old: State, new: State) -> None:
    """
    Raises:
        RuntimeError: the table has no such move.
    """
    if new not in MOVES[old]:
        raise RuntimeError(f"a model cannot go from {old.value} to {new.value}")
