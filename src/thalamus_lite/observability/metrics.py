"""Prometheus metrics, with the names of thalamus-serve and a few more.

Label values come from registered models and fixed tables only, so a client cannot make a new
series. Children are bound once a model. With several workers (``PROMETHEUS_MULTIPROC_DIR``)
counters and histograms are sums; each gauge names the mode that makes it true.

prometheus_client is imported here, at start-up. It reads that variable when it is imported, so the
mode is the one that it is in, and not what the environment says by now.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    exposition,
    multiprocess,
    values,
)

from thalamus_lite.observability import tallies

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from thalamus_lite.errors import ThalamusError

_LATENCY = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

STATUSES = ("ok", "error", "rejected", "unavailable", "expired", "cancelled", "invalid")
"""The values of ``thalamus_requests_total{status}``."""

_BY_CODE = {
    "model_error": "error",
    "queue_full": "rejected",
    "too_many_inputs": "rejected",
    "deadline_exceeded": "expired",
    "client_disconnected": "cancelled",
    "validation_error": "invalid",
    "not_acceptable": "invalid",
}

REJECTIONS = (
    "queue_full", "too_many_inputs", "deadline_exceeded", "model_loading", "model_unloading",
    "model_load_failed", "model_not_ready", "lane_hung", "device_failed", "draining",
)  # fmt: skip


class HookTimes(Protocol):
    """Seconds; None where there is no such hook."""

    preprocess_s: float | None
    predict_s: float
    postprocess_s: float | None


class Answered(Protocol):
    """A request, as far as the metrics know it."""

    @property
    def size(self) -> int: ...
    @property
    def queue_s(self) -> float: ...
    @property
    def times(self) -> HookTimes: ...


class Ran(Protocol):
    """A batch, as far as the metrics know it."""

    @property
    def size(self) -> int: ...


class Passes(Protocol):
    """What became of it: passes beyond the first were run to isolate a failure."""

    @property
    def passes(self) -> int: ...


class ModelMetrics:
    """The children of one model, each a bound method: nothing is looked up on the hot path."""

    def __init__(self, metrics: Metrics, model_id: str) -> None:
        self._requests = {status: metrics.requests.labels(model_id, status) for status in STATUSES}
        self._ok: Callable[[], None] = self._requests["ok"].inc
        self._each_request: Any = [
            family.labels(model_id)
            for family in (
                metrics.latency,
                metrics.batch_size,
                metrics.queue_wait,
                metrics.inference,
            )
        ]
        self._observe_four = _observe_four if metrics.shared else tallies.observe_four
        self._preprocessing: Callable[[float], None] = metrics.preprocessing.labels(
            model_id
        ).observe
        self._postprocessing: Callable[[float], None] = metrics.postprocessing.labels(
            model_id
        ).observe
        self._executed: Callable[[float], None] = metrics.executed.labels(model_id).observe
        self._reruns: Callable[[float], None] = metrics.reruns.labels(model_id).inc
        self._rejections = {
            reason: metrics.rejections.labels(model_id, reason) for reason in REJECTIONS
        }

    def answered(self, request: Answered, latency_s: float) -> None:
        """Count a request that was answered with outputs."""
        times = request.times
        self._ok()
        self._observe_four(
            self._each_request, latency_s, request.size, request.queue_s, times.predict_s
        )
        if times.preprocess_s is not None:
            self._preprocessing(times.preprocess_s)
        if times.postprocess_s is not None:
            self._postprocessing(times.postprocess_s)

    def ran(self, batch: Ran, report: Passes | None) -> None:
        """Count a batch that was run; a stream, which has no report, is never run again."""
        self._executed(batch.size)
        if report is not None and report.passes > 1:
            self._reruns(report.passes - 1)

    def failed(self, error: ThalamusError) -> None:
        """Count a request that was answered with an error."""
        status = _BY_CODE.get(error.code, "unavailable" if error.status == 503 else "error")
        self._requests[status].inc()
        rejection = self._rejections.get(error.code)
        if rejection is not None:
            rejection.inc()


def _observe_four(series: Sequence[Histogram], *values: float) -> None:
    for one, value in zip(series, values, strict=True):
        one.observe(value)


class Metrics:
    """All metrics of one app, in a registry of their own, so that two apps in a process do not
    clash.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.shared = values.ValueClass is not values.MutexValue
        """Whether several workers write, and a scrape of one is a scrape of all."""
        if self.shared:
            _forget_the_dead()
        self._models: dict[str, ModelMetrics] = {}
        self.requests = self._counter(
            "requests", "Requests by model and outcome", "model", "status"
        )
        self.latency = self._histogram("latency_seconds", "From receipt to answer", _LATENCY)
        self.batch_size = self._histogram("batch_size", "Inputs of one request", _SIZES)
        self.preprocessing = self._histogram("preprocessing_seconds", "In preprocess()", _LATENCY)
        self.inference = self._histogram("inference_seconds", "In predict()", _LATENCY)
        self.postprocessing = self._histogram(
            "postprocessing_seconds", "In postprocess()", _LATENCY
        )
        self.queue_wait = self._histogram(
            "queue_wait_seconds", "From admission to a lane", _LATENCY
        )
        self.executed = self._histogram(
            "executed_batch_size", "Inputs of one executed batch", _SIZES
        )
        self.reruns = self._counter("reruns", "Passes run again to isolate a failure", "model")
        self.rejections = self._counter(
            "rejections", "Requests turned away, by reason", "model", "reason"
        )
        self.inflight = self._gauge("inflight_requests", "Requests being answered", "livesum")
        self.loaded = self._gauge("models_loaded", "Models that are loaded", "livemin")
        self.info = self._gauge(
            "model_info", "1 for each registered model", "livemax", "model_id", "version"
        )
        self.queue_depth = self._gauge("queue_depth", "Waiting inputs", "livesum", "model")
        self.holds = self._counter(
            "batch_holds", "Batches held for clients about to return", "model"
        )
        self.hold_gain = self._counter(
            "batch_hold_gained_inputs", "Inputs that joined a batch while it was held", "model"
        )
        self.lane_busy = self._counter("lane_busy_seconds", "Time lanes spent in hooks", "model")
        self.cache_bytes = self._gauge("cache_size_bytes", "Cache size in bytes", "livemostrecent")
        self.cache_files = self._gauge("cache_file_count", "Files in the cache", "livemostrecent")
        self.cache_leases = self._gauge("cache_leases", "Leases held on cached weights", "livesum")
        self.cache_hits = self._counter("cache_hits", "Weights found in the cache")
        self.cache_misses = self._counter("cache_misses", "Weights that had to be fetched")
        self.cache_stale = self._counter("cache_stale", "Cached weights served unrevalidated")
        self.download_bytes = self._counter("download_bytes", "Bytes of weights downloaded")
        self.download_retries = self._counter("download_retries", "Download attempts repeated")
        self.download_resumed = self._counter("download_resumed", "Downloads resumed")
        self.gpu_used = self._gauge(
            "gpu_memory_used_mb",
            "Memory in use, all processes",
            "livemostrecent",
            "device_type",
            "device_index",
        )
        self.gpu_total = self._gauge(
            "gpu_memory_total_mb",
            "Memory of the device",
            "livemostrecent",
            "device_type",
            "device_index",
        )

    def model(self, model_id: str) -> ModelMetrics:
        """The metrics of a registered model, shared by its versions."""
        found = self._models.get(model_id)
        if found is None:
            found = self._models[model_id] = ModelMetrics(self, model_id)
        return found

    def render(self, open_metrics: bool) -> tuple[bytes, str]:
        """The exposition, as OpenMetrics or as Prometheus text, and its content type."""
        # Never a client's header: prometheus_client would put its version into the answer's type.
        wanted = "application/openmetrics-text; version=1.0.0" if open_metrics else ""
        encoder, content_type = exposition.choose_encoder(wanted)
        if self.shared:
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
            return encoder(registry), content_type
        merged = CollectorRegistry()
        merged.register(_Both(self.registry, REGISTRY))
        return encoder(merged), content_type

    def close(self) -> None:
        if self.shared:
            multiprocess.mark_process_dead(os.getpid())  # type: ignore[no-untyped-call]

    def _counter(self, name: str, text: str, *labels: str) -> Counter | tallies.Counter:
        kind = Counter if self.shared else tallies.Counter
        return kind(f"thalamus_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, mode: Any, *labels: str) -> Gauge:
        return Gauge(
            f"thalamus_{name}", text, labels, registry=self.registry, multiprocess_mode=mode
        )

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...]
    ) -> Histogram | tallies.Histogram:
        kind = Histogram if self.shared else tallies.Histogram
        return kind(f"thalamus_{name}", text, ["model"], registry=self.registry, buckets=buckets)


def _forget_the_dead() -> None:
    """Remove the gauges of workers that were killed: they had no time to do it themselves."""
    # The collector of a scrape; here it only says which folder it would read.
    collector = multiprocess.MultiProcessCollector(None)  # type: ignore[no-untyped-call]
    for path in Path(getattr(collector, "_path", os.devnull)).glob("gauge_live*_*.db"):
        pid = path.stem.rpartition("_")[2]
        if pid.isdecimal() and not _is_alive(int(pid)):
            # Several workers start at once, and each of them looks.
            with suppress(FileNotFoundError):
                path.unlink()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


class _Both:
    """Our metrics and the process-wide ones: Python's, the process's, and the user's own."""

    def __init__(self, *registries: CollectorRegistry) -> None:
        self._registries = registries

    def collect(self) -> Any:
        for registry in self._registries:
            yield from registry.collect()

    def describe(self) -> list[Any]:
        return []
