"""/health /ready /status /capacity /metrics: answered from memory, whatever the models do."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from thalamus_lite.http.accept import prefers
from thalamus_lite.http.response import Response, json_response
from thalamus_lite.serving import status

if TYPE_CHECKING:
    from thalamus_lite.http.request import Request
    from thalamus_lite.serving.service import Service
    from thalamus_lite.serving.snapshot import Snapshots


class Probes:
    def __init__(self, service: Service, snapshots: Snapshots, lazy: bool) -> None:
        self._service = service
        self._snapshots = snapshots
        self._lazy = lazy

    async def health(self, request: Request) -> Response:
        return json_response({"status": "ok", "models": self._models()})

    async def ready(self, request: Request) -> Response:
        """200 or 503, with one body: who is ready and who is not."""
        service = self._service
        lazy = self._lazy
        ready = service.open and not any(
            status.holds_back(service.runtime(spec), lazy) for spec in service.registry
        )
        response = json_response({"ready": ready, "models": self._models()}, 200 if ready else 503)
        if not ready:
            response.headers.append((b"retry-after", b"1"))
        return response

    async def status(self, request: Request) -> Response:
        return json_response(
            {
                "models": self._models(),
                "cache": self._snapshots.cache_info(),
                "gpu": self._snapshots.gpu,
                "uptime_seconds": round(self._service.uptime_s, 2),
                "pid": os.getpid(),
            }
        )

    async def capacity(self, request: Request) -> Response:
        service = self._service
        return json_response(
            status.capacity(
                [service.runtime(spec) for spec in service.registry],
                service.inflight,
                service.uptime_s,
                open_=service.open,
            )
        )

    async def metrics(self, request: Request) -> Response:
        self._snapshots.update_metrics()
        open_metrics = prefers(request.accept(), b"application/openmetrics-text", b"text/plain")
        body, content_type = self._service.metrics.render(open_metrics)
        return Response(body, content_type=content_type.encode("ascii"))

    def _models(self) -> list[dict[str, Any]]:
        service = self._service
        registry = service.registry
        return [status.model_status(service.runtime(spec), registry) for spec in registry]
