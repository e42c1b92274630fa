from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Example, Server

PATIENT = {
    "age": 59,
    "sex": 2,
    "bmi": 32.1,
    "bp": 101,
    "s1": 157,
    "s2": 93.2,
    "s3": 38,
    "s4": 4,
    "s5": 4.8598,
    "s6": 87,
}


@pytest.fixture(scope="module")
def example(open_example: Callable[[str], Example]) -> Example:
    return open_example("sklearn_model")


@pytest.fixture(scope="module")
def trained(example: Example) -> str:
    return example.run("python train.py")


@pytest.fixture(scope="module")
def server(example: Example, trained: str) -> Iterator[Server]:
    with example.serve() as server:
        yield server


def test_the_model_explains_some_of_the_variance_of_unseen_patients(trained: str) -> None:
    score = re.fullmatch(r"held-out R2: (0\.\d+)\n", trained)
    assert score is not None
    assert float(score[1]) > 0.25


def test_the_readmes_request_gets_the_readmes_answer(
    example: Example, server: Server, assert_answers: Callable[..., None]
) -> None:
    [request] = example.requests
    assert_answers(server.ask(request), example.answers[0], 1.0)


def test_a_heavier_patient_with_higher_pressure_fares_worse(server: Server) -> None:
    answer = server.predict({**PATIENT, "bmi": 21, "bp": 80}, {**PATIENT, "bmi": 40, "bp": 120})
    light, heavy = (output["progression"] for output in answer.json["outputs"])
    assert 25 < light < heavy < 346


def test_a_missing_column_is_named(server: Server) -> None:
    without = {name: value for name, value in PATIENT.items() if name != "s4"}
    answer = server.predict(without)
    assert answer.status == 422
    assert answer.json["details"] == [
        {"loc": ["inputs", 0, "s4"], "msg": "Field required", "type": "missing"}
    ]


def test_the_schema_has_the_units(server: Server) -> None:
    properties = server.get("/schema/diabetes").json["input"]["properties"]
    assert properties["bp"]["description"] == "mean blood pressure, mmHg"
