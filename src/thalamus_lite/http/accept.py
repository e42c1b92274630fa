"""What an ``Accept`` header lets through (RFC 9110, section 12.5.1)."""

from __future__ import annotations

import re

_NOT_AT_ALL = re.compile(rb"\s*q\s*=\s*0(\.0*)?\s*")


def media_ranges(accept: bytes) -> set[bytes]:
    """``b"text/html, */*;q=0.1"`` is ``{b"text/html", b"*/*"}``; a quality of 0 leaves one out."""
    found: set[bytes] = set()
    for part in accept.lower().split(b","):
        kind, *parameters = part.split(b";")
        if not any(map(_NOT_AT_ALL.fullmatch, parameters)):
            found.add(kind.strip())
    return found
