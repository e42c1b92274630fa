"""One record in, one record out: pydantic's validators and serializers, built once a model.

Inputs are validated in Python mode on what orjson read. A type that is strict anywhere is
validated in JSON mode instead, since strict Python mode would refuse the strings and lists in
which JSON carries dates, enums and sets.

pydantic writes a non-finite float as ``null`` unless the type's config says ``ser_json_inf_nan``.
That would hide a model's NaN from its user, so an output with a ``null`` in its JSON is looked at
again.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.errors import (
    PydanticUndefinedAnnotation,
    PydanticUserError,
)
from pydantic_core import PydanticSerializationError, to_json

from thalamus_lite.errors import ModelError, ValidationFailed
from thalamus_lite.model.finite import INF_NAN, config_of, hides
from thalamus_lite.model.published import json_schema

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pydantic_core import SchemaSerializer

MAX_DETAILS = 50
MAX_MESSAGE = 300
MAX_LOC = 32
MOST_FINDINGS = 20_000
"""pydantic lists all it found or nothing: beyond this number the list alone would cost seconds."""

# Validators that make the same of an integer and of the float nearest to it.
_BLIND_TO_ROUNDING = frozenset(
    {
        *("bool", "float", "none", "str"),
        *("default", "dict", "list", "nullable"),
        *("dataclass", "dataclass-args", "dataclass-field", "definition-ref", "definitions"),
        *("model", "model-field", "model-fields", "typed-dict", "typed-dict-field"),
    }
)


# Parts of a core schema that are no schemas: dicts of them, and values of any kind.
_NAMED = frozenset({"choices", "fields"})
_OPAQUE = frozenset({"default", "expected", "members", "metadata"})


class RecordType:
    """A pydantic type of one record. ``owner`` names the model in errors.

    Raises:
        TypeError: pydantic cannot read the type, or it is one of pydantic 1.
    """

    def __init__(self, kind: Any, owner: str, side: str) -> None:
        self.kind = kind
        self._owner = owner
        self._side = side
        if _is_of_pydantic_1(kind):
            raise TypeError(
                f"{owner}: the {side} type {kind.__name__} is a pydantic.v1 model: derive it from"
                " pydantic.BaseModel"
            )
        self._is_model = isinstance(kind, type) and issubclass(kind, BaseModel)
        self._is_dataclass = isinstance(kind, type) and dataclasses.is_dataclass(kind)
        if not self._is_model:
            try:
                if isinstance(kind, str):
                    raise TypeError(kind)
                TypeAdapter(kind)
            except Exception as error:
                # Of what is no type at all, pydantic may say anything.
                if getattr(error, "code", None) == "typed-dict-version":
                    raise TypeError(
                        f"{owner}: the {side} type {kind!r} is or holds a typing.TypedDict: before"
                        " Python 3.12, use typing_extensions.TypedDict"
                    ) from error
                raise TypeError(
                    f"{owner}: pydantic cannot read the {side} type {kind!r}: use a BaseModel, a"
                    f" dataclass, a TypedDict or a plain type, or pass {side}_type="
                ) from error

    def prepare(self) -> None:
        """Build now what the first request would have to wait for.

        Raises:
            TypeError: a name in the type's annotations means nothing to this day.
        """
        try:
            for adapter in (self.many, self.one):
                adapter.rebuild()
            _ = self.tells_rounded_integers
        except (PydanticUserError, PydanticUndefinedAnnotation) as error:
            raise TypeError(
                f"{self._owner}: the {self._side} type {self.kind!r} is not complete: a name in its"
                " annotations is not defined"
            ) from error

    @cached_property
    def one(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.kind)

    @cached_property
    def many(self) -> TypeAdapter[list[Any]]:
        return TypeAdapter(list[self.kind])  # type: ignore[name-defined]

    @cached_property
    def tells_rounded_integers(self) -> bool:
        """Whether it can matter that an integer beyond 64 bits was read as a float.

        Only where every value is of a type that is a float, or refused, either way; unknown fields
        that are kept, and code of the user's own, may see any value.
        """
        schema = self.many.core_schema
        return (
            not _BLIND_TO_ROUNDING.issuperset(_values(schema, "type"))
            or "allow" in _values(schema, "extra_behavior")
            or "allow" in _values(schema, "extra_fields_behavior")
            or True in _values(schema, "custom_init")
            or True in _values(schema, "coerce_numbers_to_str")
        )

    @cached_property
    def _strict(self) -> bool:
        return any(value is True for value in _values(self.many.core_schema, "strict"))

    @cached_property
    def _speaks_of_non_finite(self) -> bool:
        """Whether this type, or one inside it, says how a non-finite float is to be written."""
        return any(True for _ in _values(self.one.core_schema, INF_NAN))

    def json_schema(self, mode: Literal["validation", "serialization"]) -> dict[str, Any]:
        """An empty schema, which allows anything, for a type that JSON Schema has no words for."""
        made = json_schema(self.one, mode, self._owner)
        return {"description": f"{self.kind!r} has no JSON Schema"} if made is None else made

    def validate(self, values: list[Any]) -> list[Any]:
        """
        Raises:
            ValidationFailed: at least one record does not fit; ``details`` say which and why.
            ModelError: the type's own validator failed in another way than pydantic's.
        """
        try:
            if self._strict:
                return self.many.validate_json(to_json(values))
            return self.many.validator.validate_python(values)  # type: ignore[no-any-return]
        except ValidationError as error:
            raise ValidationFailed(details(error, ("inputs",))) from None
        except PydanticSerializationError:
            # What orjson has read can fail here in one way only.
            raise ValidationFailed([_detail("inputs", "Nested too deeply", "recursion")]) from None
        except UnicodeEncodeError:
            # A validator's own one would be a ValidationError by now: this is the text of a
            # refusal, with lone surrogates in it.
            raise ValidationFailed([_unspoken("inputs")]) from None
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            # Nothing is awaited in there, so not even a cancellation is ours.
            raise ModelError(
                f"an input validator of {self._owner} raised {type(error).__name__}"
            ) from error

    def dump(self, outputs: Sequence[Any]) -> bytes:
        """The outputs as the inside of a JSON array.

        Raises:
            ModelError: one is not of the output type, or not finite, or cannot be serialised.
        """
        if len(outputs) == 1:
            return self.dump_one(outputs[0])
        return b",".join([self.dump_one(output) for output in outputs])

    def dump_one(self, output: Any) -> bytes:
        try:
            if self._is_model and isinstance(output, self.kind):
                serializer = output.__pydantic_serializer__
            else:
                serializer = self.one.serializer
                output = self.one.validator.validate_python(output)
                if self._is_dataclass and type(output) is not self.kind:
                    serializer = _serializer(type(output)) or serializer  # type: ignore[arg-type]
            written: bytes = serializer.to_json(output, warnings=False)
            # Not `in`, which looks for a number first.
            if written.find(b"null") >= 0:
                if self._speaks_of_non_finite:
                    hidden = hides(output, INF_NAN in config_of(self.kind))
                else:
                    hidden = hides(serializer.to_python(output, warnings=False), False)
                if hidden:
                    raise ModelError(f"an output of {self._owner} holds a float that is not finite")
        except ModelError:
            raise
        except ValidationError as error:
            first = details(error, ())[0]
            raise ModelError(
                f"an output of {self._owner} does not fit the output type: {first['type']} at"
                f" {first['loc']}"
            ) from None
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise ModelError(
                f"an output of {self._owner} cannot be serialised: {type(error).__name__}"
            ) from error
        return written


def details(error: ValidationError, prefix: tuple[str, ...]) -> list[dict[str, Any]]:
    """pydantic's findings as plain JSON, bounded in number and length."""
    count = error.error_count()
    if count > MOST_FINDINGS:
        return [_detail(*prefix, f"{count} errors, too many to list", "too_many_errors")]
    try:
        found = error.errors(include_url=False, include_context=False, include_input=False)
    except Exception:
        # The text of a custom error is put together here, and that may fail in its turn.
        return [_unspoken(*prefix)]
    return [
        {
            "loc": [
                *prefix,
                *(part if isinstance(part, int) else _printable(part) for part in item["loc"]),
            ][:MAX_LOC],
            "msg": _printable(item["msg"]),
            "type": _printable(item["type"]),
        }
        for item in found[:MAX_DETAILS]
    ]


@lru_cache
def _serializer(kind: type) -> SchemaSerializer | None:
    """That of a dataclass; None where it has fields that pydantic knows nothing of."""
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
        adapter.rebuild()
    except (PydanticUserError, PydanticUndefinedAnnotation):
        return None
    return adapter.serializer


def _is_of_pydantic_1(kind: Any) -> bool:
    # By name: importing pydantic.v1 is slow, and fails on newer Pythons.
    return isinstance(kind, type) and any(
        base.__module__ == "pydantic.v1.main" for base in kind.__mro__
    )


def _detail(*words: str) -> dict[str, Any]:
    *loc, msg, kind = words
    return {"loc": loc, "msg": msg, "type": kind}


def _unspoken(*loc: str) -> dict[str, Any]:
    return _detail(*loc, "Not valid, and the validator cannot say why", "value_error")


def _printable(text: object) -> str:
    plain = str(text)
    if len(plain) > MAX_MESSAGE:
        plain = plain[: MAX_MESSAGE - 1] + "…"
    # A user's validator may say anything, lone surrogates included, which UTF-8 cannot carry.
    return plain.encode("utf-8", "replace").decode("utf-8")


def _values(schema: Any, key: str) -> Iterator[Any]:
    """What a core schema says under ``key``, anywhere; definitions are part of the same tree."""
    stack = [schema]
    seen: set[int] = set()
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, dict):
            if key in node:
                yield node[key]
            for name, inner in node.items():
                if name in _NAMED and isinstance(inner, dict):
                    # Its keys are names of the user's.
                    stack.extend(inner.values())
                elif name not in _OPAQUE:
                    stack.append(inner)
        elif isinstance(node, list | tuple):
            stack.extend(node)
