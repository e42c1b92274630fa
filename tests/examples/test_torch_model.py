from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Example, Server


@pytest.fixture(scope="module")
def example(open_example: Callable[[str], Example]) -> Example:
    example = open_example("torch_model")
    # The README's answer is the CPU's.
    example.environ["CUDA_VISIBLE_DEVICES"] = ""
    return example


@pytest.fixture(scope="module")
def trained(example: Example) -> str:
    return example.run("python train.py")


@pytest.fixture(scope="module")
def drawn(example: Example) -> dict[str, Any]:
    """The picture of the README's request."""
    example.run("python shapes.py triangle > triangle.json")
    [picture] = json.loads((example.folder / "triangle.json").read_bytes())["inputs"]
    return dict(picture)


@pytest.fixture(scope="module")
def server(example: Example, trained: str) -> Iterator[Server]:
    with example.serve() as server:
        yield server


def test_nearly_all_unseen_shapes_are_told_apart(trained: str) -> None:
    accuracy = re.fullmatch(r"held-out accuracy: ([01]\.\d+)\n", trained)
    assert accuracy is not None
    assert float(accuracy[1]) >= 0.95


@pytest.mark.usefixtures("drawn")
def test_the_readmes_request_gets_the_readmes_answer(
    example: Example, server: Server, assert_answers: Callable[..., None]
) -> None:
    [request] = example.requests
    assert_answers(server.ask(request), example.answers[0], 0.3)


def test_a_picture_gets_the_same_answer_alone_and_in_company(
    server: Server, drawn: dict[str, Any]
) -> None:
    [alone] = server.predict(drawn).json["outputs"]
    company = server.predict(drawn, drawn, drawn).json["outputs"]
    assert [output["name"] for output in company] == [alone["name"]] * 3
    for output in company:
        assert output["confidence"] == pytest.approx(alone["confidence"], abs=1e-4)


def test_a_picture_of_another_size_is_answered_422_with_a_sentence(server: Server) -> None:
    answer = server.predict({"picture": {"data": "AAAA"}})
    assert answer.status == 422
    assert "1024 bytes: 32 rows of 32" in answer.json["details"][0]["msg"]
