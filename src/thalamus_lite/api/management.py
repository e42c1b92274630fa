"""/schema..., /models/{id}/load and /unload, /cache/clear."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pydantic import ValidationError

from thalamus_lite.errors import ValidationFailed
from thalamus_lite.http.codec import decode
from thalamus_lite.http.response import Response, json_response
from thalamus_lite.model.records import details
from thalamus_lite.schemas.api import UnloadRequest
from thalamus_lite.serving.threads import in_thread

if TYPE_CHECKING:
    from thalamus_lite.http.request import Request
    from thalamus_lite.serving.service import Service

_log = logging.getLogger("thalamus_lite")

MAX_BODY_BYTES = 64 * 1024


class _Body(UnloadRequest, extra="forbid"):
    """As a client sends it: a misspelt ``version`` must not mean all of them."""


class Management:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def schemas(self, request: Request) -> Response:
        return json_response([spec.schema for spec in self._service.registry])

    async def schema(self, request: Request) -> Response:
        spec = self._service.registry.resolve(request.params["id"], request.query("version"))
        return json_response(spec.schema)

    async def versions(self, request: Request) -> Response:
        specs = self._service.registry.versions(request.params["id"])
        return json_response([spec.version for spec in specs])

    async def load(self, request: Request) -> Response:
        model_id = request.params["id"]
        version = await self._version(request, model_id)
        self._service.check_open()
        loaded = await self._service.load(model_id, version)
        return json_response(
            {
                "model_id": model_id,
                "version": version,
                "loaded": bool(loaded),
                "versions_loaded": loaded,
            }
        )

    async def unload(self, request: Request) -> Response:
        model_id = request.params["id"]
        version = await self._version(request, model_id)
        unloaded = await self._service.unload(model_id, version)
        return json_response(
            {
                "model_id": model_id,
                "version": version,
                "unloaded": bool(unloaded),
                "versions_unloaded": unloaded,
            }
        )

    async def clear_cache(self, request: Request) -> Response:
        cleared_bytes, cleared_files = await in_thread(self._service.context.cache.clear)
        _log.info("cache cleared", extra={"bytes": cleared_bytes, "files": cleared_files})
        return json_response({"cleared_bytes": cleared_bytes, "cleared_files": cleared_files})

    async def _version(self, request: Request, model_id: str) -> str | None:
        """The ``version`` of an optional body, checked against the registry."""
        version = None
        body = await request.body(MAX_BODY_BYTES)
        # What is null counts as not sent.
        value = decode(body) if body else None
        if value is not None:
            try:
                version = _Body.model_validate(value).version
            except ValidationError as error:
                raise ValidationFailed(details(error, ())) from None
        self._service.registry.resolve(model_id, version)
        return version
