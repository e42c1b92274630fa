"""``allow_patterns``: which files of a directory are wanted."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, TypeVar

from thalamus_lite.errors import WeightNotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

T = TypeVar("T")


def select(
    items: Iterable[T], patterns: Sequence[str] | None, name: Callable[[T], str], where: str
) -> list[T]:
    """The items whose name matches one of the patterns; all of them without patterns.

    The rules are those of huggingface-hub, for every kind of source: `fnmatch` over the whole name
    (``*`` crosses ``/``), case counts, ``folder/`` means ``folder/*``.

    Raises:
        WeightNotFound: there are items, and none matches.
    """
    found = list(items)
    if patterns is None:
        return found
    globs = [pattern + "*" if pattern.endswith("/") else pattern for pattern in patterns]
    kept = [item for item in found if any(fnmatchcase(name(item), glob) for glob in globs)]
    if found and not kept:
        raise WeightNotFound(
            f"none of the {len(found)} files of {where} matches allow_patterns: check the patterns"
        )
    return kept
