from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Example, Server


@pytest.fixture(scope="module")
def example(open_example: Callable[[str], Example]) -> Example:
    return open_example("embedded_in_fastapi")


@pytest.fixture(scope="module")
def server(example: Example) -> Iterator[Server]:
    with example.serve(ready="/ml/ready") as server:
        yield server


def test_the_readmes_requests_get_the_readmes_answers(
    example: Example, server: Server, assert_answers: Callable[..., None]
) -> None:
    book, languages = example.requests
    title, outputs = example.answers
    assert server.ask(book).json == title
    assert_answers(server.ask(languages), outputs, 1e-9)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("le chat et la souris", "french"),
        ("El gato y el perro", "spanish"),
        ("42", "unknown"),
    ],
)
def test_languages_are_told_apart(server: Server, text: str, name: str) -> None:
    [output] = server.predict({"text": text}, path="/ml/predict").json["outputs"]
    assert output["name"] == name


def test_the_key_guards_the_mount_and_nothing_else(example: Example, server: Server) -> None:
    book, languages = example.requests
    without = type(languages)(languages.path, {"Content-Type": "application/json"}, languages.body)
    assert server.ask(without).status == 401
    assert "X-API-Key" not in book.headers
    assert server.ask(book).status == 200


def test_all_routes_are_below_the_mount(server: Server) -> None:
    assert server.get("/ml/health").status == 200
    assert [model["id"] for model in server.get("/ml/schema").json] == ["language"]
    assert "/predict" in server.get("/ml/openapi.json").json["paths"]
    assert server.get("/health").status == 404


def test_an_unknown_route_below_the_mount_gets_our_error_and_not_fastapis(server: Server) -> None:
    answer = server.get("/ml/nothing")
    assert answer.status == 404
    assert answer.json["code"] == "not_found"
