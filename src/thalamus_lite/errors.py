"""Every error this package raises on purpose.

    ThalamusError
    ├── ConfigurationError          a setting or a declaration that cannot be used
    ├── RequestError                the client's request, answered 4xx
    │   ├── InvalidJSON             400 invalid_json
    │   ├── InvalidApiKey           401 invalid_api_key
    │   ├── RouteNotFound           404 not_found
    │   ├── ModelNotFound           404 model_not_found
    │   ├── VersionNotFound         404 version_not_found
    │   ├── MethodNotAllowed        405 method_not_allowed
    │   ├── NotAcceptable           406 not_acceptable
    │   ├── BodyTooLarge            413 body_too_large
    │   ├── UnsupportedMediaType    415 unsupported_media_type
    │   ├── ValidationFailed        422 validation_error
    │   ├── NoDefaultModel          422 no_default_model
    │   ├── RequestTooLarge         422 too_many_inputs
    │   └── QueueFull               429 queue_full
    ├── ClientDisconnected          nobody is left to answer
    ├── Unavailable                 this process cannot take the request now, 503
    │   ├── AuthNotConfigured       503 auth_not_configured
    │   ├── ModelLoading            503 model_loading
    │   ├── ModelUnloading          503 model_unloading
    │   ├── ModelLoadFailed         503 model_load_failed
    │   ├── ModelNotReady           503 model_not_ready
    │   ├── LaneHung                503 lane_hung
    │   ├── DeviceFailed            503 device_failed
    │   └── Draining                503 draining
    ├── DeadlineExceeded            504 deadline_exceeded
    ├── ModelError                  500 model_error: a hook raised, or answered nonsense
    └── WeightError                 weights that cannot be had, 503
        ├── WeightSourceInvalid     503 weight_source_invalid
        ├── WeightNotFound          503 weight_not_found
        ├── WeightAccessDenied      503 weight_access_denied
        ├── WeightUnreachable       503 weight_unreachable
        ├── WeightOffline           503 weight_offline
        ├── WeightChanged           503 weight_changed
        ├── WeightCorrupt           503 weight_corrupt
        ├── UnsafeName              503 weight_unsafe_name
        ├── CacheFull               503 cache_full
        ├── DiskFull                503 disk_full
        ├── CacheUnusable           503 cache_unusable
        └── MissingExtra            503 missing_extra

An error has two texts. ``str(error)`` is for the operator: it may name a model, a file or a host,
and goes to the log. ``text`` is the fixed sentence of its class and the only one a client is ever
sent.
"""

from __future__ import annotations

from typing import Any, ClassVar


class ThalamusError(Exception):
    """The root of the tree."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    text: ClassVar[str] = "The server failed to answer this request"

    def __init__(self, message: str | None = None, *, retry_after_s: float | None = None) -> None:
        super().__init__(message or self.text)
        self.retry_after_s = retry_after_s


class ConfigurationError(ThalamusError, ValueError):
    """A setting or a declaration that cannot be used; the sentence names it."""

    code = "configuration_error"
    text = "The server is misconfigured"


class RequestError(ThalamusError):
    status = 400
    code = "bad_request"
    text = "The request cannot be understood"


class InvalidJSON(RequestError):
    code = "invalid_json"
    text = "The request body is not valid JSON"


class InvalidApiKey(RequestError):
    status = 401
    code = "invalid_api_key"
    text = "Invalid or missing API key"


class RouteNotFound(RequestError):
    status = 404
    code = "not_found"
    text = "There is no such route"


class ModelNotFound(RequestError):
    status = 404
    code = "model_not_found"
    text = "Model not found"


class VersionNotFound(RequestError):
    status = 404
    code = "version_not_found"
    text = "Model version not found"


class MethodNotAllowed(RequestError):
    status = 405
    code = "method_not_allowed"
    text = "This route does not allow that method"

    def __init__(self, allow: str) -> None:
        super().__init__()
        self.allow = allow


class NotAcceptable(RequestError):
    status = 406
    code = "not_acceptable"
    text = "This model does not stream, so it cannot answer with text/event-stream"


class BodyTooLarge(RequestError):
    status = 413
    code = "body_too_large"
    text = "The request body is larger than this server accepts"


class UnsupportedMediaType(RequestError):
    status = 415
    code = "unsupported_media_type"
    text = "Send application/json without a content encoding"


class ValidationFailed(RequestError):
    """``details`` is ``[{"loc": [...], "msg": str, "type": str}, ...]``, ready for JSON."""

    status = 422
    code = "validation_error"
    text = "The request does not match the schema"

    def __init__(self, details: list[dict[str, Any]]) -> None:
        super().__init__()
        self.details = details


class NoDefaultModel(RequestError):
    status = 422
    code = "no_default_model"
    text = "No default model configured"


class RequestTooLarge(RequestError):
    """More inputs than the model's whole queue holds: waiting would never help."""

    status = 422
    code = "too_many_inputs"
    text = "The request has more inputs than this model's queue can hold"


class QueueFull(RequestError):
    status = 429
    code = "queue_full"
    text = "The model's queue is full"


class ClientDisconnected(ThalamusError):
    status = 499
    code = "client_disconnected"
    text = "The client is gone"


class Unavailable(ThalamusError):
    status = 503
    code = "unavailable"
    text = "The service cannot take this request now"


class AuthNotConfigured(Unavailable):
    code = "auth_not_configured"
    text = "Service authentication not configured"


class ModelLoading(Unavailable):
    code = "model_loading"
    text = "The model is loading"


class ModelUnloading(Unavailable):
    code = "model_unloading"
    text = "The model is being unloaded"


class ModelLoadFailed(Unavailable):
    code = "model_load_failed"
    text = "The model failed to load"


class ModelNotReady(Unavailable):
    code = "model_not_ready"
    text = "The model is not ready"


class LaneHung(Unavailable):
    code = "lane_hung"
    text = "The model is hung and out of service"


class DeviceFailed(Unavailable):
    code = "device_failed"
    text = "The device has failed and this process is going down"


class Draining(Unavailable):
    code = "draining"
    text = "The server is shutting down"


class DeadlineExceeded(ThalamusError):
    status = 504
    code = "deadline_exceeded"
    text = "The deadline passed before the model answered"


class ModelError(ThalamusError):
    code = "model_error"
    text = "The model failed on this request"


class WeightError(ThalamusError):
    status = 503
    code = "weights_unavailable"
    text = "The model's weights cannot be had"


class WeightSourceInvalid(WeightError, ValueError):
    code = "weight_source_invalid"


class WeightNotFound(WeightError):
    code = "weight_not_found"


class WeightAccessDenied(WeightError):
    code = "weight_access_denied"


class WeightUnreachable(WeightError):
    code = "weight_unreachable"


class WeightOffline(WeightError):
    code = "weight_offline"


class WeightChanged(WeightError):
    code = "weight_changed"


class WeightCorrupt(WeightError):
    code = "weight_corrupt"


class UnsafeName(WeightError):
    code = "weight_unsafe_name"


class CacheFull(WeightError):
    """``need``, ``free`` and ``leased`` are bytes."""

    code = "cache_full"

    def __init__(self, need: int, free: int, leased: int) -> None:
        super().__init__(
            f"the weight cache needs {need} bytes, {free} are free and {leased} are in use by"
            " loaded models or downloads: raise THALAMUS_CACHE_MAX_GB or unload a model"
        )
        self.need = need
        self.free = free
        self.leased = leased


class DiskFull(WeightError):
    code = "disk_full"


class CacheUnusable(WeightError):
    code = "cache_unusable"


class MissingExtra(WeightError, ImportError):
    """An optional dependency is not installed; the message is the command that installs it."""

    code = "missing_extra"
