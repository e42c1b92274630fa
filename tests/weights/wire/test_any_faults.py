"""Whatever a server plays: the exact bytes, or a typed error; never other bytes."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thalamus_lite.errors import WeightError
from thalamus_lite.weights.origin import OriginOptions
from thalamus_lite.weights.origins.http_origin import HTTPOrigin
from thalamus_lite.weights.sources import HTTPWeight
from thalamus_lite.weights.transfer.retry import RetryPolicy

SIZE = 9_000
RANGES = ["bytes 0-8999/9000", "bytes 100-8999/9000", "bytes 1-2/3", "bytes */9000", "nonsense"]

lengths = st.integers(0, SIZE + 10)
faults = st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from([200, 204, 206, 304, 400, 404, 412, 416, 429, 500, 503]),
        "cut": lengths,
        "reset": st.booleans(),
        "ignore_range": st.booleans(),
        "chunked": st.booleans(),
        "shift": st.integers(-3, 3),
        "other": st.booleans(),
        "body": st.binary(max_size=50),
        "raw": st.sampled_from(
            [b"", b"\r\n", b"HTTP/1.1 200\r\n\r\nhello", b"HTTP/1.1 999 X\r\n\r\n"]
        ),
        "headers": st.fixed_dictionaries(
            {},
            optional={
                "ETag": st.sampled_from([None, '"v2"', 'W/"v1"', "v1", '"v1"']),
                "Content-Range": st.sampled_from([None, *RANGES]),
                "Content-Length": st.sampled_from([None, "0", "9000", "9001", "-1", "x", "1, 2"]),
                "Content-Encoding": st.sampled_from(["gzip", "identity", "br"]),
                "Transfer-Encoding": st.sampled_from([None, "chunked"]),
                "Location": st.sampled_from(["/x", "file:///x", "http://["]),
            },
        ),
    },
)


@pytest.fixture
def origin():
    return HTTPOrigin(OriginOptions(timeout_s=0.3))


def play(fault_server, act, fault, make_content):
    fault = dict(fault)
    if fault.pop("other", False):
        # An honest answer about another object: its bytes never come under the first one's ETag.
        fault |= {"content": make_content(SIZE, seed=1), "etag": '"v2"'}
        fault.setdefault("headers", {})
        fault["headers"] = {k: v for k, v in fault["headers"].items() if k != "ETag"}
    return act(**fault)


def lies(fault):
    """Wrong bytes under the right validator: only a digest can tell."""
    headers = fault.get("headers", {})
    # Chunks that are not announced are bytes like others.
    bare_chunks = "chunked" in fault and "Transfer-Encoding" in headers
    return "body" in fault or "Content-Range" in headers or bare_chunks


@settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(script=st.lists(faults, max_size=6), digest=st.booleans(), parallel=st.booleans())
def test_result_is_exact_or_a_typed_error(
    fault_server, act, make_content, make_bench, origin, script, digest, parallel
):
    fault_server.reset()
    fault_server.content = make_content(SIZE)
    bench = make_bench()
    bench.options = replace(
        bench.options,
        parallel_from=4_000 if parallel else 10**9,
        range_bytes=2_000,
        progress_bytes=500,
        retry=RetryPolicy(attempts=3, base_s=0.0),
    )
    digest = digest or any(lies(fault) for fault in script)
    (file,) = origin.list(HTTPWeight(urls=[fault_server.url + "/model.pt"])).files
    if digest:
        sha256 = hashlib.sha256(fault_server.content).hexdigest()
        file = replace(file, digests={"sha256": sha256})
    fault_server.script.extend(play(fault_server, act, fault, make_content) for fault in script)
    try:
        done = bench.run(origin, file)
    except WeightError:
        return
    assert bench.bytes() == fault_server.content
    assert done.sha256 == hashlib.sha256(fault_server.content).hexdigest()
    assert bench.progress.done_bytes == SIZE


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(script=st.lists(faults, max_size=3), heads=st.lists(faults, max_size=3))
def test_listing_is_right_or_a_typed_error(fault_server, act, make_content, origin, script, heads):
    fault_server.reset()
    fault_server.content = make_content(SIZE)
    fault_server.script.extend(play(fault_server, act, fault, make_content) for fault in script)
    fault_server.head_script.extend(play(fault_server, act, fault, make_content) for fault in heads)
    try:
        found = origin.revalidate(HTTPWeight(urls=[fault_server.url + "/model.pt"]), '"v0"')
    except WeightError:
        return
    assert found is None or [file.relpath for file in found.files] == ["model.pt"]
