"""Which questions belong to which subject of the command line."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from benchmarks.answer import Answer
    from benchmarks.run import Run

SUBJECTS: dict[str, tuple[str, ...]] = {
    "overhead": ("rates", "instructions", "steps", "tail", "large_body", "streaming"),
    "batching": (
        "closed_batching",
        "open_batching",
        "windows",
        "two_models",
        "embeddings",
        "overload",
    ),
    "cache": ("cache_index", "cache_transfer"),
    "startup": ("startup",),
    "scale": ("many_models", "long_queue"),
}


BESIDE_PEERS = frozenset({"instructions", "rates", "startup", "streaming", "windows"})
"""The questions that the servers of the field have to be installed for."""


class Question(Protocol):
    """What each module of ``benchmarks/questions`` that is named above has."""

    __doc__: str | None

    def estimate_s(self, run: Run) -> float: ...
    def measure(self, run: Run) -> Answer: ...


def chosen(names: list[str]) -> list[str]:
    """The questions of subjects, or of single names; ``all`` is each once.

    Raises:
        ValueError: nobody knows the name.
    """
    found: dict[str, None] = {}
    for name in names:
        if name == "all":
            found.update(dict.fromkeys(q for several in SUBJECTS.values() for q in several))
        elif name in SUBJECTS:
            found.update(dict.fromkeys(SUBJECTS[name]))
        elif any(name in several for several in SUBJECTS.values()):
            found[name] = None
        else:
            raise ValueError(f"unknown subject {name!r}: choose from {', '.join(SUBJECTS)} or all")
    return list(found)


def question(name: str) -> Question:
    return cast("Question", importlib.import_module(f"benchmarks.questions.{name}"))


def title(name: str) -> str:
    """The question itself: the first line of the module's text."""
    return (question(name).__doc__ or name).splitlines()[0]
