"""The route table: the one place that says which paths exist and who may call them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thalamus_lite.api.management import Management
from thalamus_lite.api.openapi import OpenApi
from thalamus_lite.api.predict import PredictRoute
from thalamus_lite.api.probes import Probes
from thalamus_lite.http.router import Access, Route

if TYPE_CHECKING:
    from thalamus_lite.serving.service import Service
    from thalamus_lite.serving.snapshot import Snapshots
    from thalamus_lite.settings import Settings


def routes(
    name: str, service: Service, snapshots: Snapshots, settings: Settings, lazy: bool
) -> list[Route]:
    probes = Probes(service, snapshots, lazy)
    management = Management(service)
    predicting = PredictRoute(service, settings.max_body_bytes)
    table = [
        Route("GET", "/health", probes.health, Access.PUBLIC),
        Route("GET", "/ready", probes.ready, Access.PUBLIC),
        Route("GET", "/status", probes.status, Access.PUBLIC),
        Route("GET", "/metrics", probes.metrics, Access.PUBLIC),
        Route("GET", "/capacity", probes.capacity),
        Route("GET", "/schema", management.schemas),
        Route("GET", "/schema/{id}", management.schema),
        Route("GET", "/schema/{id}/versions", management.versions),
        Route("POST", "/predict", predicting.predict),
        Route("POST", "/cache/clear", management.clear_cache, Access.ADMIN),
        Route("POST", "/models/{id}/unload", management.unload, Access.ADMIN),
        Route("POST", "/models/{id}/load", management.load, Access.ADMIN),
    ]
    # The document describes itself too.
    document = OpenApi(name, table, service.registry)
    table.append(Route("GET", "/openapi.json", document, Access.PUBLIC))
    document.add(table[-1])
    return table
