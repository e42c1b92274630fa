"""Secrets as canaries: planted wherever one can be, looked for in every log line and answer."""

from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel, field_validator

from thalamus_lite import Thalamus
from thalamus_lite.observability.logs import LOGGER, configure
from thalamus_lite.testing import AsyncClient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

API_KEY = "canary-api-key-1f0c"
FILE_KEY = "canary-file-key-2f0c"
ADMIN_KEY = "canary-admin-key-3f0c"
WRONG_KEY = "canary-wrong-key-4f0c"
RAISED = "canary-exception-5f0c"
KEYS = [API_KEY, FILE_KEY, ADMIN_KEY, WRONG_KEY]

INJECTIONS = [
    "x\r\nX-Injected: 1", 'y\n{"level": "critical", "event": "forged"}', "\x1b[2J", "\u2028forged",
]  # fmt: skip


class Guarded(BaseModel):
    text: str

    @field_validator("text")
    @classmethod
    def _check(cls, value: str) -> str:
        if value == "breaks":
            raise KeyError(RAISED)
        return value


def make_app() -> Thalamus:
    app = Thalamus()

    @app.model(model_id="m")
    class Raises:
        def predict(self, inputs: list[Guarded]) -> list[Guarded]:
            if inputs[0].text == "raises":
                raise ValueError(RAISED)
            if inputs[0].text == "wrong":
                return [RAISED for _ in inputs]  # type: ignore[misc]
            return inputs

    @app.model(model_id="unloadable", critical=False)
    class Unloadable:
        def load(self, weights: dict[str, Path], device: str) -> None:
            raise OSError(RAISED)

        def predict(self, inputs: list[Guarded]) -> list[Guarded]:
            return inputs

    return app


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    logger, stream = logging.getLogger(LOGGER), io.StringIO()
    before = logger.handlers[:], logger.level, logger.propagate
    configure("DEBUG", stream)
    yield stream
    logger.handlers[:], logger.level, logger.propagate = before[0], before[1], before[2]


def lines(log: io.StringIO) -> list[dict[str, Any]]:
    """Each line is one JSON object, or this fails."""
    return [json.loads(line) for line in log.getvalue().split("\n")[:-1]]


@pytest.fixture
def _keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(FILE_KEY + "\n")
    monkeypatch.setenv("THALAMUS_API_KEY", API_KEY)
    monkeypatch.setenv("THALAMUS_API_KEY_FILE", str(file))
    monkeypatch.setenv("THALAMUS_ADMIN_KEY", ADMIN_KEY)
    monkeypatch.setenv("THALAMUS_ACCESS_LOG", "1")


@pytest.mark.usefixtures("_keys")
async def test_no_canary_is_ever_found(log: io.StringIO) -> None:
    answers: list[Any] = []
    async with AsyncClient(make_app(), api_key=None) as client:
        for key in KEYS:
            for headers in ({"x-api-key": key}, {"authorization": f"Bearer {key}"}):
                for text in ("fine", "raises", "wrong", "breaks"):
                    body = {"model": "m", "inputs": [{"text": text}]}
                    answers.append(await client.post("/predict", json=body, headers=headers))
                body = {"model": "unloadable", "inputs": [{"text": "x"}]}
                answers.append(await client.post("/predict", json=body, headers=headers))
                for method, path in (
                    ("GET", "/capacity"), ("GET", "/schema"), ("POST", "/cache/clear"),
                    ("POST", "/models/m/unload"), ("POST", "/models/unloadable/load"),
                    ("GET", "/nowhere"), ("PUT", "/predict"), ("GET", "/health"),
                    ("GET", "/status"), ("GET", "/ready"), ("GET", "/metrics"),
                    ("GET", "/openapi.json"),
                ):  # fmt: skip
                    answers.append(await client.request(method, path, headers=headers))
    assert {answer.status for answer in answers} >= {200, 401, 404, 405, 500, 503}
    for answer in answers:
        whole = answer.text + repr(answer.headers)
        for canary in (*KEYS, RAISED):
            assert canary not in whole
    text = log.getvalue()
    for canary in KEYS:
        assert canary not in text
    # The operator, and only the operator, reads what was raised.
    assert RAISED in text
    assert len(lines(log)) > len(answers)


@pytest.mark.usefixtures("_keys")
@pytest.mark.parametrize("text", INJECTIONS, ids=repr)
async def test_request_cannot_forge_a_log_line(text: str, log: io.StringIO) -> None:
    async with AsyncClient(make_app(), api_key=API_KEY) as client:
        wild = text.encode("utf-8", "surrogateescape").decode("latin-1")
        for headers in ({"x-request-id": wild}, {"traceparent": wild}, {"user-agent": wild}):
            await client.post(
                "/predict", json={"model": "m", "inputs": [{"text": "raises"}]}, headers=headers
            )
        await client.get("/" + text.replace("?", ""))
        await client.request("M" + text, "/predict")
        await client.post("/predict", json={"model": text, "inputs": [1]})
        answer = await client.get("/health", headers={"x-request-id": wild})
        assert "\n" not in answer.headers["x-request-id"]
    for line in lines(log):
        assert line["event"] != "forged"
        assert line.keys() >= {"timestamp", "level", "logger", "event"}
    assert "\x1b" not in log.getvalue()


@pytest.mark.usefixtures("_keys")
async def test_request_id_and_trace_are_in_its_lines(log: io.StringIO) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    async with AsyncClient(make_app(), api_key=API_KEY) as client:
        body = {"model": "m", "inputs": [{"text": "raises"}]}
        headers = {"x-request-id": "req-1", "traceparent": trace}
        answer = await client.post("/predict", json=body, headers=headers)
        assert answer.json()["request_id"] == answer.headers["x-request-id"] == "req-1"
    mine = [line for line in lines(log) if line.get("request_id") == "req-1"]
    assert [line["event"] for line in mine] == [
        "request req-1 failed: m@1.0.0 failed: ValueError",
        "request",
    ]
    assert all(line["traceparent"] == trace for line in mine)
    assert RAISED in mine[0]["exception"]
    assert mine[1]["status"] == 500
    assert mine[1]["ms"] >= 0


@pytest.mark.usefixtures("_keys")
async def test_error_of_a_load_is_told_to_the_operator_only(log: io.StringIO) -> None:
    async with AsyncClient(make_app(), api_key=API_KEY) as client:
        health = await client.get("/health")
        (found,) = [m for m in health.json()["models"] if m["id"] == "unloadable"]
        assert (found["state"], found["error"]) == ("failed", "model_load_failed")
        assert RAISED not in health.text
    assert RAISED in log.getvalue()


@pytest.mark.usefixtures("_keys")
async def test_long_path_makes_no_long_line(log: io.StringIO) -> None:
    async with AsyncClient(make_app(), api_key=API_KEY) as client:
        await client.get("/" + "a" * 100_000)
    # Not those of other requests: a traceback is as long as the folders that it names.
    (line,) = [line for line in log.getvalue().splitlines() if "aaa" in line]
    assert len(line) < 1000
