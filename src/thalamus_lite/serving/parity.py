"""Whether two outputs are the same, floats within a tolerance.

A batch and a single run may take other kernels and so another order of sums; 1e-3 relative and 1e-5
absolute are what torch's own tests allow half precision.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from typing import Any

from pydantic import BaseModel

RELATIVE = 1e-3
ABSOLUTE = 1e-5


def difference(one: Any, other: Any, where: str = "output") -> str | None:
    """What differs, as a few words that name the place; None when nothing does."""
    one, other = _plain(one), _plain(other)
    if _is_number(one) and _is_number(other):
        same = one == other or math.isclose(one, other, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
        both_nan = one != one and other != other
        return None if same or both_nan else f"{where}: {one!r:.40} alone, {other!r:.40} in a batch"
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        if one.keys() != other.keys():
            return f"{where}: other fields"
        return _first(difference(one[key], other[key], f"{where}.{key}") for key in one)
    if _is_list(one) and _is_list(other):
        if len(one) != len(other):
            return f"{where}: {len(one)} items alone, {len(other)} in a batch"
        return _first(
            difference(left, right, f"{where}[{index}]")
            for index, (left, right) in enumerate(zip(one, other, strict=True))
        )
    return None if one == other else f"{where}: {one!r:.40} alone, {other!r:.40} in a batch"


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return dict(value)
    # Arrays and tensors of any library, without importing one.
    to_list = getattr(value, "tolist", None)
    return to_list() if callable(to_list) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | Set)


def _first(found: Any) -> str | None:
    return next((item for item in found if item is not None), None)
