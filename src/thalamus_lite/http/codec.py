"""JSON in and out; the only importer of orjson.

orjson reads an integer beyond 64 bits as a float and so rounds it. A body that holds a run of 19
digits or more outside a fraction is therefore read a second time by the standard library, which
keeps it exact.
"""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

from thalamus_lite.errors import InvalidJSON

# 2**63 has 19 digits: shorter integers always fit.
_LONG = b"0" * 19
_DIGITS = bytes(48 if 48 <= byte <= 57 else 32 for byte in range(256))
_LONG_RUN = re.compile(rb"0{19,}")


def decode(body: bytes | bytearray) -> Any:
    """The value of a JSON document.

    Raises:
        InvalidJSON: not JSON, not UTF-8, too deep, a number that is not finite, or an integer so
            long that it cannot be kept exact.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise InvalidJSON from None
    digits = body.translate(_DIGITS)
    if _LONG in digits and _has_long_integer(body, digits):
        return _decode_exact(body)
    return value


def _has_long_integer(body: bytes | bytearray, digits: bytes | bytearray) -> bool:
    for run in _LONG_RUN.finditer(digits):
        before = body[run.start() - 1 : run.start()]
        after = body[run.end() : run.end() + 1]
        if before != b"." and after not in (b".", b"e", b"E"):
            return True
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
