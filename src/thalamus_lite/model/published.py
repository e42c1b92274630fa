"""What ``/schema`` and ``/openapi.json`` show of a record type, as JSON that can always be sent.

A type's own words for its schema may be anything, and one type must not take the others' schemas
along.
"""

from __future__ import annotations

import logging
import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import to_jsonable_python

from thalamus_lite.model.finite import hides

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import TypeAdapter

_log = logging.getLogger("thalamus_lite")

_EXTRA = "pydantic_js_extra"
_NOTHING = object()


def json_schema(
    adapter: TypeAdapter[Any],
    mode: Literal["validation", "serialization"],
    owner: str,
) -> dict[str, Any] | None:
    """None for a type that JSON Schema has no words for, or whose own words fail."""
    try:
        made: dict[str, Any] = _plain(
            adapter.json_schema(
                mode=mode, by_alias=mode == "validation", schema_generator=_Generator
            )
        )
    except PydanticInvalidForJsonSchema:
        return None
    except Exception:
        # Code of the user's own may raise anything.
        _log.warning(
            "the JSON Schema of a type of %s cannot be made",
            owner,
            exc_info=True,
            extra={"model": owner},
        )
        return None
    return made


class _Generator(GenerateJsonSchema):
    """Inputs go by their aliases; outputs by their names, unless a config says so: pydantic's
    serializer asks the config of each model and dataclass, and for a TypedDict that of what is
    around it; its own generator knows one rule for all.
    """

    def generate_inner(self, schema: Any) -> dict[str, Any]:
        metadata = schema.get("metadata") or {}
        # pydantic fails on what it cannot write.
        if isinstance(metadata.get(_EXTRA), dict):
            schema = {**schema, "metadata": {**metadata, _EXTRA: _plain(metadata[_EXTRA])}}
        return super().generate_inner(schema)

    def model_schema(self, schema: Any) -> dict[str, Any]:
        with self._named_by(schema):
            return super().model_schema(schema)

    def dataclass_schema(self, schema: Any) -> dict[str, Any]:
        with self._named_by(schema):
            return super().dataclass_schema(schema)

    @contextmanager
    def _named_by(self, schema: Any) -> Iterator[None]:
        before = self.by_alias
        if self.mode == "serialization":
            self.by_alias = bool((schema.get("config") or {}).get("serialize_by_alias"))
        try:
            yield
        finally:
            self.by_alias = before

    def default_schema(self, schema: Any) -> dict[str, Any]:
        if hides(schema.get("default"), False):
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)


def _plain(node: Any) -> Any:
    """The same as JSON. What JSON has no word for is nothing, and so is a list that holds it."""
    if isinstance(node, dict):
        items = {str(key): _plain(value) for key, value in node.items()}
        return {key: value for key, value in items.items() if value is not _NOTHING}
    if isinstance(node, list | tuple | set | frozenset):
        parts = [_plain(item) for item in node]
        return _NOTHING if any(part is _NOTHING for part in parts) else parts
    if isinstance(node, float):
        return float(node) if math.isfinite(node) else _NOTHING
    if node is None or type(node) in (bool, int, str):
        return node
    try:
        return _plain(to_jsonable_python(node, fallback=_foreign))
    except RecursionError:
        raise
    except Exception:
        return _NOTHING


def _foreign(value: Any) -> Any:
    # Arrays of numpy and torch, and their numbers.
    return value.tolist() if hasattr(value, "tolist") else str(value)
