"""What `/schema` shows of a type: JSON whatever the type holds, and true of what is written."""

from __future__ import annotations

import dataclasses
import json
import math
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from thalamus_lite.model.records import RecordType

if TYPE_CHECKING:
    from collections.abc import Callable


def described(kind: Any, mode: Any = "validation") -> dict[str, Any]:
    """The schema, which JSON can carry as it is."""
    found = RecordType(kind, "m", "input").json_schema(mode)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    return found


class Foreign:
    """What pydantic knows no JSON for."""

    def __str__(self) -> str:
        return "foreign"


class Array:
    def tolist(self) -> list[float]:
        return [0.5, 1.0]


class Mute:
    def __str__(self) -> str:
        raise RuntimeError


class Level(Enum):
    LOW = 0.5
    ENDLESS = math.inf


EXTRAS: list[tuple[Any, Any]] = [
    (Decimal("1.5"), "1.5"),
    (Path("/x"), str(Path("/x"))),
    ({"a"}, ["a"]),
    ((1, {2: Foreign()}), [1, {"2": "foreign"}]),
    (2**64, 2**64),
    (Foreign(), "foreign"),
    ([Array()], [[0.5, 1.0]]),
]


@pytest.mark.parametrize(("extra", "shown"), EXTRAS, ids=str)
def test_what_a_type_adds_to_its_schema_is_shown_as_json(extra: Any, shown: Any) -> None:
    class OnType(BaseModel):
        model_config = ConfigDict(json_schema_extra={"examples": [{"x": extra}]})
        x: int

    class OnField(BaseModel):
        x: int = Field(json_schema_extra={"example": extra})

    assert described(OnType)["examples"] == [{"x": shown}]
    assert described(OnField)["properties"]["x"]["example"] == shown


@pytest.mark.parametrize("extra", [math.inf, [1.0, math.nan], b"\xff", Mute()], ids=repr)
def test_what_json_has_no_word_for_is_left_out(extra: Any) -> None:
    class OnType(BaseModel):
        model_config = ConfigDict(json_schema_extra={"example": extra})
        x: int

    class OnField(BaseModel):
        x: int = Field(json_schema_extra={"example": extra})

    for kind in (OnType, OnField):
        found = described(kind)
        assert found["properties"]["x"] == {"title": "X", "type": "integer"}
        assert "example" not in found


@pytest.mark.parametrize("mode", ["validation", "serialization"])
def test_default_that_json_has_no_word_for_is_left_out(mode: Any) -> None:
    class Inner(BaseModel):
        x: float

    @dataclasses.dataclass
    class Data:
        x: float = math.nan

    class Limits(BaseModel):
        thr: float = math.inf
        low: float | None = -math.inf
        many: list[float] = [1.0, math.nan]
        named: dict[str, float] = {"a": math.inf}
        inner: Inner = Inner(x=math.nan)
        data: Data = Data()
        none: float | None = None
        n: int = Field(default=2**63, le=2**64)
        most: float = Field(default=0.0, le=math.inf, ge=-math.inf)
        level: Level = Level.LOW

    found = described(Limits, mode)
    defaults = {name: one.get("default", "-") for name, one in found["properties"].items()}
    assert defaults == {
        "thr": "-", "low": "-", "many": "-", "named": "-", "inner": "-", "data": "-",
        "none": None, "n": 2**63, "most": 0.0, "level": 0.5,
    }  # fmt: skip
    assert found["properties"]["thr"] == {"title": "Thr", "type": "number"}
    assert found["properties"]["n"]["maximum"] == 2**64
    assert "default" not in found["$defs"]["Data"]["properties"]["x"]


def fails(schema: dict[str, Any]) -> None:
    raise KeyError("secret")


def rings(schema: dict[str, Any]) -> None:
    schema["ring"] = schema


@pytest.mark.parametrize("extra", [fails, rings])
def test_type_whose_own_words_fail_has_an_empty_schema(
    extra: Callable[[dict[str, Any]], None], caplog: pytest.LogCaptureFixture
) -> None:
    class Breaks(BaseModel):
        model_config = ConfigDict(json_schema_extra=extra)
        x: int

    found = described(Breaks)
    assert found.keys() == {"description"}
    assert "has no JSON Schema" in found["description"]
    assert "secret" not in found["description"]
    (record,) = caplog.records
    assert record.getMessage() == "the JSON Schema of a type of m cannot be made"
