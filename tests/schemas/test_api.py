"""The types in which clients read answers take what thalamus-serve 0.4 sent, and what is new."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from thalamus_lite import (
    CacheClearResponse,
    CacheInfo,
    CapacityResponse,
    HealthResponse,
    ModelCapacity,
    PredictRequest,
    PredictResponse,
    StatusResponse,
    UnloadRequest,
    UnloadResponse,
)
from thalamus_lite.schemas.api import ErrorResponse

OLD_MODEL = {
    "id": "m", "version": "1.0.0", "ready": True, "is_default": True, "is_default_version": True,
    "critical": True,
}  # fmt: skip


def test_answers_without_the_new_fields_are_read() -> None:
    assert (
        HealthResponse.model_validate({"status": "ok", "models": [OLD_MODEL]}).models[0].id == "m"
    )
    status = StatusResponse.model_validate(
        {"models": [], "cache": None, "gpu": None, "uptime_seconds": 1.5}
    )
    assert status.pid is None
    cache = CacheInfo(size_bytes=1, file_count=2, max_size_bytes=3, hit_rate=0.5)
    assert cache.downloads is None
    meta = {"model": "m", "version": "1", "latency_ms": 1.0, "batch_size": 1}
    answer = PredictResponse.model_validate({"outputs": [{"a": 1}], "meta": meta})
    assert (answer.meta.device, answer.meta.inference_ms) == (None, None)


def test_request_has_at_least_one_input() -> None:
    assert PredictRequest(inputs=[1]).model is None
    for wrong in ({"inputs": []}, {}, {"inputs": [1], "model": 5}):
        with pytest.raises(ValidationError):
            PredictRequest.model_validate(wrong)


def test_capacity_of_a_hook_accepts_unless_it_says_no() -> None:
    capacity = ModelCapacity(remaining_requests=1, ideal_batch_size=1, max_batch_size=1)
    assert (capacity.accepting, capacity.reason) == (True, None)
    whole = CapacityResponse(
        accepting=True,
        remaining_requests=1,
        models={"m@1": capacity},
        inflight_requests=0,
        uptime_seconds=0.5,
    )
    assert whole.models["m@1"].max_batch_size == 1


def test_small_ones_keep_their_fields() -> None:
    assert UnloadRequest().version is None
    assert CacheClearResponse(cleared_bytes=1, cleared_files=2).cleared_files == 2
    answer = {"model_id": "m", "version": None, "unloaded": True, "versions_unloaded": ["1"]}
    assert UnloadResponse.model_validate(answer).model_dump() == answer


def test_error_is_read_with_its_details() -> None:
    detail = {"loc": ["inputs", 0], "msg": "no", "type": "x"}
    error = ErrorResponse.model_validate(
        {"error": "e", "code": "c", "request_id": "r", "details": [detail]}
    )
    assert error.details is not None
    assert error.details[0].loc == ["inputs", 0]
