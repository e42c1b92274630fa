"""Byte ranges of a file: which are there, which are missing, and how a server speaks of them.

All ranges are half-open, ``(start, stop)``. Pure: no file, no lock, no clock.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from thalamus_lite.weights.origin import Extents

# RFC 9110 §14.4. ASCII digits only, and few enough of them that int() stays cheap.
_CONTENT_RANGE = re.compile(
    r"bytes[ ]+(?:([0-9]{1,18})-([0-9]{1,18})|\*)/([0-9]{1,18}|\*)", re.IGNORECASE
)


class ExtentSet:
    """A set of byte positions, kept as sorted, disjoint, non-adjacent ranges."""

    __slots__ = ("_starts", "_stops")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        for start, stop in ranges:
            self.add(start, stop)

    def add(self, start: int, stop: int) -> None:
        if start >= stop:
            return
        # Every range that overlaps or touches [start, stop) melts into it.
        first = bisect_left(self._stops, start)
        last = bisect_right(self._starts, stop)
        if first < last:
            start = min(start, self._starts[first])
            stop = max(stop, self._stops[last - 1])
        self._starts[first:last] = [start]
        self._stops[first:last] = [stop]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._starts, self._stops, strict=True))

    def as_tuple(self) -> Extents:
        return tuple(self)

    @property
    def covered(self) -> int:
        """How many bytes are there."""
        return sum(self._stops) - sum(self._starts)

    @property
    def prefix(self) -> int:
        """How many bytes are there from 0 on without a gap."""
        return self._stops[0] if self._starts and self._starts[0] == 0 else 0

    @property
    def end(self) -> int:
        return self._stops[-1] if self._stops else 0

    def gaps(self, size: int) -> list[tuple[int, int]]:
        """What is missing of ``[0, size)``."""
        missing = []
        position = 0
        for start, stop in self:
            if start >= size:
                break
            if position < start:
                missing.append((position, start))
            position = stop
        if position < size:
            missing.append((position, size))
        return missing


def pieces(gaps: Iterable[tuple[int, int]], length: int) -> list[tuple[int, int]]:
    """``gaps`` cut into ranges of at most ``length`` bytes, in order."""
    return [
        (position, min(position + length, stop))
        for start, stop in gaps
        for position in range(start, stop, length)
    ]


@dataclass(frozen=True, slots=True)
class ContentRange:
    """``bytes 0-9/100`` is ``(0, 10, 100)``; ``*`` in the place of a number is None."""

    start: int | None
    stop: int | None
    total: int | None


def parse_content_range(value: str | None) -> ContentRange | None:
    """The header's value, or None when it is missing or makes no sense."""
    found = None if value is None else _CONTENT_RANGE.fullmatch(value.strip())
    if found is None:
        return None
    first, last, length = found.groups()
    total = None if length == "*" else int(length)
    if first is None:
        return None if total is None else ContentRange(None, None, total)
    start, stop = int(first), int(last) + 1
    if start >= stop or (total is not None and stop > total):
        return None
    return ContentRange(start, stop, total)


def parse_length(value: str | None) -> int | None:
    """``Content-Length``, or None when it is missing or makes no sense."""
    if value is None or not re.fullmatch(r"[0-9]{1,18}", value.strip()):
        return None
    return int(value)


def range_header(start: int, stop: int | None) -> str | None:
    """The ``Range`` header for ``[start, stop)``; None when that is the whole file."""
    if stop is not None:
        return f"bytes={start}-{stop - 1}"
    return f"bytes={start}-" if start else None
