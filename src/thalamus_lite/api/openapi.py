"""GET /openapi.json: all routes, with the models' own schemas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pydantic.json_schema import models_json_schema

from thalamus_lite import _version
from thalamus_lite.api.components import REF, Components
from thalamus_lite.http.response import json_response
from thalamus_lite.http.router import Access
from thalamus_lite.schemas import api

if TYPE_CHECKING:
    from collections.abc import Iterable

    from thalamus_lite.http.request import Request
    from thalamus_lite.http.response import Response
    from thalamus_lite.http.router import Route
    from thalamus_lite.model.spec import ModelSpec

# Of a URL's path; ``%`` is left, since some roots are configured in their encoded form.
_IN_A_PATH = "/%:@!$&'()*+,;=~"

# path → (summary, request body, answer, statuses besides 200)
_DESCRIPTIONS: dict[str, tuple[str, Any, Any, tuple[int, ...]]] = {
    "/health": ("Whether the process answers", None, api.HealthResponse, ()),
    "/ready": ("Whether it should get traffic", None, api.ReadyResponse, (503,)),
    "/status": ("Models, cache, devices", None, api.StatusResponse, ()),
    "/metrics": ("Prometheus metrics", None, str, ()),
    "/openapi.json": ("This document", None, dict, ()),
    "/capacity": ("How much work is accepted now", None, api.CapacityResponse, ()),
    "/schema": ("Schemas of all models", None, [api.SchemaResponse], ()),
    "/schema/{id}": ("Schemas of one model", None, api.SchemaResponse, (400, 404)),
    "/schema/{id}/versions": ("Versions, highest first", None, [str], (404,)),
    "/predict": (
        "Run a model",
        api.PredictRequest,
        api.PredictResponse,
        (400, 404, 406, 413, 415, 422, 429, 500, 503, 504),
    ),
    "/cache/clear": ("Drop cached weights not in use", None, api.CacheClearResponse, ()),
    "/models/{id}/unload": (
        "Drain and unload",
        api.UnloadRequest,
        api.UnloadResponse,
        (400, 404, 413, 415, 422, 503),
    ),
    "/models/{id}/load": (
        "Load",
        api.UnloadRequest,
        api.LoadResponse,
        (400, 404, 413, 415, 422, 503),
    ),
}

# Where the answer is not JSON, or not JSON only.
_KINDS: dict[str, dict[str, Any]] = {
    "/metrics": {"text/plain": str, "application/openmetrics-text": str},
    "/predict": {"application/json": api.PredictResponse, "text/event-stream": str},
}

_TYPES = (
    api.HealthResponse, api.ReadyResponse, api.StatusResponse, api.CapacityResponse,
    api.SchemaResponse, api.PredictRequest, api.PredictResponse, api.CacheClearResponse,
    api.UnloadRequest, api.UnloadResponse, api.LoadResponse, api.ErrorResponse,
)  # fmt: skip

_SCHEMA_OF = {str: {"type": "string"}, dict: {"type": "object"}}


class OpenApi:
    """The document, made at the first request for it, and again when a model was registered
    since.
    """

    def __init__(self, name: str, routes: Iterable[Route], registry: Any) -> None:
        self._name = name
        self._routes = list(routes)
        self._registry = registry
        self._made: tuple[int, dict[str, Any]] | None = None

    def add(self, route: Route) -> None:
        self._routes.append(route)

    async def __call__(self, request: Request) -> Response:
        count = len(self._registry)
        if self._made is None or self._made[0] != count:
            self._made = (count, document(self._name, self._routes, self._registry))
        made = self._made[1]
        root = request.scope.get("root_path", "").strip("/")
        if root:
            made = {**made, "servers": [{"url": "/" + quote(root, safe=_IN_A_PATH)}]}
        return json_response(made)


def document(name: str, routes: Iterable[Route], specs: Iterable[ModelSpec]) -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    _, shared = models_json_schema(
        [(kind, "serialization") for kind in _TYPES], ref_template=REF + "{model}"
    )
    components = Components(shared["$defs"])
    schemas = components.schemas
    schemas["UnloadRequest"]["additionalProperties"] = False
    records: dict[str, list[dict[str, Any]]] = {"Input": [], "Output": []}
    for spec in specs:
        for side, described in (
            ("Input", spec.inputs.json_schema("validation")),
            ("Output", spec.outputs.json_schema("serialization")),
        ):
            reference = components.add(f"{spec.id}-{spec.version}-{side}", described)
            records[side].append({"$ref": reference})
    components.tell_apart()
    for side, container, field in (
        ("Input", "PredictRequest", "inputs"),
        ("Output", "PredictResponse", "outputs"),
    ):
        if records[side]:
            schemas[container]["properties"][field]["items"] = {"anyOf": records[side]}
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": name, "version": _version.__version__},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "ApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "Bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    summary, body, answer, statuses = _DESCRIPTIONS[route.path]
    kinds = _KINDS.get(route.path, {"application/json": answer})
    content = {kind: {"schema": _schema(what)} for kind, what in kinds.items()}
    operation: dict[str, Any] = {
        "summary": summary,
        "operationId": _operation_id(route),
        "responses": {"200": {"description": "OK", "content": content}},
    }
    error = {"application/json": {"schema": _schema(api.ErrorResponse)}}
    closed = () if route.access == Access.PUBLIC else (401, 503)
    for status in sorted({*statuses, *closed}):
        content = error
        if route.path == "/ready":
            content = {"application/json": {"schema": _schema(answer)}}
        operation["responses"][str(status)] = {"description": _REASONS[status], "content": content}
    if "{id}" in route.path:
        operation["parameters"] = [
            {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
        ]
    if route.path == "/schema/{id}":
        operation["parameters"].append(
            {"name": "version", "in": "query", "required": False, "schema": {"type": "string"}}
        )
    if body is not None:
        operation["requestBody"] = {
            "required": route.path == "/predict",
            "content": {"application/json": {"schema": _schema(body)}},
        }
    if closed:
        operation["security"] = [{"ApiKey": []}, {"Bearer": []}]
    return operation


def _operation_id(route: Route) -> str:
    return route.method.lower() + route.path.replace("/", "_").replace("{id}", "id")


_REASONS = {
    400: "Not valid JSON, or a query that cannot be read",
    401: "Invalid or missing API key",
    404: "Not found",
    406: "The model does not stream",
    413: "Body too large",
    415: "Not application/json",
    422: "The request does not match the schema",
    429: "The queue is full",
    500: "The model failed",
    503: "Not now",
    504: "The deadline passed",
}


def _schema(kind: Any) -> dict[str, Any]:
    if isinstance(kind, list):
        return {"type": "array", "items": _schema(kind[0])}
    plain = _SCHEMA_OF.get(kind)
    return plain if plain is not None else {"$ref": REF + kind.__name__}
