"""What the HTTP routes take and answer. Clients may import these to read answers."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class ModelStatus(BaseModel):
    id: str
    version: str
    ready: bool
    is_default: bool = False
    is_default_version: bool = False
    critical: bool = True
    state: str | None = None
    error: str | None = None


class HealthResponse(BaseModel):
    status: str
    models: list[ModelStatus]


class ReadyResponse(BaseModel):
    ready: bool
    models: list[ModelStatus]


class SchemaResponse(BaseModel):
    """``input`` and ``output`` are JSON Schemas of one record; ``examples`` are sample inputs."""

    id: str
    version: str
    description: str
    input: dict[str, Any]
    output: dict[str, Any]
    examples: list[Any] | None = None


class PredictRequest(BaseModel):
    model: str | None = None
    version: str | None = None
    inputs: list[Any] = Field(min_length=1)


class PredictMeta(BaseModel):
    """Times are milliseconds; ``batch_size`` counts this request's inputs."""

    model: str
    version: str
    latency_ms: float
    batch_size: int
    preprocessing_ms: float | None = None
    inference_ms: float | None = None
    postprocessing_ms: float | None = None
    device: str | None = None


class PredictResponse(BaseModel):
    outputs: list[Any]
    meta: PredictMeta


class DownloadInfo(BaseModel):
    """A download under way; ``total_bytes`` is null while the server has not said."""

    name: str
    done_bytes: int
    total_bytes: int | None = None


class CacheInfo(BaseModel):
    size_bytes: int
    file_count: int
    max_size_bytes: int
    hit_rate: float
    downloads: list[DownloadInfo] | None = None


class StatusResponse(BaseModel):
    models: list[ModelStatus]
    cache: CacheInfo | None
    gpu: dict[str, Any] | None
    uptime_seconds: float
    pid: int | None = None


class CacheClearResponse(BaseModel):
    cleared_bytes: int
    cleared_files: int


class UnloadRequest(BaseModel):
    version: str | None = None


class UnloadResponse(BaseModel):
    model_id: str
    version: str | None
    unloaded: bool
    versions_unloaded: list[str]


class LoadResponse(BaseModel):
    model_id: str
    version: str | None
    loaded: bool
    versions_loaded: list[str]


class ModelCapacity(BaseModel):
    """How much one model takes now. A ``capacity()`` hook returns one of these."""

    accepting: bool = True
    remaining_requests: int
    ideal_batch_size: int
    max_batch_size: int
    reason: str | None = None


class CapacityResponse(BaseModel):
    accepting: bool
    remaining_requests: int
    models: dict[str, ModelCapacity]
    inflight_requests: int
    uptime_seconds: float


class ErrorDetail(BaseModel):
    loc: list[str | int]
    msg: str
    type: str


class ErrorResponse(BaseModel):
    error: str
    code: str
    request_id: str
    details: list[ErrorDetail] | None = None
