"""POST /predict: right answers, and the row of the contract's table for everything else."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import sys
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from thalamus_lite import PredictResponse, Thalamus
from thalamus_lite.testing import AsyncClient, Client

if TYPE_CHECKING:
    from types import ModuleType

HI = {"inputs": [{"text": "hi"}]}


def said(answer: Any, status: int, code: str) -> dict[str, Any]:
    """The envelope of an error, whole and nothing else."""
    assert answer.status == status, answer.text
    found: dict[str, Any] = answer.json()
    assert found["code"] == code
    assert found["request_id"] == answer.headers["x-request-id"]
    assert found.keys() - {"details"} == {"error", "code", "request_id"}
    assert ("details" in found) is (code == "validation_error")
    return found


def test_answer_has_outputs_and_meta(client: Client) -> None:
    answer = client.post("/predict", json={"inputs": [{"text": "a"}, {"text": "b"}]})
    assert answer.status == 200
    whole = PredictResponse.model_validate(answer.json())
    assert whole.outputs == [{"text": "A", "score": 0.5}, {"text": "B", "score": 0.5}]
    meta = answer.json()["meta"]
    assert list(meta) == [
        "model", "version", "latency_ms", "batch_size", "preprocessing_ms", "inference_ms",
        "postprocessing_ms", "device",
    ]  # fmt: skip
    assert (meta["model"], meta["version"], meta["device"]) == ("echo", "1.10.0", "cpu")
    assert meta["batch_size"] == 2
    assert meta["latency_ms"] >= meta["inference_ms"] >= 0


def test_hooks_that_are_not_there_took_no_time(client: Client) -> None:
    meta = client.post("/predict", json={**HI, "model": "inline"}).json()["meta"]
    assert meta["preprocessing_ms"] is None
    assert meta["postprocessing_ms"] is None
    assert meta["inference_ms"] >= 0


def test_server_timing_names_every_step(client: Client) -> None:
    timing = client.post("/predict", json=HI).headers["server-timing"]
    number = r"\d+\.\d{3}"
    assert re.fullmatch(
        rf"queue;dur={number}, pre;dur={number}, predict;dur={number}, post;dur={number},"
        r' batch;desc="1"',
        timing,
    )
    timing = client.post("/predict", json={**HI, "model": "inline"}).headers["server-timing"]
    assert re.fullmatch(rf'queue;dur={number}, predict;dur={number}, batch;desc="1"', timing)


@pytest.mark.parametrize(
    ("asked", "served"),
    [
        ({}, "1.10.0"),
        ({"model": None, "version": None}, "1.10.0"),
        ({"model": "echo"}, "1.10.0"),
        ({"model": "echo", "version": "latest"}, "1.10.0"),
        ({"version": "latest"}, "1.10.0"),
        ({"model": "echo", "version": "1.9.0"}, "1.9.0"),
        ({"version": "1.9"}, "1.9.0"),
        ({"version": "v1.9.0"}, "1.9.0"),
        ({"unknown": "field", "metadata": {}}, "1.10.0"),
    ],
)
def test_version_is_resolved(asked: dict[str, Any], served: str, client: Client) -> None:
    assert client.post("/predict", json={**HI, **asked}).json()["meta"]["version"] == served


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        ({"model": "nobody"}, 404, "model_not_found"),
        ({"model": ""}, 404, "model_not_found"),
        ({"model": "ECHO"}, 404, "model_not_found"),
        ({"model": "x" * 100_000}, 404, "model_not_found"),
        ({"version": "3.0"}, 404, "version_not_found"),
        ({"version": ""}, 404, "version_not_found"),
        ({"version": "not a version"}, 404, "version_not_found"),
        ({"version": "9" * 5000}, 404, "version_not_found"),
        ({"version": "1." * 50_000}, 404, "version_not_found"),
        ({"model": 5}, 422, "validation_error"),
        ({"model": ["echo"]}, 422, "validation_error"),
        ({"version": 1.0}, 422, "validation_error"),
        ({"version": {}}, 422, "validation_error"),
        ({"inputs": None}, 422, "validation_error"),
        ({"inputs": []}, 422, "validation_error"),
        ({"inputs": {}}, 422, "validation_error"),
        ({"inputs": "text"}, 422, "validation_error"),
        ({"inputs": [None]}, 422, "validation_error"),
        ({"inputs": [[]]}, 422, "validation_error"),
        ({"inputs": [{"text": 1}]}, 422, "validation_error"),
        ({"inputs": [{"text": None}]}, 422, "validation_error"),
        ({"inputs": [{}]}, 422, "validation_error"),
        ({"inputs": [{"text": "x"}] * 1025}, 422, "too_many_inputs"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_request_is_told_so(
    asked: dict[str, Any], status: int, code: str, client: Client
) -> None:
    said(client.post("/predict", json={**HI, **asked}), status, code)


@pytest.mark.parametrize(
    ("body", "details"),
    [
        (b"[]", [([], "dict_type")]),
        (b"null", [([], "dict_type")]),
        (b"5", [([], "dict_type")]),
        (b'"x"', [([], "dict_type")]),
        (b"{}", [(["inputs"], "missing")]),
        (b'{"inputs":5}', [(["inputs"], "list_type")]),
        (b'{"inputs":[]}', [(["inputs"], "too_short")]),
        (b'{"model":1,"version":2}',
         [(["model"], "string_type"), (["version"], "string_type"), (["inputs"], "missing")]),
        (b'{"inputs":[{"text":"a"},{"text":5},{}]}',
         [(["inputs", 1, "text"], "string_type"), (["inputs", 2, "text"], "missing")]),
        (b'{"inputs":[5]}', [(["inputs", 0], "model_type")]),
    ],
)  # fmt: skip
def test_details_say_where_and_why(
    body: bytes, details: list[tuple[list[Any], str]], client: Client
) -> None:
    found = said(client.post("/predict", content=body), 422, "validation_error")["details"]
    assert [(one["loc"], one["type"]) for one in found] == details
    assert all(one.keys() == {"loc", "msg", "type"} and one["msg"] for one in found)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"\xff", b"\xef\xbb\xbf{}", b'{"inputs":[NaN]}', b'{"inputs":[1e999]}',
        b'{"inputs":["\\ud800"]}', b"[" * 2000, b'{"inputs":[' + b"9" * 5000 + b"]}",
        b"inputs=1", b"\x1f\x8b\x08\x00", b'{"inputs":[1],}',
    ],
    ids=lambda body: repr(body[:20]),
)  # fmt: skip
def test_what_is_not_json_is_400(body: bytes, client: Client) -> None:
    said(client.post("/predict", content=body), 400, "invalid_json")


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"content-type": "text/plain"}, 415, "unsupported_media_type"),
        ({"content-type": "multipart/form-data; boundary=x"}, 415, "unsupported_media_type"),
        ({"content-encoding": "gzip"}, 415, "unsupported_media_type"),
        ({"content-length": "99999999999"}, 413, "body_too_large"),
        ({"content-length": "many"}, 400, "bad_request"),
        ({"accept": "text/event-stream"}, 406, "not_acceptable"),
        ({"x-timeout-ms": "0"}, 422, "validation_error"),
        ({"x-timeout-ms": "-1"}, 422, "validation_error"),
        ({"x-timeout-ms": "nan"}, 422, "validation_error"),
        ({"x-timeout-ms": "inf"}, 422, "validation_error"),
        ({"x-timeout-ms": "soon"}, 422, "validation_error"),
        ({"x-timeout-ms": "86400001"}, 422, "validation_error"),
        ({"x-timeout-ms": "\u00b2"}, 422, "validation_error"),
        ({"x-timeout-ms": ""}, 422, "validation_error"),
        ({"x-timeout-ms": "."}, 422, "validation_error"),
        ({"x-timeout-ms": "1_0_0_0"}, 422, "validation_error"),
        ({"x-timeout-ms": "1e3"}, 422, "validation_error"),
        ({"x-timeout-ms": "1,000"}, 422, "validation_error"),
        ({"x-timeout-ms": "1000 2000"}, 422, "validation_error"),
        ({"x-timeout-ms": "9" * 400}, 422, "validation_error"),
        ({"x-api-key": "wrong"}, 401, "invalid_api_key"),
        ({"x-api-key": "\u00e9"}, 401, "invalid_api_key"),
    ],
)
def test_header_decides(headers: dict[str, str], status: int, code: str, client: Client) -> None:
    said(client.post("/predict", json=HI, headers=headers), status, code)


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/json; charset=utf-8"},
        {"content-type": "application/problem+json"},
        {"content-encoding": "identity"},
        {"accept": "application/json"},
        {"accept": "*/*"},
        {"accept": "application/json, text/event-stream"},
        {"x-timeout-ms": "5000"},
        {"x-timeout-ms": "86400000"},
        {"x-timeout-ms": "5000.5"},
        {"x-timeout-ms": " +5000. "},
        {"content-type": ""},
    ],
)
def test_header_that_is_right_changes_nothing(headers: dict[str, str], client: Client) -> None:
    assert client.post("/predict", json=HI, headers=headers).status == 200


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"content-type": "text/plain"}, 415, "unsupported_media_type"),
        ({"content-length": "99999999999"}, 413, "body_too_large"),
        ({}, 422, "validation_error"),
    ],
)
def test_time_that_cannot_be_read_is_told_before_the_body_is_read(
    headers: dict[str, str], status: int, code: str, client: Client
) -> None:
    answer = client.post("/predict", content=b"{", headers={"x-timeout-ms": "soon", **headers})
    said(answer, status, code)


def test_missing_content_type_counts_as_json(client: Client) -> None:
    answer = client.post("/predict", content=json.dumps(HI).encode())
    assert answer.status == 200


@pytest.mark.parametrize(
    "kind",
    [
        "raises", "exits", "short", "long", "none", "text", "number", "mapping", "nones", "other",
        "nan", "infinite", "surrogate",
    ],
)  # fmt: skip
def test_model_at_fault_is_500_with_a_fixed_text(
    kind: str, client: Client, zoo: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    answer = client.post("/predict", json={"model": "faulty", "inputs": [{"text": kind}]})
    assert said(answer, 500, "model_error")["error"] == "The model failed on this request"
    assert zoo.SECRET not in answer.text
    # And the model serves on.
    fine = client.post("/predict", json={"model": "faulty", "inputs": [{"text": "fine"}]})
    assert fine.json()["outputs"] == [{"text": "fine", "score": 0.5}]
    (record,) = caplog.records
    ident = answer.headers["x-request-id"]
    assert re.match(rf"request {ident} failed: .*faulty@1\.0\.0", record.getMessage())


@pytest.mark.parametrize("kind", ["dicts", "tuple", "generated"])
def test_outputs_may_come_in_other_containers(kind: str, client: Client) -> None:
    answer = client.post("/predict", json={"model": "faulty", "inputs": [{"text": kind}]})
    assert answer.json()["outputs"][0]["text"] == "fine"


async def test_fault_of_one_request_is_not_its_batch_mates(zoo: ModuleType) -> None:
    app = zoo.make_app()
    sizes: list[int] = []

    @app.model(model_id="picky", max_batch_size=8, critical=False)
    class Picky:
        def predict(self, inputs: list[zoo.Text]) -> list[zoo.Shout]:
            sizes.append(len(inputs))
            if any(item.text == "raises" for item in inputs):
                raise ValueError(zoo.SECRET)
            scores = {"nan": float("nan")}
            return [zoo.Shout(text=item.text, score=scores.get(item.text, 1)) for item in inputs]

    async with AsyncClient(app) as client:
        asked = ["a", "nan", "b", "raises", "c", "nan"]
        answers = await asyncio.gather(
            *(
                client.post("/predict", json={"model": "picky", "inputs": [{"text": one}]})
                for one in asked
            )
        )
    assert sizes[0] == 6, "they were one batch"
    assert [answer.status for answer in answers] == [200, 500, 200, 500, 200, 500]
    assert [answer.json()["outputs"][0]["text"] for answer in answers[::2]] == ["a", "b", "c"]


def test_no_default_model_is_a_422() -> None:
    app = Thalamus()

    class Number(BaseModel):
        x: int

    for name in ("one", "two"):

        @app.model(model_id=name)
        class Same:
            def predict(self, inputs: list[Number]) -> list[Number]:
                return inputs

    with Client(app) as client:
        found = said(client.post("/predict", json={"inputs": [{"x": 1}]}), 422, "no_default_model")
        assert found["error"] == "No default model configured"
        assert client.post("/predict", json={"model": "one", "inputs": [{"x": 1}]}).status == 200


def test_lone_model_is_the_default() -> None:
    app = Thalamus()

    @app.model()
    class Alone:
        def predict(self, inputs: list[int]) -> list[int]:
            return [item + 1 for item in inputs]

    with Client(app) as client:
        answer = client.post("/predict", json={"inputs": [1, 2]})
        assert answer.json()["outputs"] == [2, 3]
        assert answer.json()["meta"]["model"] == "Alone"


def slow(client: AsyncClient, text: str, **headers: str) -> Any:
    return client.begin(
        "POST",
        "/predict",
        json={"model": "slow", "inputs": [{"text": text}]},
        headers=headers,
    )


async def entered(app: Any) -> None:
    assert await asyncio.to_thread(app.blocker.entered.wait, 10)


async def test_full_queue_is_429_with_retry_after(zoo: ModuleType) -> None:
    app = zoo.make_app()
    async with AsyncClient(app) as client:
        try:
            running = slow(client, "wait")
            await entered(app)
            waiting = [slow(client, "x"), slow(client, "y")]
            await asyncio.sleep(0)
            refused = await slow(client, "one too many").answer()
            assert said(refused, 429, "queue_full")["error"] == "The model's queue is full"
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            # Another model is untouched.
            assert (await client.post("/predict", json=HI)).status == 200
        finally:
            app.blocker.open.set()
        for line in [running, *waiting]:
            assert (await line.answer()).status == 200


async def test_deadline_passed_is_504_and_what_waited_never_runs(zoo: ModuleType) -> None:
    app = zoo.make_app()
    seen: list[str] = []

    @app.model(model_id="watched", max_batch_size=1, critical=False)
    class Watched:
        def predict(self, inputs: list[zoo.Text]) -> list[zoo.Shout]:
            seen.extend(item.text for item in inputs)
            if inputs[0].text == "wait":
                app.blocker.wait()
            return [zoo.Shout(text="done") for _ in inputs]

    def ask(text: str, **headers: str) -> Any:
        body = {"model": "watched", "inputs": [{"text": text}]}
        return client.begin("POST", "/predict", json=body, headers=headers)

    async with AsyncClient(app) as client:
        try:
            # Long enough to be dispatched on any machine, and then it hangs.
            running = ask("wait", **{"x-timeout-ms": "500"})
            await entered(app)
            waiting = ask("expired", **{"x-timeout-ms": "30"})
            patient = ask("patient")
            for line in (running, waiting):
                said(await line.answer(), 504, "deadline_exceeded")
        finally:
            app.blocker.open.set()
        assert (await patient.answer()).status == 200
    assert seen == ["wait", "patient"]


async def test_lesser_of_both_deadlines_counts(zoo: ModuleType) -> None:
    app = zoo.make_app()

    @app.model(model_id="hasty", timeout_s=0.03, critical=False)
    class Hasty:
        def predict(self, inputs: list[zoo.Text]) -> list[zoo.Shout]:
            app.blocker.wait()
            return [zoo.Shout(text="late") for _ in inputs]

    async with AsyncClient(app) as client:
        try:
            answer = await client.post(
                "/predict",
                json={"model": "hasty", "inputs": [{"text": "x"}]},
                headers={"x-timeout-ms": "20000"},
            )
            said(answer, 504, "deadline_exceeded")
        finally:
            app.blocker.open.set()


async def test_client_that_leaves_takes_its_waiting_inputs_with_it(zoo: ModuleType) -> None:
    app = zoo.make_app()
    async with AsyncClient(app) as client:
        try:
            running = slow(client, "wait")
            await entered(app)
            gone, stays = slow(client, "x"), slow(client, "y")
            await asyncio.sleep(0)
            await gone.hang_up()
            # Its place in the queue is free again.
            replacement = slow(client, "z")
            await asyncio.sleep(0)
        finally:
            app.blocker.open.set()
        for line in (running, stays, replacement):
            assert (await line.answer()).status == 200
        metrics = (await client.get("/metrics")).text
        assert 'thalamus_requests_total{model="slow",status="cancelled"} 1.0' in metrics
        assert 'thalamus_requests_total{model="slow",status="ok"} 3.0' in metrics


async def test_draining_process_takes_no_request_but_still_answers_probes(zoo: ModuleType) -> None:
    app = zoo.make_app()
    async with AsyncClient(app) as client:
        try:
            running = slow(client, "wait")
            await entered(app)
            assert app._starts.engine is not None
            app._starts.engine.drain.begin()
            answer = await client.post("/predict", json=HI)
            assert said(answer, 503, "draining")["error"] == "The server is shutting down"
            assert int(answer.headers["retry-after"]) >= 1
            assert (await client.get("/health")).status == 200
            assert (await client.get("/metrics")).status == 200
            ready = await client.get("/ready")
            assert (ready.status, ready.json()["ready"]) == (503, False)
            said(await client.post("/models/echo/load"), 503, "draining")
        finally:
            app.blocker.open.set()
        assert (await running.answer()).status == 200


async def test_device_that_failed_is_503(zoo: ModuleType) -> None:
    app = zoo.make_app()
    async with AsyncClient(app) as client:
        assert app._starts.engine is not None
        app._starts.engine.service.failed_device = True
        try:
            said(await client.post("/predict", json=HI), 503, "device_failed")
            assert (await client.get("/ready")).status == 503
        finally:
            app._starts.engine.service.failed_device = False


async def test_models_that_are_not_up_say_which_way(zoo: ModuleType) -> None:
    app = zoo.make_app(load="background")
    started = app.blocker

    @app.model(model_id="loads", critical=False)
    class Loads:
        def load(self, weights: dict[str, Any], device: str) -> None:
            started.wait()

        def predict(self, inputs: list[zoo.Text]) -> list[zoo.Text]:
            return inputs

    @app.model(model_id="broken", critical=False)
    class Broken:
        def load(self, weights: dict[str, Any], device: str) -> None:
            raise ValueError(zoo.SECRET)

        def predict(self, inputs: list[zoo.Text]) -> list[zoo.Text]:
            return inputs

    async with AsyncClient(app) as client:
        try:
            await entered(app)
            answer = await client.post("/predict", json={**HI, "model": "loads"})
            said(answer, 503, "model_loading")
            assert int(answer.headers["retry-after"]) >= 1
            await until(client, "broken", "failed")
            answer = await client.post("/predict", json={**HI, "model": "broken"})
            said(answer, 503, "model_load_failed")
            assert int(answer.headers["retry-after"]) >= 1
            assert zoo.SECRET not in answer.text
        finally:
            started.open.set()


async def until(client: AsyncClient, model: str, state: str) -> None:
    """Ask ``/health`` until it says so; there is no event for what only it can tell."""
    async with asyncio.timeout(10):
        while True:
            models = (await client.get("/health")).json()["models"]
            if any(one["id"] == model and one["state"] == state for one in models):
                return
            await asyncio.sleep(0.002)


async def test_model_that_is_unloading_is_503(zoo: ModuleType) -> None:
    app = zoo.make_app()
    async with AsyncClient(app) as client:
        try:
            running = slow(client, "wait")
            await entered(app)
            unload = client.begin("POST", "/models/slow/unload")
            await until(client, "slow", "draining")
            answer = await slow(client, "x").answer()
            said(answer, 503, "model_unloading")
        finally:
            app.blocker.open.set()
        assert (await running.answer()).status == 200
        assert (await unload.answer()).json()["unloaded"] is True
        # And the next request loads it again.
        assert (await slow(client, "x").answer()).status == 200


async def test_lazy_model_is_loaded_once_by_its_first_requests(zoo: ModuleType) -> None:
    app = zoo.make_app(lazy_load=True)
    loads: list[int] = []

    @app.model(model_id="late", max_batch_size=4)
    class Late:
        def load(self, weights: dict[str, Any], device: str) -> None:
            loads.append(1)

        def predict(self, inputs: list[zoo.Text]) -> list[zoo.Text]:
            return inputs

    async with AsyncClient(app) as client:
        assert (await client.get("/ready")).status == 200
        assert loads == []
        answers = await asyncio.gather(
            *(client.post("/predict", json={**HI, "model": "late"}) for _ in range(5))
        )
        assert [answer.status for answer in answers] == [200] * 5
        assert loads == [1]


async def test_request_that_the_server_cancels_is_counted_and_forgotten(zoo: ModuleType) -> None:
    app = zoo.make_app()
    async with AsyncClient(app) as client:
        try:
            body = {"model": "slow", "inputs": [{"text": "wait"}]}
            task = asyncio.ensure_future(client.post("/predict", json=body))
            await entered(app)
            waiting = slow(client, "x")
            await asyncio.sleep(0)
            waiting._task.cancel()
            await asyncio.gather(waiting._task, return_exceptions=True)
            assert (await client.get("/capacity")).json()["inflight_requests"] == 1
        finally:
            app.blocker.open.set()
        assert (await task).status == 200
        metrics = (await client.get("/metrics")).text
        assert 'thalamus_requests_total{model="slow",status="cancelled"} 1.0' in metrics


async def test_request_that_waits_keeps_neither_its_body_nor_what_was_read_from_it(
    zoo: ModuleType, driver: ModuleType
) -> None:
    app = zoo.make_app()
    async with AsyncClient(app) as client:
        try:
            running = slow(client, "wait")
            await entered(app)
            # Unknown fields are read and not kept; the space makes the body no constant.
            body = b"%b " % b'{"model":"slow","inputs":[{"text":"x","not kept":["unknown"]}]}'
            messages = [{"type": "http.request", "body": body, "more_body": False}]
            held = sys.getrefcount(body)
            task = asyncio.ensure_future(
                driver.call(app, "POST", "/predict", [driver.KEY], messages, stays=True)
            )
            while (await client.get("/capacity")).json()["inflight_requests"] < 2:
                pass
            assert sys.getrefcount(body) == held
            assert not any(type(o) is list and o == ["unknown"] for o in gc.get_objects())
        finally:
            app.blocker.open.set()
        assert (await running.answer()).status == (await task).status == 200
