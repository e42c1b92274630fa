"""What an ``Accept`` header asks for (RFC 9110, section 12.5.1)."""

from __future__ import annotations

import re

_QUALITY = re.compile(rb"\s*q\s*=\s*(0(?:\.[0-9]*)?|1(?:\.0*)?)\s*")


def media_ranges(accept: bytes) -> dict[bytes, float]:
    """``b"text/html, */*;q=0.1"`` is ``{b"text/html": 1.0, b"*/*": 0.1}``; 0 means not at all."""
    found: dict[bytes, float] = {}
    for part in accept.lower().split(b","):
        name, *parameters = part.split(b";")
        quality = 1.0
        for parameter in parameters:
            match = _QUALITY.fullmatch(parameter)
            if match is not None:
                quality = float(match[1])
        name = name.strip()
        found[name] = max(quality, found.get(name, 0.0))
    return found


def takes(accept: bytes, kind: bytes) -> bool:
    return _quality(media_ranges(accept), kind) > 0


def prefers(accept: bytes, named: bytes, other: bytes) -> bool:
    """Whether ``named`` is asked for by its own name, and ``other`` is not wanted more."""
    ranges = media_ranges(accept)
    quality = ranges.get(named, 0.0)
    return quality > 0 and quality >= _quality(ranges, other)


def _quality(ranges: dict[bytes, float], kind: bytes) -> float:
    """By the most specific of the ranges that the media type is in."""
    for name in (kind, kind.partition(b"/")[0] + b"/*", b"*/*"):
        if name in ranges:
            return ranges[name]
    return 0.0
