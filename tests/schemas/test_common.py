"""Types that users put in their models."""

from __future__ import annotations

import base64
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from thalamus_lite import Base64Data, BBox, Label, Prob, Span, Vector


@given(st.binary(max_size=200))
def test_base64_carries_any_bytes(raw: bytes) -> None:
    data = Base64Data(data=base64.b64encode(raw).decode(), media_type="image/png")
    assert data.decode() == raw
    assert Base64Data(data="").media_type == "application/octet-stream"


@pytest.mark.parametrize("text", ["a", "YQ", "YQ=", "\u00e9\u00e9\u00e9\u00e9"])
def test_what_is_not_base64_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="Invalid base64"):
        Base64Data(data=text)


def test_box_knows_its_size() -> None:
    box = BBox(x1=1, y1=2, x2=4, y2=6.5)
    assert (box.width, box.height) == (3, 4.5)


@pytest.mark.parametrize(
    ("box", "says"),
    [
        ({"x1": 1, "y1": 0, "x2": 1, "y2": 1}, "x2 must be > x1"),
        ({"x1": 0, "y1": 5, "x2": 1, "y2": 1}, "y2 must be > y1"),
        ({"x1": "left", "y1": 0, "x2": 1, "y2": 1}, "x1"),
        ({"x1": 0, "y1": 0, "x2": 1}, "y2"),
    ],
)
def test_box_that_is_none_is_refused(box: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        BBox.model_validate(box)


@pytest.mark.parametrize("value", [0, 1, 0.5])
def test_probability_is_between_0_and_1(value: float) -> None:
    assert TypeAdapter(Prob).validate_python(value) == value
    assert Label(name="x", confidence=value).confidence == value


@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan, math.inf, "high"])
def test_other_numbers_are_no_probabilities(value: object) -> None:
    with pytest.raises(ValidationError):
        Label.model_validate({"name": "x", "confidence": value})


def test_vector_knows_its_length() -> None:
    assert Vector(values=[1.0, 2.0, 3.0]).dim == 3
    with pytest.raises(ValidationError):
        Vector(values=[])


def test_span_counts_from_0() -> None:
    span = Span(text="New York", start=0, end=8, label="LOC", score=0.9)
    assert (span.start, span.end) == (0, 8)
    assert Span(text="x", start=3, end=4).label is None
    for wrong in ({"start": -1, "end": 1}, {"start": 0, "end": -1}, {"start": 0}):
        with pytest.raises(ValidationError):
            Span.model_validate({"text": "x", **wrong})
