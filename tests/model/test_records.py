"""One record in, one record out, with every kind of type that pydantic reads."""

from __future__ import annotations

import asyncio
import json
import math
import sys
import typing
from collections import deque
from collections.abc import Callable  # noqa: TC003  # in the parameters of a test
from dataclasses import dataclass
from datetime import date, datetime  # resolved by pydantic
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    RootModel,
    ValidationError,
    computed_field,
    field_serializer,
    field_validator,
)
from pydantic import v1 as pydantic_1
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from thalamus_lite.errors import ModelError, ValidationFailed
from thalamus_lite.http.codec import decode, encode
from thalamus_lite.model.records import (
    MAX_DETAILS,
    MAX_LOC,
    MAX_MESSAGE,
    MOST_FINDINGS,
    RecordType,
    details,
)


def inputs(kind: Any) -> RecordType:
    return RecordType(kind, "m", "input")


def outputs(kind: Any) -> RecordType:
    return RecordType(kind, "m", "output")


def test_model_of_pydantic_1_is_refused() -> None:
    class Base(pydantic_1.BaseModel):
        x: int

    class Old(Base):
        pass

    for side in ("input", "output"):
        with pytest.raises(TypeError) as caught:
            RecordType(Old, "m", side)
        assert str(caught.value) == (
            f"m: the {side} type Old is a pydantic.v1 model: derive it from pydantic.BaseModel"
        )


class Standard(typing.TypedDict):
    x: int


@pytest.mark.parametrize("kind", [Standard, dict[str, Standard]], ids=str)
def test_typed_dict_that_pydantic_cannot_read_is_told_which_one_it_can(kind: Any) -> None:
    if sys.version_info >= (3, 12):
        RecordType(kind, "m", "input")
        return
    with pytest.raises(TypeError) as caught:
        RecordType(kind, "m", "input")
    assert str(caught.value) == (
        f"m: the input type {kind!r} is or holds a typing.TypedDict: before Python 3.12, use"
        " typing_extensions.TypedDict"
    )


class One(BaseModel):
    kind: int


class Two(BaseModel):
    kind: int


def test_type_that_pydantic_refuses_names_its_model() -> None:
    union = Annotated[One | Two, Field(discriminator="kind")]
    with pytest.raises(TypeError, match="m: pydantic cannot read the output type"):
        RecordType(union, "m", "output")


def refused(kind: Any, values: list[Any]) -> list[dict[str, Any]]:
    """The details of the refusal, which can always be sent and are never long."""
    with pytest.raises(ValidationFailed) as caught:
        inputs(kind).validate(values)
    found = caught.value.details
    body = encode(found)
    assert json.loads(body) == found
    assert 0 < len(found) <= MAX_DETAILS
    for one in found:
        assert one.keys() == {"loc", "msg", "type"}
        assert len(one["loc"]) <= MAX_LOC
        assert len(one["msg"]) <= MAX_MESSAGE
        assert all(isinstance(part, int) or len(part) <= MAX_MESSAGE for part in one["loc"])
    return found


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    day: date
    colour: Colour
    tags: set[str]
    count: int
    pair: tuple[int, float]
    raw: bytes
    at: datetime | None = None
    part: Inner | None = None


class Inner(BaseModel):
    # Its own config: strictness does not come down from the outer one.
    day: date


class FieldStrict(BaseModel):
    day: date = Field(strict=True)
    loose: int


class Movie(TypedDict):
    title: str
    year: int


@dataclass
class Point:
    x: float
    y: float


@pydantic_dataclass
class Checked:
    x: int


class Tree(BaseModel):
    value: int = 0
    left: Tree | None = None


WHOLE = {
    "day": "2024-02-29", "colour": "blue", "tags": ["a", "b"], "count": 5, "pair": [1, 2.5],
    "raw": "abc", "at": "2024-01-01T00:00:00Z", "part": {"day": "2024-01-01"},
}  # fmt: skip


def test_strict_type_takes_what_json_can_carry() -> None:
    (found,) = inputs(Strict).validate([WHOLE])
    assert found.day == date(2024, 2, 29)
    assert found.colour is Colour.BLUE
    assert found.tags == {"a", "b"}
    assert found.pair == (1, 2.5)
    assert found.raw == b"abc"
    assert found.part.day == date(2024, 1, 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [("count", "5"), ("count", 5.0), ("day", 0), ("tags", "a"), ("colour", "green"), ("raw", 5)],
)
def test_strict_type_takes_nothing_else(field: str, value: Any) -> None:
    found = refused(Strict, [WHOLE, {**WHOLE, field: value}])
    assert found[0]["loc"][:3] == ["inputs", 1, field]


def test_one_strict_field_is_enough_to_be_read_as_json() -> None:
    (found,) = inputs(FieldStrict).validate([{"day": "2024-02-29", "loose": "7"}])
    assert (found.day, found.loose) == (date(2024, 2, 29), 7)


@pytest.mark.parametrize("number", [2**63, 2**64, -(2**63) - 1, 10**30, 10**300])
def test_integers_stay_exact_in_strict_types_too(number: int) -> None:
    class Exact(BaseModel):
        model_config = ConfigDict(strict=True)
        number: int

    class Loose(BaseModel):
        number: int

    value = decode(b'{"number":%d}' % number)
    for kind in (Exact, Loose):
        (found,) = inputs(kind).validate([value])
        assert found.number == number
        assert json.loads(outputs(kind).dump([found])) == {"number": number}


def test_nesting_is_refused_and_not_an_error_of_the_server() -> None:
    class StrictTree(BaseModel):
        model_config = ConfigDict(strict=True)
        left: StrictTree | None = None
        anything: Any = None

    tree: dict[str, Any] = {}
    chain: list[Any] = []
    for _ in range(900):
        tree = {"left": tree}
        chain = [chain]
    for kind in (Tree, StrictTree):
        assert refused(kind, [tree])[0]["loc"][0] == "inputs"
    assert refused(StrictTree, [{"anything": chain}])[0]["type"] == "recursion"


def test_local_forward_reference_is_resolved() -> None:
    (found,) = inputs(Tree).validate([{"value": 1, "left": {"value": 2}}])
    assert found.left.value == 2


@pytest.mark.parametrize(
    ("kind", "value", "read"),
    [
        (int, "5", 5),
        (float, 1, 1.0),
        (str, "x", "x"),
        (bool, True, True),
        (list[int], [1, "2"], [1, 2]),
        (dict[str, list[float]], {"a": [1]}, {"a": [1.0]}),
        (tuple[int, str], [1, "a"], (1, "a")),
        (set[int], [1, 1], {1}),
        (Literal["a", "b"], "a", "a"),
        (int | str, "x", "x"),
        (int | None, None, None),
        (Colour, "red", Colour.RED),
        (Movie, {"title": "x", "year": 1}, {"title": "x", "year": 1}),
        (Point, {"x": 1, "y": 2}, Point(1.0, 2.0)),
        (Checked, {"x": 1}, Checked(1)),
        (RootModel[list[int]], [1], RootModel[list[int]]([1])),
        (Decimal, "1.10", Decimal("1.10")),
        (Any, {"a": [None]}, {"a": [None]}),
        (Point | Movie, {"title": "x", "year": 1}, {"title": "x", "year": 1}),
    ],
    ids=str,
)  # fmt: skip
def test_record_may_be_of_any_type(kind: Any, value: Any, read: Any) -> None:
    assert inputs(kind).validate([value, value]) == [read, read]
    written = json.loads(b"[" + outputs(kind).dump([read]) + b"]")[0]
    assert inputs(kind).validate([written]) == [read]


@pytest.mark.parametrize(
    ("kind", "value"),
    [(int, "x"), (int, 1.5), (float, "x"), (str, 5), (list[int], 5), (Movie, {"title": "x"}),
     (Point, {"x": 1}), (Colour, "green"), (Checked, {"x": "no"}), (set[int], [[]])],
    ids=str,
)  # fmt: skip
def test_record_of_another_type_is_refused(kind: Any, value: Any) -> None:
    found = refused(kind, [value])
    assert found[0]["loc"][:2] == ["inputs", 0]


class BrokenText(ValueError):
    def __str__(self) -> str:
        raise RuntimeError("not even that")


def lone_surrogate() -> None:
    raise ValueError("bad \ud800 text")


def a_hundred_megabytes() -> None:
    raise ValueError("x" * 100_000_000)


def strange_arguments() -> None:
    raise ValueError(object(), {"a": {1, 2}}, b"\xff")


def custom() -> None:
    raise PydanticCustomError("my_\u00e9rror", "wrong {thing}", {"thing": "\udfff"})


def exotic_context() -> None:
    raise PydanticCustomError("odd", "wrong", {"object": object(), "nan": math.nan})


def assertion() -> None:
    assert 1 == 2, "one is not two"  # noqa: PLR0133, RUF100


def control_characters() -> None:
    raise ValueError("line\nbreak\x00\x1b[2J")


@pytest.mark.parametrize(
    ("complain", "says"),
    [
        (lone_surrogate, "Not valid, and the validator cannot say why"),
        (a_hundred_megabytes, "xxxx"),
        (strange_arguments, "Value error"),
        (custom, "Not valid, and the validator cannot say why"),
        (exotic_context, "wrong"),
        (assertion, "one is not two"),
        (control_characters, "line\nbreak"),
    ],
)
def test_whatever_a_validator_says_can_be_sent(complain: Callable[[], None], says: str) -> None:
    class Picky(BaseModel):
        x: int

        @field_validator("x")
        @classmethod
        def _check(cls, value: int) -> int:
            complain()
            return value

    (found,) = refused(Picky, [{"x": 1}])
    assert says in found["msg"]
    assert found["loc"] == (["inputs"] if "cannot say" in says else ["inputs", 0, "x"])


@pytest.mark.parametrize(
    "error", [KeyError("secret"), RuntimeError("secret"), RecursionError(), BrokenText()], ids=type
)
def test_validator_that_breaks_is_the_models_fault(error: Exception) -> None:
    class Broken(BaseModel):
        x: int

        @field_validator("x")
        @classmethod
        def _check(cls, value: int) -> int:
            raise error

    with pytest.raises(ModelError, match=r"an input validator of m raised \w+Error$") as caught:
        inputs(Broken).validate([{"x": 1}])
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is not None


def test_hostile_keys_make_no_long_details() -> None:
    class Closed(BaseModel):
        model_config = ConfigDict(extra="forbid")

    found = refused(Closed, [{"k" * 10_000: 1, "\x00\n": 2}])
    assert found[0]["loc"][2].endswith("…")
    assert len(refused(dict[str, int], [{f"k{n}": "x" for n in range(1000)}])) == MAX_DETAILS


def test_deep_places_are_cut() -> None:
    kind: Any = int
    for _ in range(60):
        kind = list[kind]
    value: Any = "x"
    for _ in range(60):
        value = [value]
    (found,) = refused(kind, [value])
    assert len(found["loc"]) == MAX_LOC


def test_errors_without_number_are_counted_and_not_listed() -> None:
    (found,) = refused(list[int], [["x"] * (MOST_FINDINGS + 1)])
    assert found == {
        "loc": ["inputs"],
        "msg": f"{MOST_FINDINGS + 1} errors, too many to list",
        "type": "too_many_errors",
    }


_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(["day", "colour", "tags", "count", "x", "y", "title", "left", "value"]),
        inner, max_size=5,
    ),
    max_leaves=12,
)  # fmt: skip


@given(
    st.sampled_from([Strict, Movie, Point, Tree, Checked, FieldStrict, list[int], Colour, int]),
    _ANYTHING,
)
def test_any_json_is_taken_or_refused_with_details(kind: Any, value: Any) -> None:
    try:
        found = inputs(kind).validate([value])
    except ValidationFailed as error:
        said = error.details
    else:
        assert len(found) == 1
        return
    assert json.loads(encode(said)) == said


class Out(BaseModel):
    name: str
    score: float | None = 1.0


class SubOut(Out):
    extra: str = "own"


class OtherOut(BaseModel):
    name: str
    score: float = 1.0


def test_instance_is_written_by_its_own_class() -> None:
    assert outputs(Out).dump([SubOut(name="a"), Out(name="b")]) == (
        b'{"name":"a","score":1.0,"extra":"own"},{"name":"b","score":1.0}'
    )


@dataclass
class Place(Point):
    name: str = "own"


@pydantic_dataclass
class CheckedPlace(Checked):
    part: Place | None = None


class Unmarked(Point):
    pass


def test_instance_of_a_dataclass_is_written_by_its_own_class_too() -> None:
    assert outputs(Point).dump([Place(1.0, 2.0), Point(3.0, 4.0), Unmarked(5.0, 6.0)]) == (
        b'{"x":1.0,"y":2.0,"name":"own"},{"x":3.0,"y":4.0},{"x":5.0,"y":6.0}'
    )
    assert outputs(Checked).dump([CheckedPlace(1, Place(1.0, 2.0))]) == (
        b'{"x":1,"part":{"x":1.0,"y":2.0,"name":"own"}}'
    )
    with pytest.raises(ModelError, match="a float that is not finite"):
        outputs(Point).dump([Place(1.0, math.nan)])


@dataclass
class Raw(Point):
    tensor: Array | None = None


def test_dataclass_with_fields_that_pydantic_does_not_know_is_written_as_declared() -> None:
    assert outputs(Point).dump([Raw(1.0, 2.0, Array(3.0))]) == b'{"x":1.0,"y":2.0}'


def test_anything_else_is_validated_into_the_output_type() -> None:
    assert outputs(Out).dump([{"name": "a", "score": "2"}]) == b'{"name":"a","score":2.0}'


@pytest.mark.parametrize(
    "output",
    [None, 5, "text", [], {}, {"name": 5}, {"score": 1}, OtherOut(name="x"), object(), Out, b"{}"],
    ids=str,
)  # fmt: skip
def test_output_of_another_type_is_the_models_fault(output: Any) -> None:
    with pytest.raises(ModelError, match="an output of m does not fit the output type"):
        outputs(Out).dump([Out(name="fine"), output])


def test_error_about_an_output_does_not_show_it() -> None:
    with pytest.raises(ModelError) as caught:
        outputs(Out).dump([{"name": ["secret"], "score": 1.0}])
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


NOT_FINITE = [float("nan"), float("inf"), float("-inf")]


class Deep(BaseModel):
    parts: list[dict[str, tuple[float, ...]]]


class Holder(BaseModel):
    inner: Out
    note: str | None = None


class Computed(BaseModel):
    x: float

    @computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> float:
        return self.x * math.inf


class Array:
    """As numpy's and torch's: it is no number, and holds some."""

    def __init__(self, *values: float) -> None:
        self.values = values

    def tolist(self) -> list[float]:
        return list(self.values)


class Measured(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    values: Annotated[Array, PlainSerializer(Array.tolist, when_used="json")]


@pytest.mark.parametrize("bad", NOT_FINITE, ids=str)
def test_float_that_is_not_finite_is_the_models_fault(bad: float) -> None:
    cases: list[tuple[Any, Any]] = [
        (float, bad),
        (list[float], [1.0, bad]),
        (dict[str, float], {"a": bad}),
        (Out, Out(name="x", score=bad)),
        (Out, {"name": "x", "score": bad}),
        (Out, Out.model_construct(name="x", score=bad)),
        (Deep, Deep(parts=[{"a": (1.0, bad)}])),
        (Holder, Holder(inner=Out(name="x", score=bad))),
        (Point, Point(1.0, bad)),
        (list[Out], [Out(name="x", score=bad)]),
        (Any, {"a": [bad]}),
        (float | str, bad),
        (Computed, Computed(x=1.0)),
        (deque[float], deque([1.0, bad])),
        (Any, deque([bad])),
        (Measured, Measured(values=Array(1.0, bad))),
    ]
    for kind, output in cases:
        with pytest.raises(ModelError, match="a float that is not finite"):
            outputs(kind).dump([output])


def test_null_that_is_meant_is_written() -> None:
    assert outputs(Out).dump([Out(name="null", score=None)]) == b'{"name":"null","score":null}'
    assert outputs(Holder).dump([Holder(inner=Out(name="x"))]).endswith(b'"note":null}')
    assert outputs(float | None).dump([None]) == b"null"
    assert outputs(list[Measured | None]).dump([[None, Measured(values=Array(1.0))]]) == (
        b'[null,{"values":[1.0]}]'
    )


class AsNull(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="null")
    x: float


class AsStrings(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="strings")
    x: float


class AsConstants(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="constants")
    x: float


@pytest.mark.parametrize(
    ("kind", "written"),
    [(AsNull, b'{"x":null}'), (AsStrings, b'{"x":"NaN"}'), (AsConstants, b'{"x":NaN}')],
)
def test_type_may_say_how_it_is_written(kind: Any, written: bytes) -> None:
    assert outputs(kind).dump([kind(x=math.nan)]) == written
    assert outputs(kind).dump([{"x": math.nan}]) == written


def test_config_speaks_for_its_own_type_only() -> None:
    class Mixed(BaseModel):
        said: AsNull | AsStrings
        silent: float = 1.0
        note: str | None = None

    class Reverse(BaseModel):
        model_config = ConfigDict(ser_json_inf_nan="null")
        silent: Out
        said: float = 1.0

    @pydantic_dataclass
    class Data:
        said: AsNull
        silent: float = 1.0

    for fine, kind in (
        (Mixed(said=AsNull(x=math.nan)), Mixed),
        (Mixed(said=AsStrings(x=math.nan)), Mixed),
        (Reverse(silent=Out(name="x"), said=math.nan), Reverse),
        (Data(said=AsNull(x=math.nan)), Data),
        ([AsNull(x=math.nan)], list[AsNull]),
        ({"a": AsNull(x=math.nan)}, dict[str, AsNull]),
    ):
        assert outputs(kind).dump([fine])
    for hidden, kind in (
        (Mixed(said=AsNull(x=1.0), silent=math.nan), Mixed),
        (Reverse(silent=Out(name="x", score=math.nan)), Reverse),
        (Data(said=AsNull(x=1.0), silent=math.nan), Data),
        ([AsNull(x=math.nan), Out(name="x", score=math.nan)], list[AsNull | Out]),
    ):
        with pytest.raises(ModelError, match="a float that is not finite"):
            outputs(kind).dump([hidden])


def test_serializer_that_drops_a_nan_is_believed() -> None:
    class Cleans(BaseModel):
        x: float

        @field_serializer("x")
        def _clean(self, value: float) -> float | None:
            return None if math.isnan(value) else value

    assert outputs(Cleans).dump([Cleans(x=math.nan)]) == b'{"x":null}'


class Unserialisable(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    thing: Any


class Beyond(BaseException):
    """As gevent's and others' timeouts are."""


@pytest.mark.parametrize("error", [SystemExit, GeneratorExit, asyncio.CancelledError, Beyond])
@pytest.mark.parametrize("part", ["validator", "property", "serializer"])
def test_whatever_code_of_an_output_type_raises_is_the_models_fault(
    part: str, error: type[BaseException]
) -> None:
    def leave() -> int:
        raise error("secret")

    class Exits(BaseModel):
        x: int = 1

        @field_validator("x")
        @classmethod
        def _check(cls, value: int) -> int:
            return leave() if part == "validator" else value

        @computed_field  # type: ignore[prop-decorator]
        @property
        def y(self) -> int:
            return leave() if part == "property" else self.x

        @field_serializer("x")
        def _write(self, value: int) -> int:
            return leave() if part == "serializer" else value

    output = {"x": 1} if part == "validator" else Exits.model_construct(x=1)
    for made in ([output], [output, output]):
        with pytest.raises(ModelError, match="an output of m cannot be serialised") as caught:
            outputs(Exits).dump(made)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("error", [SystemExit, GeneratorExit, asyncio.CancelledError, Beyond])
def test_whatever_code_of_an_input_type_raises_is_the_models_fault(
    error: type[BaseException],
) -> None:
    class Exits(BaseModel):
        x: int

        @field_validator("x")
        @classmethod
        def _check(cls, value: int) -> int:
            raise error("secret")

    with pytest.raises(ModelError, match="an input validator of m raised"):
        inputs(Exits).validate([{"x": 1}])


def test_ctrl_c_is_nobodys_fault() -> None:
    class Stops(BaseModel):
        x: int

        @field_validator("x")
        @classmethod
        def _check(cls, value: int) -> int:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        inputs(Stops).validate([{"x": 1}])
    with pytest.raises(KeyboardInterrupt):
        outputs(Stops).dump([{"x": 1}])


def test_output_that_is_refused_without_words_is_the_models_fault() -> None:
    class Silent(BaseModel):
        x: int

        @field_validator("x")
        @classmethod
        def _check(cls, value: int) -> int:
            custom()
            return value

    with pytest.raises(ModelError, match="an output of m does not fit the output type"):
        outputs(Silent).dump([{"x": 1}])


def loop() -> Any:
    ring: list[Any] = []
    ring.append(ring)
    return ring


@pytest.mark.parametrize(
    "thing", [object(), {"a": object()}, "\ud800", b"\xff\xfe", loop(), {(1, 2): object()}],
    ids=lambda thing: type(thing).__name__,
)  # fmt: skip
def test_output_that_cannot_be_written_is_the_models_fault(thing: Any) -> None:
    with pytest.raises(ModelError, match="an output of m cannot be serialised"):
        outputs(Unserialisable).dump([Unserialisable(thing=thing)])


def test_outputs_are_joined_as_the_inside_of_an_array() -> None:
    assert outputs(int).dump([1, 2, 3]) == b"1,2,3"
    assert outputs(int).dump([]) == b""


@given(
    st.lists(
        st.builds(
            Out,
            name=st.text(st.characters(exclude_categories=["Cs"])),
            score=st.none() | st.floats(allow_nan=False, allow_infinity=False),
        )
    )
)
def test_outputs_read_as_they_were(made: list[Out]) -> None:
    written = json.loads(b"[" + outputs(Out).dump(made) + b"]")
    assert [Out.model_validate(one) for one in written] == made


def test_details_of_any_model_can_be_made() -> None:
    with pytest.raises(ValidationError) as caught:
        Out.model_validate({"score": "x"})
    found = details(caught.value, ("body",))
    assert [one["loc"] for one in found] == [["body", "name"], ["body", "score"]]


def test_json_schema_follows_the_side() -> None:
    class Sides(BaseModel):
        a: int = Field(alias="b")

        @computed_field  # type: ignore[prop-decorator]
        @property
        def c(self) -> int:
            return 1

    assert list(inputs(Sides).json_schema("validation")["properties"]) == ["b"]
    assert list(outputs(Sides).json_schema("serialization")["properties"]) == ["a", "c"]
