"""What a client of thalamus-serve 0.4 relies on, through Starlette's test client and ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel
from starlette.testclient import TestClient

from thalamus_lite import (
    CacheClearResponse,
    CapacityResponse,
    HealthResponse,
    ModelCapacity,
    PredictResponse,
    ReadyResponse,
    SchemaResponse,
    StatusResponse,
    Thalamus,
    UnloadResponse,
)
from thalamus_lite.testing import TEST_API_KEY, TEST_API_KEY_HEADER, Client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Text(BaseModel):
    data: str


class Result(BaseModel):
    result: str


def make_app() -> Thalamus:
    app = Thalamus(name="drop-in", lazy_load=False)

    @app.model(
        model_id="default",
        version="1.0.0",
        description="Makes it loud",
        default=True,
        default_version=True,
        critical=True,
        input_type=Text,
        output_type=Result,
    )
    class Loud:
        def load(self, weights: dict[str, Path], device: str) -> None:
            self.device = device

        @property
        def is_ready(self) -> bool:
            return True

        def preprocess(self, inputs: list[Text]) -> list[str]:
            return [item.data.upper() for item in inputs]

        def predict(self, inputs: list[str]) -> list[dict[str, Any]]:
            return [{"result": text} for text in inputs]

        def postprocess(self, outputs: list[dict[str, Any]]) -> list[Result]:
            return [Result(**output) for output in outputs]

    return app


# (method, path, json, headers) → (status, body, headers)
Ask = "Callable[..., tuple[int, Any, dict[str, str]]]"


@pytest.fixture(params=["starlette", "ours"], scope="module")
def ask(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    patch = pytest.MonkeyPatch()
    patch.setenv("THALAMUS_API_KEY", TEST_API_KEY)
    try:
        if request.param == "starlette":
            with TestClient(make_app()) as theirs:

                def through_starlette(method: str, path: str, **options: Any) -> Any:
                    answer = theirs.request(method, path, **options)
                    return answer.status_code, answer, dict(answer.headers)

                yield through_starlette
        else:
            with Client(make_app(), api_key=None) as ours:

                def through_ours(method: str, path: str, **options: Any) -> Any:
                    answer = ours.request(method, path, **options)
                    return answer.status, answer, answer.headers

                yield through_ours
    finally:
        patch.undo()


def predict(ask: Callable[..., Any], *texts: str, **more: Any) -> Any:
    body = {"model": "default", "inputs": [{"data": text} for text in texts], **more}
    return ask("POST", "/predict", json=body, headers=TEST_API_KEY_HEADER)


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/status"])
def test_probes_are_open(ask: Callable[..., Any], path: str) -> None:
    assert ask("GET", path)[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/schema", None),
        ("GET", "/schema/default", None),
        ("GET", "/schema/default/versions", None),
        ("GET", "/capacity", None),
        ("POST", "/predict", {"model": "default", "inputs": [{"data": "x"}]}),
        ("POST", "/cache/clear", None),
        ("POST", "/models/default/unload", {}),
    ],
)
def test_everything_else_needs_the_key(
    ask: Callable[..., Any], method: str, path: str, body: Any
) -> None:
    options = {} if body is None else {"json": body}
    assert ask(method, path, **options)[0] == 401
    assert ask(method, path, headers={"X-API-Key": "wrong"}, **options)[0] == 401


def test_health_and_ready_have_their_shapes(ask: Callable[..., Any]) -> None:
    health = HealthResponse.model_validate(ask("GET", "/health")[1].json())
    assert health.status == "ok"
    (model,) = health.models
    assert (model.id, model.version) == ("default", "1.0.0")
    assert (model.ready, model.critical) == (True, True)
    assert (model.is_default, model.is_default_version) == (True, True)
    ready = ReadyResponse.model_validate(ask("GET", "/ready")[1].json())
    assert ready.ready is True
    assert ready.models == health.models


def test_status_has_models_cache_gpu_and_uptime(ask: Callable[..., Any]) -> None:
    status = StatusResponse.model_validate(ask("GET", "/status")[1].json())
    assert len(status.models) == 1
    assert status.uptime_seconds >= 0
    assert status.cache is not None
    assert status.cache.max_size_bytes > 0
    assert status.gpu is not None
    assert "available" in status.gpu


def test_capacity_has_its_shape(ask: Callable[..., Any]) -> None:
    code, body, _ = ask("GET", "/capacity", headers=TEST_API_KEY_HEADER)
    assert code == 200
    capacity = CapacityResponse.model_validate(body.json())
    assert (capacity.accepting, capacity.inflight_requests) == (True, 0)
    assert capacity.remaining_requests >= 1
    assert capacity.uptime_seconds >= 0
    assert capacity.models == {
        "default@1.0.0": ModelCapacity(
            accepting=True, remaining_requests=1, ideal_batch_size=1, max_batch_size=1, reason=None
        )
    }


def test_metrics_keep_their_names(ask: Callable[..., Any]) -> None:
    predict(ask, "x")
    _, body, headers = ask("GET", "/metrics")
    assert headers["content-type"].startswith("text/plain")
    for name in (
        "thalamus_requests_total", "thalamus_latency_seconds", "thalamus_batch_size",
        "thalamus_model_info", "thalamus_cache_size_bytes", "thalamus_cache_file_count",
        "thalamus_inference_seconds", "thalamus_preprocessing_seconds", "thalamus_models_loaded",
        "thalamus_postprocessing_seconds", "thalamus_inflight_requests",
        "thalamus_cache_hits_total", "thalamus_cache_misses_total",
    ):  # fmt: skip
        assert f"# HELP {name}" in body.text or f"\n{name}" in body.text, name


def test_schemas_have_their_shape(ask: Callable[..., Any]) -> None:
    _, body, _ = ask("GET", "/schema", headers=TEST_API_KEY_HEADER)
    (listed,) = [SchemaResponse.model_validate(one) for one in body.json()]
    _, body, _ = ask("GET", "/schema/default", headers=TEST_API_KEY_HEADER)
    assert SchemaResponse.model_validate(body.json()) == listed
    assert (listed.id, listed.version, listed.description) == ("default", "1.0.0", "Makes it loud")
    assert listed.input["properties"]["data"]["type"] == "string"
    assert listed.output["properties"]["result"]["type"] == "string"
    _, body, _ = ask("GET", "/schema/default/versions", headers=TEST_API_KEY_HEADER)
    assert body.json() == ["1.0.0"]
    for path in ("/schema/nobody", "/schema/nobody/versions"):
        assert ask("GET", path, headers=TEST_API_KEY_HEADER)[0] == 404


def test_prediction_has_outputs_and_meta(ask: Callable[..., Any]) -> None:
    code, body, _ = predict(ask, "test")
    assert code == 200
    answer = PredictResponse.model_validate(body.json())
    assert answer.outputs == [{"result": "TEST"}]
    meta = answer.meta
    assert (meta.model, meta.version, meta.batch_size) == ("default", "1.0.0", 1)
    assert meta.latency_ms >= 0
    for part in (meta.preprocessing_ms, meta.inference_ms, meta.postprocessing_ms):
        assert part is not None
        assert part >= 0


def test_batch_keeps_count_and_order(ask: Callable[..., Any]) -> None:
    _, body, _ = predict(ask, "item-0", "item-1", "item-2")
    answer = PredictResponse.model_validate(body.json())
    assert [output["result"] for output in answer.outputs] == ["ITEM-0", "ITEM-1", "ITEM-2"]
    assert answer.meta.batch_size == 3


def test_model_may_be_left_out(ask: Callable[..., Any]) -> None:
    body = {"inputs": [{"data": "test"}]}
    code, answer, _ = ask("POST", "/predict", json=body, headers=TEST_API_KEY_HEADER)
    assert code == 200
    assert answer.json()["meta"]["model"] == "default"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"model": "nobody", "inputs": [{"data": "x"}]}, 404),
        ({"model": "default", "version": "9.9.9", "inputs": [{"data": "x"}]}, 404),
        ({"model": "default", "inputs": []}, 422),
        ({"model": "default"}, 422),
        ({"model": "default", "inputs": [{"data": 5}]}, 422),
        ({"model": "default", "inputs": [{"other": "x"}]}, 422),
    ],
)
def test_wrong_predictions_keep_their_status(
    ask: Callable[..., Any], body: dict[str, Any], status: int
) -> None:
    code, answer, _ = ask("POST", "/predict", json=body, headers=TEST_API_KEY_HEADER)
    assert code == status
    assert answer.json().keys() >= {"error", "code", "request_id"}


def test_cache_clear_has_its_shape(ask: Callable[..., Any]) -> None:
    code, body, _ = ask("POST", "/cache/clear", headers=TEST_API_KEY_HEADER)
    assert code == 200
    cleared = CacheClearResponse.model_validate(body.json())
    assert (cleared.cleared_bytes, cleared.cleared_files) == (0, 0)


def test_unload_has_its_shape_and_the_next_request_loads_again(ask: Callable[..., Any]) -> None:
    path = "/models/nobody/unload"
    assert ask("POST", path, json={}, headers=TEST_API_KEY_HEADER)[0] == 404
    path = "/models/default/unload"
    for body, unloaded in (({}, True), ({"version": "1.0.0"}, False)):
        code, answer, _ = ask("POST", path, json=body, headers=TEST_API_KEY_HEADER)
        assert code == 200
        found = UnloadResponse.model_validate(answer.json())
        assert (found.model_id, found.unloaded) == ("default", unloaded)
        assert found.versions_unloaded == (["1.0.0"] if unloaded else [])
    body = {"version": "7.0.0"}
    assert ask("POST", path, json=body, headers=TEST_API_KEY_HEADER)[0] == 404
    assert predict(ask, "x")[0] == 200


def test_request_id_is_echoed(ask: Callable[..., Any]) -> None:
    assert ask("GET", "/health", headers={"X-Request-ID": "mine"})[2]["x-request-id"] == "mine"
    assert ask("GET", "/nowhere", headers={"X-Request-ID": "mine"})[2]["x-request-id"] == "mine"


def test_starlettes_client_without_a_lifespan_works_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its requests each run in a loop of their own; the app starts at the first one."""
    monkeypatch.setenv("THALAMUS_API_KEY", TEST_API_KEY)
    client = TestClient(make_app())
    for _ in range(3):
        body = {"inputs": [{"data": "x"}]}
        answer = client.post("/predict", json=body, headers=TEST_API_KEY_HEADER)
        assert (answer.status_code, answer.json()["outputs"]) == (200, [{"result": "X"}])
