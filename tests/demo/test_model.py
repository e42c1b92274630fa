"""The digits demo, class by itself; what it answers over HTTP is in ``tests/examples``."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from thalamus_lite.demo.model import SAMPLES, WEIGHTS, Digit, DigitPrediction, DigitsModel, register
from thalamus_lite.weights.sources import FileWeight

HELDOUT = Path(__file__).with_name("heldout.txt")


@pytest.fixture(scope="module")
def model() -> DigitsModel:
    digits = DigitsModel()
    digits.load({"model": WEIGHTS}, "cpu")
    return digits


@pytest.fixture(scope="module")
def heldout() -> list[tuple[int, Digit]]:
    lines = [line.split() for line in HELDOUT.read_text(encoding="ascii").splitlines()]
    return [(int(label), Digit(pixels=[int(c, 17) for c in row])) for label, row in lines]


@pytest.fixture(scope="module")
def answers(
    model: DigitsModel, heldout: list[tuple[int, Digit]]
) -> list[tuple[int, DigitPrediction]]:
    """What each held-out digit is, and what it was read as."""
    labels, digits = zip(*heldout, strict=True)
    return list(zip(labels, model.predict(list(digits)), strict=True))


def _share_right(answers: list[tuple[int, DigitPrediction]]) -> float:
    return sum(prediction.label == label for label, prediction in answers) / len(answers)


def _network(hidden_inputs: int = 64, output_inputs: int = 2, outputs: int = 10) -> dict[str, Any]:
    return {
        "hidden": {"weights": [[0.0] * hidden_inputs] * 2, "biases": [0.0] * 2},
        "output": {"weights": [[0.0] * output_inputs] * outputs, "biases": [0.0] * outputs},
    }


def test_at_least_95_percent_of_the_held_out_digits_are_read_right(
    answers: list[tuple[int, DigitPrediction]],
) -> None:
    assert _share_right(answers) >= 0.95


def test_the_accuracy_written_beside_the_weights_is_what_they_reach(
    answers: list[tuple[int, DigitPrediction]],
) -> None:
    metrics = json.loads(WEIGHTS.read_bytes())["metrics"]
    assert metrics["held_out"] == len(answers)
    # The file rounds to four places.
    assert _share_right(answers) == pytest.approx(metrics["held_out_accuracy"], abs=1e-4)


def test_held_out_digits_are_a_fair_sample(heldout: list[tuple[int, Digit]]) -> None:
    counts = [sum(label == digit for label, _ in heldout) for digit in range(10)]
    assert sum(counts) >= 0.2 * 1797
    assert min(counts) >= 40


def test_confident_answers_are_right_more_often_than_doubtful_ones(
    answers: list[tuple[int, DigitPrediction]],
) -> None:
    ranked = sorted(answers, key=lambda answer: answer[1].confidence)
    half = len(ranked) // 2
    assert _share_right(ranked[:half]) < _share_right(ranked[half:])


def test_samples_are_read_as_what_they_show(model: DigitsModel) -> None:
    assert [p.label for p in model.predict(list(SAMPLES))] == [7, 0]


def test_predictions_keep_the_order_of_the_inputs(
    model: DigitsModel, heldout: list[tuple[int, Digit]]
) -> None:
    digits = [digit for _, digit in heldout[:20]]
    one_by_one = [model.predict([digit])[0] for digit in digits]
    assert model.predict(digits) == one_by_one


def test_scores_are_the_textbook_softmax_of_the_network(model: DigitsModel) -> None:
    layers = json.loads(WEIGHTS.read_bytes())
    pixels = SAMPLES[0].pixels
    active = [
        max(0.0, math.fsum([b, *(w * x for w, x in zip(row, pixels, strict=True))]))
        for row, b in zip(layers["hidden"]["weights"], layers["hidden"]["biases"], strict=True)
    ]
    scores = [
        math.fsum([b, *(w * x for w, x in zip(row, active, strict=True))])
        for row, b in zip(layers["output"]["weights"], layers["output"]["biases"], strict=True)
    ]
    total = math.fsum(math.exp(score) for score in scores)
    [prediction] = model.predict([SAMPLES[0]])
    assert prediction.confidence == pytest.approx(math.exp(scores[7]) / total, rel=1e-9)


# No limit in time: a busy machine may take long over an example and still be right.
@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.floats(0, 16), min_size=64, max_size=64))
def test_any_image_gets_a_digit_and_a_probability(model: DigitsModel, pixels: list[float]) -> None:
    [prediction] = model.predict([Digit(pixels=pixels)])
    # Of ten probabilities that add up to one, the greatest is a tenth at least.
    assert 0.1 - 1e-9 <= prediction.confidence <= 1
    assert DigitPrediction.model_validate_json(prediction.model_dump_json()) == prediction


@pytest.mark.parametrize(
    ("pixels", "kind"),
    [
        ([0] * 63, "too_short"),
        ([0] * 65, "too_long"),
        ([], "too_short"),
        ([0] * 63 + [16.5], "less_than_equal"),
        ([0] * 63 + [-1], "greater_than_equal"),
        ([0] * 63 + ["7"], "float_type"),
        ([0] * 63 + [True], "float_type"),
        ([0] * 63 + [None], "float_type"),
        ([0] * 63 + [math.nan], "finite_number"),
        ([[0] * 8] * 8, "float_type"),
        ("0" * 64, "list_type"),
    ],
)
def test_an_image_of_another_shape_or_range_is_refused(pixels: object, kind: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Digit.model_validate({"pixels": pixels})
    assert kind in {error["type"] for error in caught.value.errors()}


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (_network(hidden_inputs=63), "does not take 64 inputs"),
        (_network(output_inputs=3), "does not take 2 inputs"),
        (_network(outputs=9), "has 9 outputs, not 10"),
    ],
)
def test_weights_of_another_shape_are_refused(
    tmp_path: Path, network: dict[str, Any], sentence: str
) -> None:
    path = tmp_path / "other.json"
    path.write_text(json.dumps(network))
    with pytest.raises(ValueError, match=sentence):
        DigitsModel().load({"model": path}, "cpu")


def test_the_weights_file_is_small() -> None:
    assert WEIGHTS.stat().st_size < 40_000


def test_register_makes_digits_the_default_with_its_weights_beside_it() -> None:
    seen: dict[str, Any] = {}

    class App:
        def model(self, **arguments: Any) -> Any:
            seen.update(arguments)
            return lambda cls: seen.setdefault("cls", cls)

    register(App())  # type: ignore[arg-type]
    assert seen["cls"] is DigitsModel
    assert seen["model_id"] == "digits"
    assert seen["default"] is True
    assert seen["weights"] == {"model": FileWeight(path=WEIGHTS)}
