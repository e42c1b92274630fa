"""Floats that are not finite, for which JSON has no word.

pydantic writes one as ``null`` unless the type's config says ``ser_json_inf_nan``.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

INF_NAN = "ser_json_inf_nan"


def config_of(kind: Any) -> Mapping[str, Any]:
    found = getattr(kind, "model_config", None) or getattr(kind, "__pydantic_config__", None)
    return found if isinstance(found, Mapping) else {}


def hides(value: Any, allowed: bool) -> bool:
    """Whether a non-finite float is in a place whose type does not say how to write it."""
    if isinstance(value, float):
        return not allowed and not math.isfinite(value)
    if isinstance(value, dict):
        return any(hides(item, allowed) for item in value.values())
    if isinstance(value, list | tuple | set | frozenset | deque):
        return any(hides(item, allowed) for item in value)
    if isinstance(value, BaseModel):
        # A model's config is its own: it neither inherits its container's nor hands it down.
        return any(hides(item, INF_NAN in value.model_config) for _, item in value)
    if dataclasses.is_dataclass(value):
        own = config_of(type(value))
        inside = INF_NAN in own if own else allowed
        return any(hides(getattr(value, f.name), inside) for f in dataclasses.fields(value))
    # An array or tensor, where its serializer is for JSON only.
    return hasattr(value, "tolist") and hides(value.tolist(), allowed)
