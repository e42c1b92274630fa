"""The demo as ``uvicorn thalamus_lite:app`` serves it: decorator, loader, queue and all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from thalamus_lite.demo.model import SAMPLES, register
from thalamus_lite.testing import Client
from thalamus_lite.thalamus import Thalamus

if TYPE_CHECKING:
    from collections.abc import Iterator

HELDOUT = Path(__file__).with_name("heldout.txt")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    app = Thalamus(name="demo")
    register(app)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THALAMUS_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        with Client(app) as client:
            yield client


def test_the_demo_serves_requests_that_name_no_model(client: Client) -> None:
    answer = client.post("/predict", json={"inputs": [SAMPLES[0].model_dump()]})
    assert answer.status == 200
    body = answer.json()
    assert body["outputs"][0]["label"] == 7
    assert body["meta"]["model"] == "digits"
    assert body["meta"]["version"] == "1.0.0"


def test_a_request_longer_than_a_batch_is_answered_whole_and_in_order(client: Client) -> None:
    lines = [line.split() for line in HELDOUT.read_text(encoding="ascii").splitlines()]
    inputs = [{"pixels": [int(figure, 17) for figure in row]} for _, row in lines]
    outputs = client.post("/predict", json={"inputs": inputs}).json()["outputs"]
    right = sum(str(out["label"]) == label for out, (label, _) in zip(outputs, lines, strict=True))
    assert right / len(lines) >= 0.95


@pytest.mark.parametrize(
    ("pixels", "place"),
    [([0] * 63, []), ([0] * 63 + [17], [63]), ([0] * 63 + ["1"], [63]), ([0] * 63 + [True], [63])],
)
def test_an_image_of_another_shape_is_answered_422_with_the_place(
    client: Client, pixels: list[object], place: list[int]
) -> None:
    answer = client.post("/predict", json={"inputs": [{"pixels": pixels}]})
    assert answer.status == 422
    assert answer.json()["details"][0]["loc"] == ["inputs", 0, "pixels", *place]


def test_the_schema_says_what_an_image_is(client: Client) -> None:
    schema = client.get("/schema/digits").json()
    pixels = schema["input"]["properties"]["pixels"]
    assert (pixels["minItems"], pixels["maxItems"]) == (64, 64)
    assert (pixels["items"]["minimum"], pixels["items"]["maximum"]) == (0, 16)
    assert schema["output"]["properties"]["confidence"]["maximum"] == 1
    assert schema["examples"] == [sample.model_dump() for sample in SAMPLES]
