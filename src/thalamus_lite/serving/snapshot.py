"""Figures that cost a driver call or a lock, read off the loop every few seconds; the probes read
the last ones.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from thalamus_lite.serving.carried import carry
from thalamus_lite.serving.states import State
from thalamus_lite.serving.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from thalamus_lite.serving.service import Service

_log = logging.getLogger("thalamus_lite")

REFRESH_S = 5.0
UPDATES = 5


class Snapshots:
    """``gpu_status`` is asked in a thread, since a driver may take its time, or hang."""

    def __init__(self, service: Service, gpu_status: Callable[[], dict[str, Any] | None]) -> None:
        self._service = service
        self._gpu_status = gpu_status
        self._counted: dict[str, float] = {}
        self.gpu: dict[str, Any] = {
            "available": False,
            "device_count": 0,
            "torch_version": None,
            "devices": [],
        }

    async def refresh(self) -> None:
        try:
            self.gpu = await in_thread(self._gpu_status) or self.gpu
            await in_thread(self._read_cache)
        except Exception:
            _log.warning("devices or cache cannot be read", exc_info=True)

    async def keep_fresh(self) -> None:
        """Until cancelled."""
        while True:
            await self.refresh()
            for _ in range(UPDATES):
                if self._service.metrics.shared:
                    # Another worker's scrape reads what this one wrote last.
                    self.update_metrics()
                await asyncio.sleep(REFRESH_S / UPDATES)

    def _read_cache(self) -> None:
        cache = self._service.context.cache
        # Looking must not make a cache where no model ever asked for one.
        if (cache.cache_dir / "index.db").exists():
            cache.refresh()

    def cache_info(self) -> dict[str, Any]:
        """The ``cache`` part of ``/status``."""
        cache = self._service.context.cache.snapshot()
        asked = cache.hits + cache.misses
        return {
            "size_bytes": cache.size_bytes,
            "file_count": cache.files,
            "max_size_bytes": cache.max_bytes,
            "hit_rate": cache.hits / asked if asked else 0.0,
            "downloads": [
                {"name": d.name, "done_bytes": d.done_bytes, "total_bytes": d.total_bytes}
                for d in cache.downloads
            ],
        }

    def update_metrics(self) -> None:
        """Carry what is counted elsewhere into the metrics, at a scrape."""
        service = self._service
        metrics = service.metrics
        runtimes = list(service.runtimes.values())
        metrics.inflight.set(service.inflight)
        metrics.loaded.set(sum(runtime.state is State.READY for runtime in runtimes))
        depth: dict[str, int] = {}
        for runtime in runtimes:
            spec = runtime.spec
            metrics.info.labels(spec.id, spec.version).set(1)
            group = runtime.group
            depth[spec.id] = depth.get(spec.id, 0) + (group.queue.depth if group else 0)
            if group is not None:
                carry(metrics, spec.id, group)
        for model_id, waiting in depth.items():
            metrics.queue_depth.labels(model_id).set(waiting)
        self._update_cache_metrics()
        for device in self.gpu["devices"]:
            kind, _, index = device["device"].partition(":")
            for gauge, figure in (
                (metrics.gpu_used, device.get("used_mb")),
                (metrics.gpu_total, device.get("total_mb")),
            ):
                if figure is not None:
                    gauge.labels(kind, index or "0").set(figure)

    def _update_cache_metrics(self) -> None:
        metrics = self._service.metrics
        cache = self._service.context.cache.snapshot()
        metrics.cache_bytes.set(cache.size_bytes)
        metrics.cache_files.set(cache.files)
        metrics.cache_leases.set(cache.leases)
        for counter, name in (
            (metrics.cache_hits, "hits"),
            (metrics.cache_misses, "misses"),
            (metrics.cache_stale, "stale_total"),
            (metrics.download_bytes, "bytes_total"),
            (metrics.download_retries, "retries_total"),
            (metrics.download_resumed, "resumed_total"),
        ):
            self._count(counter, name, getattr(cache, name))

    def _count(self, counter: Any, name: str, total: float) -> None:
        """Bring a counter up to a total that is kept elsewhere; one that began anew counts from 0
        again.
        """
        last = self._counted.get(name, 0.0)
        counter.inc(total - last if total >= last else total)
        self._counted[name] = total
