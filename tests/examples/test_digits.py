from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Example, Server

REPOSITORY = Path(__file__).parents[2]
HELDOUT = REPOSITORY / "tests" / "demo" / "heldout.txt"


@pytest.fixture(scope="module")
def example(open_example: Callable[[str], Example]) -> Example:
    return open_example("digits")


@pytest.fixture(scope="module")
def metrics(example: Example) -> dict[str, Any]:
    printed: dict[str, Any] = json.loads(example.run("python train.py"))
    return printed


@pytest.fixture(scope="module")
def server(example: Example, metrics: dict[str, Any]) -> Iterator[Server]:
    with example.serve() as server:
        yield server


def test_training_reaches_what_the_readme_says(example: Example, metrics: dict[str, Any]) -> None:
    said = example.answers[0]
    assert metrics.keys() == said.keys()
    assert metrics["held_out"] == said["held_out"] >= 0.2 * (said["held_out"] + said["trained_on"])
    assert metrics["held_out_accuracy"] >= 0.96


def test_the_readmes_request_gets_the_readmes_answer(
    example: Example, server: Server, assert_answers: Callable[..., None]
) -> None:
    [request] = example.requests
    assert_answers(server.ask(request), example.answers[1], 0.05)


def test_held_out_digits_are_read_right_over_http(server: Server) -> None:
    lines = [line.split() for line in HELDOUT.read_text().splitlines()]
    inputs = [{"pixels": [int(figure, 17) for figure in row]} for _, row in lines]
    outputs = server.predict(*inputs).json["outputs"]
    right = sum(str(out["label"]) == label for out, (label, _) in zip(outputs, lines, strict=True))
    assert right / len(lines) >= 0.95


@pytest.mark.parametrize(("pixels", "place"), [([0] * 63, []), ([0] * 63 + [17], [63])])
def test_an_image_of_another_shape_is_answered_422_with_the_place(
    server: Server, pixels: list[int], place: list[int]
) -> None:
    answer = server.predict({"pixels": pixels})
    assert answer.status == 422
    assert answer.json["details"][0]["loc"] == ["inputs", 0, "pixels", *place]


def test_the_demos_weights_are_what_the_training_script_makes(
    example: Example, metrics: dict[str, Any]
) -> None:
    trained = json.loads((example.folder / "digits.json").read_bytes())
    shipped = json.loads(
        (REPOSITORY / "src" / "thalamus_lite" / "demo" / "digits.json").read_bytes()
    )
    # Another BLAS adds up in another order, so the numbers may differ from machine to machine.
    for layer in ("hidden", "output"):
        assert len(trained[layer]["biases"]) == len(shipped[layer]["biases"])
        rows = zip(trained[layer]["weights"], shipped[layer]["weights"], strict=True)
        assert all(len(one) == len(other) for one, other in rows)
    assert shipped["metrics"]["trained_on"] == trained["metrics"]["trained_on"]
