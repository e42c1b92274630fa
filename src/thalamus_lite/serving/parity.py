"""Whether two outputs are the same, numbers within a tolerance.

A batch and a single run may take other kernels and so another order of sums; 1e-3 relative and 1e-5
absolute are what torch's own tests allow half precision.
"""

from __future__ import annotations

import cmath
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from numbers import Number
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel
from pydantic_core import from_json

if TYPE_CHECKING:
    from thalamus_lite.model.records import RecordType

RELATIVE = 1e-3
ABSOLUTE = 1e-5


class Sample(NamedTuple):
    """An output as it is sent, and the plain values that its serializer makes for Python: in JSON
    a Decimal is text, and a set a list in any order.
    """

    written: bytes
    plain: Any


def sample(kind: RecordType, output: Any) -> Sample:
    """
    Raises:
        ModelError: the output could not be sent.
    """
    written = kind.dump_one(output)
    try:
        return Sample(written, _plain(kind, output))
    except Exception:
        # Some can be written in JSON only, a set of models for one. This is like nothing else.
        return Sample(written, object())


def difference(one: Sample, other: Sample) -> str | None:
    """What differs, as a few words that name the place; None where one of the forms is the same."""
    if differing(one.plain, other.plain) is None:
        return None
    return differing(from_json(one.written), from_json(other.written))


def differing(one: Any, other: Any, where: str = "output") -> str | None:
    """The same for plain values."""
    one, other = _listed(one), _listed(other)
    if _same(one, other):
        return None
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        if one.keys() != other.keys():
            return f"{where}: other fields"
        return _first(differing(one[key], other[key], f"{where}.{key}") for key in one)
    if _is_list(one) and _is_list(other):
        if len(one) != len(other):
            return f"{where}: {len(one)} items alone, {len(other)} in a batch"
        return _first(
            differing(left, right, f"{where}[{index}]")
            for index, (left, right) in enumerate(zip(one, other, strict=True))
        )
    if isinstance(one, Set) and isinstance(other, Set):
        with suppress(TypeError):
            return differing(sorted(one), sorted(other), where)
    return f"{where}: {one!r:.40} alone, {other!r:.40} in a batch"


def _plain(kind: RecordType, output: Any) -> Any:
    if isinstance(output, BaseModel):
        return output.__pydantic_serializer__.to_python(output, warnings=False)
    output = kind.one.validator.validate_python(output)
    return kind.one.serializer.to_python(output, warnings=False)


def _listed(value: Any) -> Any:
    # Arrays and tensors of any library, without importing one.
    to_list = getattr(value, "tolist", None)
    return to_list() if callable(to_list) else value


def _same(one: Any, other: Any) -> bool:
    try:
        if one == other:
            return True
        if _is_number(one) and _is_number(other):
            both_nan = one != one and other != other
            return both_nan or cmath.isclose(one, other, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    except Exception:
        # Too large for a float, or nothing that can be compared as a whole.
        return False
    return False


def _is_number(value: Any) -> bool:
    return isinstance(value, Number) and not isinstance(value, bool)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _first(found: Any) -> str | None:
    return next((item for item in found if item is not None), None)
