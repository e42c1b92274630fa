"""Our own counters and histograms say exactly what prometheus_client's would."""

from __future__ import annotations

import prometheus_client
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from thalamus_lite.observability import tallies

BOUNDS = (0.0005, 0.001, 0.25, 1.0, 30.0)


def without_created(text: bytes) -> list[bytes]:
    return [line for line in text.splitlines() if b"_created" not in line]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", 'b"\n\\', "\u00e9"]),
            st.sampled_from([*BOUNDS, 0.0, 1e-9, 31.0, 1e9]) | st.floats(0, 100),
        ),
        max_size=30,
    )
)
def test_text_is_that_of_the_client_library(observed: list[tuple[str, float]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    histogram = tallies.Histogram("h", "A histogram", ["model"], buckets=BOUNDS, registry=ours)
    counter = tallies.Counter("c", "A counter", ["model"], registry=ours)
    plain = tallies.Counter("p", "Without labels", [], registry=ours)
    their_histogram = prometheus_client.Histogram(
        "h", "A histogram", ["model"], buckets=BOUNDS, registry=theirs
    )
    their_counter = prometheus_client.Counter("c", "A counter", ["model"], registry=theirs)
    their_plain = prometheus_client.Counter("p", "Without labels", registry=theirs)
    for label, value in observed:
        histogram.labels(label).observe(value)
        counter.labels(label).inc(value)
        plain.inc()
        their_histogram.labels(label).observe(value)
        their_counter.labels(label).inc(value)
        their_plain.inc()
    assert without_created(generate_latest(ours)) == without_created(generate_latest(theirs))


def test_children_are_made_once() -> None:
    registry = CollectorRegistry()
    counter = tallies.Counter("c", "C", ["model", "status"], registry=registry)
    assert counter.labels("m", "ok") is counter.labels("m", "ok")
    assert counter.labels("m", "ok") is not counter.labels("m", "error")
    histogram = tallies.Histogram("h", "H", ["model"], buckets=BOUNDS, registry=registry)
    assert histogram.labels("m") is histogram.labels("m")
