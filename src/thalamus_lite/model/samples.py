"""A model's examples as clients can send them, for ``/schema``.

What is JSON already is shown as it was declared. Anything else, instances above all, is shown in
the first form that is read as the same input again: a type may read by other names than it writes.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Secret, SecretBytes, SecretStr, ValidationError
from pydantic_core import to_jsonable_python

from thalamus_lite.errors import ValidationFailed
from thalamus_lite.model.finite import INF_NAN, config_of, hides
from thalamus_lite.model.records import details

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from thalamus_lite.model.records import RecordType


def read_examples(
    examples: Sequence[Any] | None, inputs: RecordType, model_id: str
) -> tuple[tuple[Any, ...] | None, tuple[Any, ...]]:
    """A model's examples as it is given them, and as ``/schema`` shows them.

    Raises:
        ValueError: there are none, or one does not fit.
    """
    if examples is None:
        return None, ()
    if not isinstance(examples, list | tuple):
        raise ValueError(f"{model_id}: examples must be a list of sample inputs")
    valid: list[Any] = []
    samples: list[Sample] = []
    for number, example in enumerate(examples):
        # Before it is read: a validator may change it.
        samples.append(Sample(example))
        try:
            valid.append(_read_example(example, inputs))
        except ValidationFailed as error:
            first = error.details[0]
            place = ["examples", number, *first["loc"][2:]]
            raise ValueError(
                f"{model_id}: {place} does not fit the input type: {first['msg']}"
            ) from None
    if not valid:
        raise ValueError(f"{model_id}: examples is empty: leave it out, or give at least one")
    shown = [sample.shown(inputs, one) for sample, one in zip(samples, valid, strict=True)]
    return tuple(valid), tuple(one for some in shown for one in some)


def _read_example(example: Any, inputs: RecordType) -> Any:
    """As it would be in a request; where that cannot be, such as a date in a dict, as in Python."""
    refused: ValidationFailed | None = None
    if inputs.kind not in type(example).__mro__:
        try:
            return inputs.validate([example])[0]
        except ValidationFailed as error:
            refused = error
    try:
        return inputs.one.validate_python(example)
    except ValidationError as error:
        # Of what JSON cannot carry at all, the other way says that it is nested too deeply.
        if refused is None or refused.details[0]["type"] == "recursion":
            refused = ValidationFailed(details(error, ("inputs", "0")))
        raise refused from None


class Sample:
    def __init__(self, example: Any) -> None:
        self._example = example
        self._json: list[Any] = []
        with suppress(TypeError, ValueError, RecursionError):
            # A copy, since validators may change what they are given.
            self._json = [json.loads(json.dumps(example, allow_nan=False))]

    def shown(self, inputs: RecordType, valid: Any) -> list[Any]:
        """The example, or nothing where no JSON is read as ``valid``, which it is in Python."""
        secret = _holds_a_secret(valid)
        if self._json and not secret:
            return self._json
        forms: list[Any] = []
        # Code of the user's own may raise anything, here and below.
        with suppress(Exception):
            if not secret:
                forms.append(to_jsonable_python(self._example, by_alias=True, round_trip=True))
        with suppress(Exception):
            if hides(valid, INF_NAN in config_of(inputs.kind)):
                return []
            for by_alias in (True, False):
                forms.append(_dumped(inputs, valid, by_alias=by_alias, round_trip=True))
        for sent in forms:
            with suppress(Exception):
                (read,) = inputs.validate([copy.deepcopy(sent)])
                if _dumped(inputs, read) == _dumped(inputs, valid) and not hides(sent, False):
                    return [sent]
        return []


def _dumped(inputs: RecordType, value: Any, **options: Any) -> Any:
    return inputs.one.dump_python(value, mode="json", warnings=False, **options)


def _holds_a_secret(value: Any) -> bool:
    stack, seen = [value], set()
    while stack:
        one = stack.pop()
        if isinstance(one, Secret | SecretBytes | SecretStr):
            return True
        # A validator may make rings.
        if id(one) not in seen:
            seen.add(id(one))
            stack.extend(_parts(one))
    return False


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, list | tuple | set | frozenset):
        return value
    if isinstance(value, BaseModel):
        return [part for _, part in value]
    if dataclasses.is_dataclass(value):
        return [getattr(value, field.name, None) for field in dataclasses.fields(value)]
    return ()
