from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Example, Server


@pytest.fixture(scope="module")
def example(open_example: Callable[[str], Example]) -> Example:
    example = open_example("sentence_embeddings")
    example.environ["CUDA_VISIBLE_DEVICES"] = ""
    return example


@pytest.fixture(scope="module")
def server(example: Example) -> Iterator[Server]:
    with example.serve() as server:
        yield server


@pytest.fixture(scope="module")
def vectors(example: Example, server: Server) -> list[list[float]]:
    """The answers to the README's request."""
    [request] = example.requests
    return [output["values"] for output in server.ask(request).json["outputs"]]


def _dot(one: list[float], other: list[float]) -> float:
    return math.fsum(a * b for a, b in zip(one, other, strict=True))


def test_likeness_is_what_the_readme_says(vectors: list[list[float]]) -> None:
    food, bread, baby = vectors
    assert _dot(food, bread) == pytest.approx(0.755, abs=1e-3)
    assert _dot(food, baby) == pytest.approx(-0.105, abs=1e-3)


def test_vectors_are_those_of_the_reference_implementation(vectors: list[list[float]]) -> None:
    # transformers 5.23 with the same weights, mean over the mask, normalised.
    reference = [0.033242, 0.004406, -0.006277, 0.048379, -0.138702, -0.033617]
    assert vectors[0][:6] == pytest.approx(reference, abs=1e-5)
    assert [len(vector) for vector in vectors] == [384, 384, 384]
    assert [_dot(vector, vector) for vector in vectors] == pytest.approx([1, 1, 1], abs=1e-5)


def test_padding_does_not_change_a_vector(server: Server, vectors: list[list[float]]) -> None:
    text = {"text": "A man is eating food."}
    answer = server.predict(text, {"text": "and he goes on, and on, " * 30})
    assert answer.json["outputs"][0]["values"] == pytest.approx(vectors[0], abs=1e-5)


def test_tokens_beyond_the_limit_are_not_read(server: Server) -> None:
    long = server.predict({"text": "word " * 300}, {"text": "word " * 400})
    one, other = (output["values"] for output in long.json["outputs"])
    assert one == pytest.approx(other, abs=1e-5)


def test_an_empty_text_is_refused(server: Server) -> None:
    assert server.predict({"text": ""}).status == 422


def test_the_example_is_shown_by_the_schema(server: Server) -> None:
    schema = server.get("/schema/all-MiniLM-L6-v2").json
    assert schema["examples"] == [{"text": "The first request should not be the slow one."}]
