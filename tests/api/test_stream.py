"""Models that yield: their events, and the same collected as JSON."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator  # noqa: TC003  # resolved at registration
from typing import TYPE_CHECKING, Any

import pytest

from thalamus_lite import Thalamus
from thalamus_lite.testing import AsyncClient, Client

if TYPE_CHECKING:
    from types import ModuleType

SSE = {"accept": "text/event-stream"}
STREAMING = ["words", "async.words"]


def ask(model: str, text: str) -> dict[str, Any]:
    return {"model": model, "inputs": [{"text": text}]}


@pytest.mark.parametrize("model", STREAMING)
def test_each_output_is_an_event_and_the_meta_the_last(model: str, client: Client) -> None:
    answer = client.post("/predict", json=ask(model, "one two"), headers=SSE)
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-request-id"]
    events = answer.events()
    assert [event.name for event in events] == ["message", "message", "done"]
    assert [event.json() for event in events[:2]] == [
        {"text": "one", "score": 0.5},
        {"text": "two", "score": 0.5},
    ]
    meta = events[2].json()
    assert (meta["model"], meta["batch_size"], meta["device"]) == (model, 1, "cpu")


@pytest.mark.parametrize(
    "text",
    ["a\u2028b", "\u2029", "a\u0085\u2028", "\u201csaid\u201d \u2026", "\u00c2\x7f", "\U0001f600"],
)
@pytest.mark.parametrize("ends", ["", " boom"])
def test_line_of_a_stream_is_one_to_whoever_splits_it(text: str, ends: str) -> None:
    """Some clients end lines where `str.splitlines` does."""
    app = Thalamus()

    @app.model()
    class Says:
        def predict(self, inputs: list[str]) -> Iterator[dict[str, str]]:
            yield {text: inputs[0]}
            if ends:
                raise ValueError

    with Client(app) as client:
        answer = client.post("/predict", json={"inputs": [text]}, headers=SSE)
    lines = [line for line in answer.text.splitlines() if line]
    assert json.loads(lines[0].removeprefix("data: ")) == {text: text}
    assert [line.partition(":")[0] for line in lines] == ["data", "event", "data"]
    # What need not be escaped is not.
    assert ("\\u" in lines[0]) is any(one in text for one in "\u2028\u2029\u0085")


@pytest.mark.parametrize("model", STREAMING)
def test_stream_without_outputs_is_done_at_once(model: str, client: Client) -> None:
    answer = client.post("/predict", json=ask(model, ""), headers=SSE)
    assert [event.name for event in answer.events()] == ["done"]


@pytest.mark.parametrize("model", STREAMING)
def test_same_model_collects_its_outputs_for_json(model: str, client: Client) -> None:
    answer = client.post("/predict", json=ask(model, "one two three"))
    assert answer.headers["content-type"] == "application/json"
    assert [output["text"] for output in answer.json()["outputs"]] == ["one", "two", "three"]
    assert answer.json()["meta"]["batch_size"] == 1
    assert client.post("/predict", json=ask(model, "")).json()["outputs"] == []


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("text/event-stream;q=0.1, application/json", "application/json"),
        ("text/event-stream, application/json", "text/event-stream"),
        ("text/event-stream;q=0.5, */*;q=0.1", "text/event-stream"),
    ],
)
def test_kind_that_is_wanted_more_is_sent(accept: str, kind: str, client: Client) -> None:
    answer = client.post("/predict", json=ask("words", "one"), headers={"accept": accept})
    assert (answer.status, answer.headers["content-type"]) == (200, kind)


@pytest.mark.parametrize("model", STREAMING)
def test_error_before_the_first_output_has_its_own_status(
    model: str, client: Client, zoo: ModuleType
) -> None:
    for headers in (SSE, {}):
        answer = client.post("/predict", json=ask(model, "boom"), headers=headers)
        assert answer.status == 500
        assert answer.json()["code"] == "model_error"
        assert zoo.SECRET not in answer.text


@pytest.mark.parametrize("model", STREAMING)
def test_error_after_it_is_an_event(
    model: str, client: Client, zoo: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    answer = client.post("/predict", json=ask(model, "one boom two"), headers=SSE)
    assert answer.status == 200
    events = answer.events()
    assert [event.name for event in events] == ["message", "error"]
    error = events[1].json()
    assert error == {
        "error": "The model failed on this request",
        "code": "model_error",
        "request_id": answer.headers["x-request-id"],
    }
    assert zoo.SECRET not in answer.text
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize("model", STREAMING)
def test_error_while_collecting_leaves_no_half_of_an_answer(model: str, client: Client) -> None:
    answer = client.post("/predict", json=ask(model, "one boom"))
    assert (answer.status, answer.json()["code"]) == (500, "model_error")
    assert "one" not in answer.text


def test_bad_input_is_told_before_the_stream(client: Client) -> None:
    answer = client.post("/predict", json={"model": "words", "inputs": [{}]}, headers=SSE)
    assert (answer.status, answer.json()["code"]) == (422, "validation_error")


def numbers(closed: threading.Event, gate: threading.Event | None = None) -> Thalamus:
    """A model that counts for ever, and says when its generator was closed."""
    app = Thalamus()

    @app.model(model_id="sync")
    class Counts:
        def predict(self, inputs: list[int]) -> Iterator[float]:
            number = inputs[0]
            try:
                while True:
                    yield float("nan") if number == 3 else float(number)
                    number += 1
            finally:
                closed.set()

    @app.model(model_id="async")
    class CountsOnLoop:
        async def predict(self, inputs: list[int]) -> AsyncIterator[float]:
            number = inputs[0]
            try:
                while True:
                    yield float("nan") if number == 3 else float(number)
                    await asyncio.sleep(0)
                    number += 1
            finally:
                closed.set()

    return app


@pytest.mark.parametrize("model", ["sync", "async"])
@pytest.mark.parametrize("reads", [0, 1, 3])
async def test_reader_that_leaves_closes_the_generator(model: str, reads: int) -> None:
    closed = threading.Event()
    async with AsyncClient(numbers(closed)) as client:
        body = {"model": model, "inputs": [10]}
        async with client.stream("POST", "/predict", json=body, headers=SSE) as answer:
            if reads:
                count = 0
                async for _ in answer.events():
                    count += 1
                    if count >= reads:
                        break
            assert not closed.is_set()
        assert await asyncio.to_thread(closed.wait, 10)
        status = (await client.get("/capacity")).json()
        assert status["inflight_requests"] == 0


@pytest.mark.parametrize("model", ["sync", "async"])
@pytest.mark.parametrize("headers", [SSE, {}])
async def test_output_that_cannot_be_sent_ends_the_stream(
    model: str, headers: dict[str, str]
) -> None:
    closed = threading.Event()
    async with AsyncClient(numbers(closed)) as client:
        answer = await client.post(
            "/predict", json={"model": model, "inputs": [1]}, headers=headers
        )
        if headers:
            # What came before the bad one is sent, though it may have come together with it.
            assert [event.name for event in answer.events()] == ["message", "message", "error"]
            assert [event.data for event in answer.events()[:2]] == ["1.0", "2.0"]
            assert answer.events()[2].json()["code"] == "model_error"
        else:
            assert (answer.status, answer.json()["code"]) == (500, "model_error")
        assert await asyncio.to_thread(closed.wait, 10)
        assert (await client.get("/capacity")).json()["inflight_requests"] == 0


async def test_gap_longer_than_the_deadline_ends_the_stream() -> None:
    app, release = Thalamus(), threading.Event()

    @app.model(model_id="halting", timeout_s=0.5)
    class Halting:
        def predict(self, inputs: list[int]) -> Iterator[int]:
            yield 1
            release.wait(30)
            yield 2

    async with AsyncClient(app) as client:
        try:
            answer = await client.post("/predict", json={"inputs": [1]}, headers=SSE)
            assert [event.name for event in answer.events()] == ["message", "error"]
            assert answer.events()[1].json()["code"] == "deadline_exceeded"
        finally:
            release.set()


async def test_hooks_see_each_output_of_a_stream() -> None:
    app = Thalamus()

    @app.model()
    class Hooked:
        def preprocess(self, inputs: list[int]) -> list[int]:
            return [item * 10 for item in inputs]

        def predict(self, inputs: list[int]) -> Iterator[int]:
            yield from inputs

        def postprocess(self, outputs: list[int]) -> list[str]:
            return [f"<{item}>" for item in outputs]

    async with AsyncClient(app) as client:
        answer = await client.post("/predict", json={"inputs": [1, 2]})
        assert answer.json()["outputs"] == ["<10>", "<20>"]
        assert answer.json()["meta"]["preprocessing_ms"] >= 0


@pytest.mark.parametrize("cut", ["at its start", "in its middle"])
async def test_stream_that_the_server_gives_up_is_counted_as_cancelled(
    cut: str, driver: ModuleType
) -> None:
    """Some servers raise at the next send once the client is gone; others cancel the request."""
    closed = threading.Event()
    app = numbers(closed)
    async with AsyncClient(app) as client:
        sent = 0

        async def send(message: Any) -> None:
            nonlocal sent
            sent += 1
            if sent > (1 if cut == "in its middle" else 0):
                raise OSError("gone")

        scope = {
            "type": "http", "http_version": "1.1", "method": "POST", "path": "/predict",
            "headers": [driver.KEY, (b"accept", b"text/event-stream")],
        }  # fmt: skip
        messages = driver.body({"model": "sync", "inputs": [10]})
        never = asyncio.Event()

        async def receive() -> Any:
            if messages:
                return messages.pop(0)
            await never.wait()

        await app(scope, receive, send)
        assert await asyncio.to_thread(closed.wait, 10)
        found = (await client.get("/metrics")).text
        assert 'thalamus_requests_total{model="sync",status="ok"} 0.0' in found
        if cut == "in its middle":
            assert 'thalamus_requests_total{model="sync",status="cancelled"} 1.0' in found
        assert (await client.get("/capacity")).json()["inflight_requests"] == 0
