"""Examples are shown as clients can send them."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Annotated, Any

import pytest
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    computed_field,
    model_validator,
)

from thalamus_lite import Thalamus


def shown(kind: Any, *examples: Any) -> Any:
    """The examples in ``/schema``, each of which is read as the same input again."""
    app = Thalamus()

    @app.model(model_id="m", input_type=kind, output_type=int, examples=examples)
    class Model:
        def predict(self, inputs: list[Any]) -> list[int]:
            return [0 for _ in inputs]

    spec = app.models[0]
    found = spec.schema.get("examples")
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    if found is not None:
        spec.inputs.validate(copy.deepcopy(found))
    return found


class Aliased(BaseModel):
    max_len: int = Field(default=5, alias="maxLen")


class Choice(BaseModel):
    value: int = Field(validation_alias=AliasChoices("A", "aa"))


class Apart(BaseModel):
    value: int = Field(default=5, validation_alias="in", serialization_alias="out")


class ByName(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    value: int = Field(default=5, validation_alias="in", serialization_alias="out")


class Deep(BaseModel):
    value: int = Field(validation_alias=AliasPath("a", 0))
    part: Aliased = Aliased()


class Rich(BaseModel):
    model_config = ConfigDict(extra="forbid")
    day: date
    price: Decimal = Field(default=Decimal(1), validation_alias=AliasChoices("cost", "price"))
    tags: set[str] = set()

    @computed_field  # type: ignore[prop-decorator]
    @property
    def year(self) -> int:
        return self.day.year


@dataclass
class Point:
    x: float
    day: date = date(2024, 1, 1)


@pytest.mark.parametrize(
    ("kind", "example"),
    [
        (Aliased, {"maxLen": 7}),
        (Aliased, {}),
        (Choice, {"A": 7}),
        (Choice, {"aa": 7}),
        (Apart, {"in": 7}),
        (ByName, {"in": 7}),
        (ByName, {"value": 7}),
        (Deep, {"a": [7], "part": {"maxLen": 8}}),
        (Rich, {"day": "2024-02-29", "cost": "1.50", "tags": ["a"]}),
        (Point, {"x": 1.5}),
        (int, 7),
        (int | None, None),
        (list[float], [1.0, 2.0]),
    ],
    ids=str,
)
def test_example_that_is_json_is_shown_as_it_was_declared(kind: Any, example: Any) -> None:
    assert shown(kind, example) == [example]


@pytest.mark.parametrize(
    ("kind", "example", "sent"),
    [
        (Aliased, Aliased(maxLen=7), {"maxLen": 7}),
        (ByName, ByName(value=7), {"value": 7}),
        (list[Aliased], [Aliased(maxLen=7)], [{"maxLen": 7}]),
        (dict[str, Aliased], {"a": Aliased(maxLen=7)}, {"a": {"maxLen": 7}}),
        (Rich, {"day": date(2024, 2, 29), "cost": Decimal("1.50")},
         {"day": "2024-02-29", "cost": "1.50"}),
        (Rich, Rich(day=date(2024, 2, 29), price=Decimal("1.50"), tags={"a"}),
         {"day": "2024-02-29", "price": "1.50", "tags": ["a"]}),
        (Point, Point(1.5), {"x": 1.5, "day": "2024-01-01"}),
        (tuple[date, bytes], (date(2024, 2, 29), b"x"), ["2024-02-29", "x"]),
    ],
    ids=str,
)  # fmt: skip
def test_other_example_is_shown_as_json_that_is_read_as_the_same(
    kind: Any, example: Any, sent: Any
) -> None:
    assert shown(kind, example) == [sent]


class Raw(BaseModel):
    value: bytes


class Number(BaseModel):
    value: float | None = None
    many: list[float | None] = []


@pytest.mark.parametrize(
    ("kind", "example"),
    [
        (Raw, {"value": b"\xff\xfe"}),
        (Number, {"value": math.inf}),
        (Number, {"many": [math.nan]}),
        (Number, Number(many=[math.nan])),
        (Apart, Apart(**{"in": 7})),
        (Deep, Deep(a=[7])),
    ],
    ids=str,
)  # fmt: skip
def test_example_that_no_json_is_read_as_is_left_out(kind: Any, example: Any) -> None:
    assert shown(kind, example) is None


def test_examples_beside_one_that_is_left_out_are_shown() -> None:
    assert shown(Number, {"value": math.nan}, {"value": 1.0}) == [{"value": 1.0}]


class Opaque:
    pass


def test_type_that_cannot_be_written_shows_its_examples() -> None:
    kind = Annotated[Any, BeforeValidator(lambda value: Opaque())]
    assert shown(kind, {"x": 1}) == [{"x": 1}]
    assert shown(kind, Opaque()) is None


def test_secret_is_shown_as_its_type_writes_it() -> None:
    class Login(BaseModel):
        name: str
        word: SecretStr

    for example in ({"name": "a", "word": "hunter2"}, Login(name="a", word=SecretStr("hunter2"))):
        assert shown(Login, example) == [{"name": "a", "word": "**********"}]


def test_example_is_shown_as_it_was_before_a_validator_changed_it() -> None:
    class Taken(BaseModel):
        x: int = 0

        @model_validator(mode="before")
        @classmethod
        def _take(cls, value: dict[str, Any]) -> dict[str, Any]:
            return {"x": value.pop("old")} if "old" in value else value

    assert shown(Taken, {"old": 7}) == [{"old": 7}]


class Ring(BaseModel):
    model_config = ConfigDict(extra="allow")
    others: list[Any] = []

    @model_validator(mode="after")
    def _close(self) -> Ring:
        self.others.append(self)
        return self


def test_input_that_holds_itself_shows_what_was_declared() -> None:
    assert shown(Ring, {"x": 1}) == [{"x": 1}]
    assert shown(Ring, Ring()) is None
