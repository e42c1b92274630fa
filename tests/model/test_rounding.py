"""Which types can tell an integer beyond 64 bits from the float nearest to it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime  # resolved by pydantic
from decimal import Decimal
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, RootModel, field_validator
from typing_extensions import TypedDict

from thalamus_lite.errors import ValidationFailed
from thalamus_lite.http.codec import decode, decode_rounded
from thalamus_lite.model.records import RecordType


class Vector(BaseModel):
    """Names and metadata that look like parts of a schema."""

    values: list[float]
    type: str = Field("", json_schema_extra={"type": "integer"})
    fields: dict[str, float] = {"type": 1}


class Tree(BaseModel):
    children: list[Tree] = []
    value: float | None = None


class Row(TypedDict):
    value: float


@dataclass
class Point:
    x: float
    name: str = ""


class Root(RootModel[list[float]]):
    pass


class Whole(BaseModel):
    metadata: int


class Nested(BaseModel):
    inner: list[Whole]


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")

    value: float


class Around(BaseModel):
    inner: Open


class Spelled(BaseModel):
    model_config = ConfigDict(coerce_numbers_to_str=True)

    text: str


class Looking(BaseModel):
    value: float

    @field_validator("value", mode="before")
    @classmethod
    def look(cls, value: Any) -> Any:
        return 1.0 if isinstance(value, int) else 2.0


class Making(BaseModel):
    value: float

    def __init__(self, **given: Any) -> None:
        super().__init__(value=1.0 if isinstance(given["value"], int) else 2.0)


BLIND = (float, str, bool, dict[str, float], Vector, Tree, Row, Point, Root)
TELLING = (
    *(int, dict, Any, float | int, dict[int, str], dict[str, Any], Decimal, datetime, bytes),
    *(Literal["a"], Whole, Nested, Open, Around, Spelled, Looking, Making),
)


def tells(kind: Any) -> bool:
    return RecordType(kind, "m", "input").tells_rounded_integers


@pytest.mark.parametrize("kind", BLIND)
def test_floats_and_texts_alone_cannot_tell(kind: Any) -> None:
    assert not tells(kind)


@pytest.mark.parametrize("kind", TELLING)
def test_whatever_could_keep_or_show_an_integer_can_tell(kind: Any) -> None:
    assert tells(kind)


_NUMBERS = st.integers(-(10**40), 10**40) | st.floats(-1e30, 1e30)
_SHAPES = st.recursive(
    _NUMBERS | st.text(max_size=3) | st.none() | st.booleans(),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["value", "values", "x", "name", "children", "type", "fields"]),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=8,
)


@given(kind=st.sampled_from(BLIND), value=_SHAPES)
def test_who_cannot_tell_makes_the_same_of_both(kind: Any, value: Any) -> None:
    body = json.dumps([value]).encode()
    record = RecordType(kind, "m", "input")

    def read(values: list[Any]) -> Any:
        try:
            return record.validate(values)
        except ValidationFailed as error:
            return [(one["loc"], one["type"]) for one in error.details]

    assert read(decode(body)) == read(decode_rounded(body))
