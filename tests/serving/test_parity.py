"""Two outputs of an example: alone, and in a batch whose sums have another order."""

import dataclasses
import re
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, ConfigDict, PlainSerializer

from thalamus_lite import Thalamus
from thalamus_lite.errors import ModelError
from thalamus_lite.serving.parity import differing
from thalamus_lite.testing import Client


class Fussy:
    """As an array, or a data frame: neither equal nor unequal as a whole."""

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Fussy):
            raise ValueError
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]


class Array:
    def __init__(self, *values: Any) -> None:
        self.values = values

    def tolist(self) -> list[Any]:
        return list(self.values)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1.0, 1.0005),
        (0.0, 1e-6),
        (float("nan"), float("nan")),
        (float("inf"), float("inf")),
        ({"a": [1, 2.0]}, {"a": (1, 2.0001)}),
        (Array(1.0, 2.0), [1.0, 2.0]),
        ("x", "x"),
        (None, None),
        ({1, 2}, {2, 1}),
        ({1.0, 2.0}, {2.0001, 1.0}),
        ({"a", (1, 2.0)}, {(1, 2.0), "a"}),
        (Decimal("1.5"), Decimal("1.5000001")),
        (Decimal("NaN"), Decimal("NaN")),
        (Fraction(1, 3), 0.33333),
        (1 + 2j, 1 + 2.0001j),
        pytest.param(10**400, 10**400, id="large"),
    ],
)
def test_outputs_within_the_tolerance_are_the_same(one: Any, other: Any) -> None:
    assert differing(one, other) is None


@pytest.mark.parametrize(
    ("one", "other", "place"),
    [
        (1.0, 1.1, "output: "),
        (True, False, "output: "),
        (float("inf"), 1.0, "output: "),
        ({"a": [1, 2]}, {"a": [1, 3]}, r"output.a\[1\]: "),
        ({"a": 1}, {"b": 1}, "output: other fields"),
        ([1], [1, 2], "output: 1 items alone, 2 in a batch"),
        ("x", "y", "output: 'x' alone, 'y' in a batch"),
        ("x", ["x"], "output: "),
        ({1.0}, {1.0, 1.1}, "output: 1 items alone, 2 in a batch"),
        ({1.0, 2.0}, {1.0, 2.1}, r"output\[1\]: "),
        ({"a", 1}, {"a", 2}, "output: "),
        (Decimal("1.5"), Decimal("1.6"), "output: "),
        pytest.param(10**400, 2 * 10**400, "output: ", id="large"),
        ([Fussy()], [Fussy()], r"output\[0\]: "),
    ],
)
def test_other_outputs_are_told_with_their_place(one: Any, other: Any, place: str) -> None:
    found = differing(one, other)
    assert found is not None
    assert re.match(place, found)


class Score(BaseModel):
    score: float


class Frozen(BaseModel, frozen=True):
    name: str


@dataclasses.dataclass
class Plain:
    score: float


class Holder(BaseModel):
    inside: Plain


@dataclasses.dataclass
class Arrays:
    scores: Annotated[Any, PlainSerializer(list)]


@dataclasses.dataclass
class Written:
    scores: Annotated[Any, PlainSerializer(len, when_used="json")]


class Lost(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="constants")
    score: float


class Items(Fussy):
    """An array of one score, that only its serializer can read."""

    def __init__(self, score: float) -> None:
        self.score = score

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[float]:
        yield self.score


CASES: dict[str, tuple[Any, Any]] = {
    "model": (Score, lambda score: Score(score=score)),
    "dataclass": (Plain, Plain),
    "dict for a dataclass": (Plain, lambda score: {"score": score}),
    "dataclass in a model": (Holder, lambda score: Holder(inside=Plain(score))),
    "dataclass with an array": (Arrays, lambda score: Arrays(Items(score))),
    "set": (set[float], lambda score: {score, 2.0}),
    "decimal": (Decimal, lambda score: Decimal(str(score))),
    "list of decimals": (list[Decimal], lambda score: [Decimal(str(score))]),
    "complex": (complex, lambda score: complex(score, 1)),
}


def starts(kind: Any, output: Any) -> None:
    """Start a model whose outputs are ``output(number of inputs)``."""
    app = Thalamus()

    @app.model(model_id="m", input_type=int, output_type=kind, max_batch_size=4, examples=[1, 2])
    class Model:
        def predict(self, inputs: list[int]) -> list[Any]:
            return [output(len(inputs)) for _ in inputs]

    with Client(app):
        pass


@pytest.mark.parametrize("name", CASES)
def test_noise_of_a_batch_is_borne_in_outputs_of_every_kind(name: str) -> None:
    kind, make = CASES[name]
    starts(kind, lambda count: make(1.0 if count == 1 else 1.0000001))
    with pytest.raises(ModelError, match=r"examples\[0\] gives another output in a batch"):
        starts(kind, lambda count: make(1.0 if count == 1 else 1.5))


def test_what_only_json_can_tell_is_compared_as_it_is_sent() -> None:
    starts(Written, lambda count: Written(Items(count)))
    starts(set[Frozen], lambda count: {Frozen(name="a")})
    with pytest.raises(ModelError, match=r"\(output\[0\].name: 'a1' alone, 'a2' in a batch\)"):
        starts(set[Frozen], lambda count: {Frozen(name=f"a{count}")})


def test_output_that_is_not_a_number_is_like_itself() -> None:
    starts(Lost, lambda count: Lost(score=float("nan")))


def test_output_that_a_model_fills_anew_is_compared_as_it_was() -> None:
    reused: dict[str, float] = {}

    def output(count: int) -> dict[str, float]:
        reused["score"] = float(count)
        return reused

    with pytest.raises(ModelError, match=r"\(output.score: 1.0 alone, 2.0 in a batch\)"):
        starts(Score, output)
