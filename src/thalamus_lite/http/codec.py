"""JSON in and out; the only importer of orjson.

orjson reads an integer beyond 64 bits as a float and so rounds it. A body that holds such an
integer is therefore read a second time by the standard library, which keeps it exact. Readers who
know that it does not matter to them use `decode_rounded` (docs/adr/0015).
"""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

from thalamus_lite.errors import InvalidJSON

# 2**63 has 19 digits: shorter integers always fit. Digits become 0 and points stay, so that a long
# run which does not follow a point is one that bytes.find can look for.
_RUN = b"0" * 19
_AFTER_NO_POINT = b" " + _RUN
_SHAPE = bytes(48 if 48 <= byte <= 57 else 46 if byte == 46 else 32 for byte in range(256))
_LONG_INTEGER = re.compile(rb"(?<![0-9.])[0-9]{19,}+(?![.eE])")


def decode(body: bytes | bytearray) -> Any:
    """The value of a JSON document.

    Raises:
        InvalidJSON: not JSON, not UTF-8, too deep, a number that is not finite, or an integer so
            long that it cannot be kept exact.
    """
    value = decode_rounded(body)
    return _decode_exact(body) if has_long_integer(body) else value


def decode_rounded(body: bytes | bytearray) -> Any:
    """The same, with floats in place of the integers that `has_long_integer` is about."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise InvalidJSON from None


def has_long_integer(body: bytes | bytearray) -> bool:
    """Whether an integer in ``body`` may be beyond 64 bits; a text of digits looks like one."""
    shape = body.translate(_SHAPE)
    if _RUN not in shape:
        return False
    # Runs after a point are common, and the regular expression is slow.
    if _AFTER_NO_POINT in shape or shape.startswith(_RUN):
        return _LONG_INTEGER.search(body) is not None
    return False


def _decode_exact(body: bytes | bytearray) -> Any:
    try:
        return json.loads(body)
    # ValueError: beyond the interpreter's limit of 4300 digits. RecursionError: orjson allows 1024
    # levels, the standard library as many as the stack has left.
    except (ValueError, RecursionError):
        raise InvalidJSON from None


def encode(value: Any) -> bytes:
    """Compact UTF-8 JSON of plain values; integers of any size stay exact."""
    try:
        return orjson.dumps(value)
    except TypeError:
        # Integers over 64 bits and lone surrogates, which orjson refuses.
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
