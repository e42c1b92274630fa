"""Serve your own machine-learning models over HTTP.

    from pydantic import BaseModel
    from thalamus_lite import Thalamus

    app = Thalamus()

    class Text(BaseModel):
        text: str

    class Length(BaseModel):
        length: int

    @app.model(model_id="length")
    class LengthModel:
        def predict(self, inputs: list[Text]) -> list[Length]:
            return [Length(length=len(item.text)) for item in inputs]

Then ``uvicorn my_module:app``. ``thalamus_lite.app`` itself is the app of ``uvicorn
thalamus_lite:app``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from thalamus_lite._version import __version__
from thalamus_lite.default import app as app
from thalamus_lite.devices.device import DeviceInfo, DeviceType, GPURequirementError, GPUStatus
from thalamus_lite.schemas.api import (
    CacheClearResponse,
    CacheInfo,
    CapacityResponse,
    HealthResponse,
    ModelCapacity,
    PredictRequest,
    PredictResponse,
    ReadyResponse,
    SchemaResponse,
    StatusResponse,
    UnloadRequest,
    UnloadResponse,
)
from thalamus_lite.schemas.common import Base64Data, BBox, Label, Prob, Span, Vector
from thalamus_lite.schemas.storage import S3PresignedUrl, S3Ref, Url
from thalamus_lite.settings import env, require_env
from thalamus_lite.thalamus import Thalamus
from thalamus_lite.weights.sources import FileWeight, HFWeight, HTTPWeight, S3Weight, WeightSource

if TYPE_CHECKING:
    from thalamus_lite.devices.torch_backend import (
        clear_gpu_cache,
        detect_devices,
        get_gpu_memory,
        get_gpu_status,
        get_optimal_device,
    )
    from thalamus_lite.weights.cache import WeightCache
    from thalamus_lite.weights.entries.stats import CacheStats
    from thalamus_lite.weights.storage import exists_s3, fetch, get_cache, upload_s3

# Imported when first asked for: the cache and the devices bring modules that a client of these
# types does not need.
_LATER = {
    "clear_gpu_cache": "thalamus_lite.devices.torch_backend",
    "detect_devices": "thalamus_lite.devices.torch_backend",
    "get_gpu_memory": "thalamus_lite.devices.torch_backend",
    "get_gpu_status": "thalamus_lite.devices.torch_backend",
    "get_optimal_device": "thalamus_lite.devices.torch_backend",
    "WeightCache": "thalamus_lite.weights.cache",
    "CacheStats": "thalamus_lite.weights.entries.stats",
    "exists_s3": "thalamus_lite.weights.storage",
    "fetch": "thalamus_lite.weights.storage",
    "get_cache": "thalamus_lite.weights.storage",
    "upload_s3": "thalamus_lite.weights.storage",
}


def __getattr__(name: str) -> Any:
    module = _LATER.get(name)
    if module is None:
        raise AttributeError(f"module 'thalamus_lite' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})


__all__ = [
    "BBox",
    "Base64Data",
    "CacheClearResponse",
    "CacheInfo",
    "CacheStats",
    "CapacityResponse",
    "DeviceInfo",
    "DeviceType",
    "FileWeight",
    "GPURequirementError",
    "GPUStatus",
    "HFWeight",
    "HTTPWeight",
    "HealthResponse",
    "Label",
    "ModelCapacity",
    "PredictRequest",
    "PredictResponse",
    "Prob",
    "ReadyResponse",
    "S3PresignedUrl",
    "S3Ref",
    "S3Weight",
    "SchemaResponse",
    "Span",
    "StatusResponse",
    "Thalamus",
    "UnloadRequest",
    "UnloadResponse",
    "Url",
    "Vector",
    "WeightCache",
    "WeightSource",
    "__version__",
    "clear_gpu_cache",
    "detect_devices",
    "env",
    "exists_s3",
    "fetch",
    "get_cache",
    "get_gpu_memory",
    "get_gpu_status",
    "get_optimal_device",
    "require_env",
    "upload_s3",
]
