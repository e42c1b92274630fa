"""Metrics: their names, their labels, their bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families

from thalamus_lite import errors
from thalamus_lite.observability.metrics import REJECTIONS, STATUSES, Metrics
from thalamus_lite.testing import Client

if TYPE_CHECKING:
    from types import ModuleType

PROMISED = {
    "thalamus_requests": ("counter", {"model", "status"}),
    "thalamus_latency_seconds": ("histogram", {"model"}),
    "thalamus_batch_size": ("histogram", {"model"}),
    "thalamus_preprocessing_seconds": ("histogram", {"model"}),
    "thalamus_inference_seconds": ("histogram", {"model"}),
    "thalamus_postprocessing_seconds": ("histogram", {"model"}),
    "thalamus_inflight_requests": ("gauge", set()),
    "thalamus_models_loaded": ("gauge", set()),
    "thalamus_model_info": ("gauge", {"model_id", "version"}),
    "thalamus_cache_size_bytes": ("gauge", set()),
    "thalamus_cache_file_count": ("gauge", set()),
    "thalamus_cache_hits": ("counter", set()),
    "thalamus_cache_misses": ("counter", set()),
    "thalamus_gpu_memory_used_mb": ("gauge", {"device_type", "device_index"}),
    "thalamus_gpu_memory_total_mb": ("gauge", {"device_type", "device_index"}),
    "thalamus_queue_depth": ("gauge", {"model"}),
    "thalamus_queue_wait_seconds": ("histogram", {"model"}),
    "thalamus_executed_batch_size": ("histogram", {"model"}),
    "thalamus_rejections": ("counter", {"model", "reason"}),
    "thalamus_reruns": ("counter", {"model"}),
    "thalamus_lane_busy_seconds": ("counter", {"model"}),
    "thalamus_download_bytes": ("counter", set()),
    "thalamus_download_retries": ("counter", set()),
    "thalamus_download_resumed": ("counter", set()),
    "thalamus_cache_leases": ("gauge", set()),
}

HI = {"inputs": [{"text": "hi"}]}


def families(text: str) -> dict[str, prometheus_client.Metric]:
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(text: str, name: str, **labels: str) -> float | None:
    for family in families(text).values():
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return sample.value
    return None


def test_promised_metrics_are_there_with_their_labels(zoo: ModuleType) -> None:
    with Client(zoo.make_app()) as client:
        client.post("/predict", json=HI)
        found = families(client.get("/metrics").text)
    for name, (kind, labels) in PROMISED.items():
        assert found[name].type == kind, name
        for sample in found[name].samples:
            assert sample.labels.keys() - {"le"} == labels, sample


def test_request_is_counted_by_its_outcome(zoo: ModuleType) -> None:
    with Client(zoo.make_app()) as client:
        for _ in range(3):
            client.post("/predict", json=HI)
        client.post("/predict", json={"model": "faulty", "inputs": [{"text": "raises"}]})
        client.post("/predict", json={"model": "faulty", "inputs": [{}]})
        client.post("/predict", json={"model": "slow", "inputs": [{"text": "x"}] * 5})
        client.post("/predict", json={"model": "words", "inputs": [{"text": "a b"}]})
        client.post(
            "/predict",
            json={"model": "words", "inputs": [{"text": "a boom"}]},
            headers={"accept": "text/event-stream"},
        )
        client.post("/predict", json=HI, headers={"accept": "text/event-stream"})
        text = client.get("/metrics").text
    expected = {
        ("echo", "ok"): 3, ("echo", "invalid"): 1, ("faulty", "error"): 1, ("faulty", "invalid"): 1,
        ("slow", "rejected"): 1, ("words", "ok"): 1, ("words", "error"): 1,
    }  # fmt: skip
    samples = families(text)["thalamus_requests"].samples
    counted = {
        (one.labels["model"], one.labels["status"]): one.value for one in samples if one.value
    }
    assert counted == expected
    assert value(text, "thalamus_rejections_total", model="slow", reason="too_many_inputs") == 1
    assert value(text, "thalamus_latency_seconds_count", model="echo") == 3
    assert value(text, "thalamus_batch_size_sum", model="echo") == 3
    assert value(text, "thalamus_preprocessing_seconds_count", model="echo") == 3
    assert value(text, "thalamus_inference_seconds_count", model="echo") == 3
    assert value(text, "thalamus_model_info", model_id="echo", version="1.9.0") == 1
    assert value(text, "thalamus_models_loaded") == 7
    assert value(text, "thalamus_inflight_requests") == 0
    assert value(text, "thalamus_queue_depth", model="echo") == 0


def test_buckets_reach_down_to_half_a_millisecond(zoo: ModuleType) -> None:
    with Client(zoo.make_app()) as client:
        client.post("/predict", json=HI)
        found = families(client.get("/metrics").text)
    for name in ("latency", "inference", "preprocessing", "postprocessing", "queue_wait"):
        samples = found[f"thalamus_{name}_seconds"].samples
        bounds = {float(one.labels["le"]) for one in samples if "le" in one.labels}
        assert min(bounds) == 0.0005
        assert max(bounds - {float("inf")}) >= 30


def test_unknown_names_make_no_series(zoo: ModuleType) -> None:
    with Client(zoo.make_app()) as client:
        client.post("/predict", json=HI)
        before = client.get("/metrics").text.count("\nthalamus_")
        for number in range(200):
            client.post("/predict", json={**HI, "model": f"ghost-{number}"})
            client.post("/predict", json={**HI, "version": f"9.{number}"})
            client.get(f"/schema/ghost-{number}")
            client.get(f"/ghost/{number}")
            client.request(f"M{number}", "/predict")
            client.post(f"/models/ghost-{number}/unload")
        text = client.get("/metrics").text
    assert text.count("\nthalamus_") == before
    assert "ghost" not in text


def test_metrics_of_the_users_own_appear(zoo: ModuleType) -> None:
    own = prometheus_client.Counter("my_own_things", "Things")
    try:
        own.inc(3)
        with Client(zoo.make_app()) as client:
            assert "my_own_things_total 3.0" in client.get("/metrics").text
            assert "python_info" in client.get("/metrics").text
    finally:
        prometheus_client.REGISTRY.unregister(own)


def test_two_apps_in_a_process_count_for_themselves(zoo: ModuleType) -> None:
    with Client(zoo.make_app()) as one, Client(zoo.make_app()) as other:
        one.post("/predict", json=HI)
        for client, count in ((one, 1), (other, 0)):
            found = value(
                client.get("/metrics").text, "thalamus_requests_total", model="echo", status="ok"
            )
            assert (found or 0) == count


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (errors.ModelError(), "error", None),
        (errors.ThalamusError(), "error", None),
        (errors.QueueFull(), "rejected", "queue_full"),
        (errors.RequestTooLarge(), "rejected", "too_many_inputs"),
        (errors.DeadlineExceeded(), "expired", "deadline_exceeded"),
        (errors.ClientDisconnected(), "cancelled", None),
        (errors.ValidationFailed([]), "invalid", None),
        (errors.NotAcceptable(), "invalid", None),
        (errors.ModelLoading(), "unavailable", "model_loading"),
        (errors.ModelUnloading(), "unavailable", "model_unloading"),
        (errors.ModelLoadFailed(), "unavailable", "model_load_failed"),
        (errors.LaneHung(), "unavailable", "lane_hung"),
        (errors.DeviceFailed(), "unavailable", "device_failed"),
        (errors.Draining(), "unavailable", "draining"),
        (errors.WeightNotFound(), "unavailable", None),
    ],
    ids=lambda value: getattr(value, "code", value),
)
def test_each_error_has_its_status_and_reason(
    error: errors.ThalamusError, status: str, reason: str | None
) -> None:
    metrics = Metrics()
    metrics.model("m").failed(error)
    text = metrics.render(False)[0].decode()
    for one in STATUSES:
        found = value(text, "thalamus_requests_total", model="m", status=one)
        assert found == (1.0 if one == status else 0.0)
    for one in REJECTIONS:
        found = value(text, "thalamus_rejections_total", model="m", reason=one)
        assert found == (1.0 if one == reason else 0.0)


def test_children_of_a_model_are_made_once() -> None:
    metrics = Metrics()
    assert metrics.model("m") is metrics.model("m")
    metrics.close()


def test_openmetrics_is_parsed_by_its_own_parser(zoo: ModuleType) -> None:
    from prometheus_client.openmetrics.parser import (
        text_string_to_metric_families as parse,
    )

    with Client(zoo.make_app()) as client:
        client.post("/predict", json=HI)
        answer = client.get("/metrics", headers={"accept": "application/openmetrics-text"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert {"thalamus_requests", "thalamus_latency_seconds"} <= {
        one.name for one in parse(answer.text)
    }
