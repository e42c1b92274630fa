"""The same app, unchanged, under every server, over real sockets."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types import ModuleType

SERVERS = ["uvicorn-httptools", "uvicorn-h11", "hypercorn", "granian"]
KEY = "X-API-Key: test-api-key-for-testing\r\n"
HI = {"inputs": [{"text": "hi"}]}
BODY = json.dumps(HI).encode()
MIB = 1024 * 1024
# As the fixture of the servers sets it.
LIMIT = MIB // 4


def test_prediction(real_server: Any) -> None:
    answer = real_server.request("POST", "/predict", HI, KEY + "X-Request-ID: mine\r\n")
    assert answer.status == 200
    assert answer.json()["outputs"] == [{"text": "HI", "score": 0.5}]
    assert answer.header("x-request-id") == "mine"
    assert answer.header("content-type") == "application/json"
    assert answer.header("server-timing").startswith("queue;dur=")


def test_target_in_absolute_form(real_server: Any) -> None:
    answer = real_server.request("POST", "http://t/predict", HI)
    assert (answer.status, answer.json()["outputs"][0]["text"]) == (200, "HI")
    assert real_server.request("GET", "http://t/health", headers="").status == 200
    assert real_server.request("GET", "http://t/schema", headers="").status == 401


@pytest.mark.parametrize("sent", [b"", b'{"inp'])
def test_deadline_passes_while_the_body_is_awaited(
    real_server: Any, servers: ModuleType, sent: bytes
) -> None:
    head = servers.head("POST", "/predict", "Content-Length: 20", "X-Timeout-Ms: 50")
    with real_server.connect() as line:
        line.sendall(head + sent)
        received = b""
        while b"deadline_exceeded" not in received:
            piece = line.recv(65536)
            assert piece, received
            received += piece
    assert received.split()[1] == b"504"
    servers.alive(real_server)


def test_stream_of_events(real_server: Any) -> None:
    body = {"model": "words", "inputs": [{"text": "one two"}]}
    answer = real_server.request("POST", "/predict", body, KEY + "Accept: text/event-stream\r\n")
    assert answer.header("content-type") == "text/event-stream"
    names = re.findall(rb"^event: (\w+)|^data: \{\"text\":\"(\w+)\"", answer.body, re.M)
    assert names == [(b"", b"one"), (b"", b"two"), (b"done", b"")]


@pytest.mark.parametrize(
    ("method", "target", "status", "code"),
    [
        ("GET", "/health", 200, None), ("GET", "/ready", 200, None), ("GET", "/metrics", 200, None),
        ("GET", "/openapi.json", 200, None), ("HEAD", "/health", 200, None),
        ("OPTIONS", "/predict", 204, None), ("GET", "/predict", 405, "method_not_allowed"),
        ("DELETE", "/health", 405, "method_not_allowed"), ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/schema/echo?version=1.9.0", 200, None), ("POST", "/predict", 400, "invalid_json"),
        ("GET", "/health/", 404, "not_found"), ("POST", "/models/x/load", 404, "model_not_found"),
    ],
)  # fmt: skip
def test_route(real_server: Any, method: str, target: str, status: int, code: str | None) -> None:
    body = b"" if method == "POST" else None
    answer = real_server.request(method, target, body)
    assert answer.status == status
    if code is not None:
        assert answer.json()["code"] == code
    if status == 405:
        assert answer.header("allow")
    if method == "HEAD":
        assert answer.body == b""
        assert int(answer.header("content-length")) > 0


def test_bearer(real_server: Any, servers: ModuleType) -> None:
    line = "Authorization: Bearer test-api-key-for-testing"
    raw = real_server.send(servers.head("GET", "/schema", "Connection: close", line, key=False))
    assert raw.split()[1] == b"200"


def test_body_over_the_cap_is_413(real_server: Any, servers: ModuleType) -> None:
    declared = real_server.send(servers.post(b"x" * (LIMIT + 1), "Connection: close"))
    assert declared.split()[1] == b"413"
    fits = real_server.send(servers.post(b" " * (LIMIT - len(BODY)) + BODY, "Connection: close"))
    assert fits.split()[1] == b"200"
    start = servers.head("POST", "/predict", "Transfer-Encoding: chunked", "Connection: close")
    long = real_server.send(start + servers.chunked(*[b"x" * 10_000] * (LIMIT // 10_000 + 1)))
    # granian gives up now and then.
    assert not long or long.split()[1] == b"413"
    assert real_server.send(start + servers.chunked(*[b" " * 9999] * 20, BODY)).split()[1] == b"200"
    servers.alive(real_server)


@pytest.mark.parametrize(
    ("status", "target", "lines"),
    [
        (401, "/predict", ["X-API-Key: wrong"]), (404, "/nowhere", []), (405, "/health", []),
        (413, "/predict", []), (415, "/predict", ["Content-Type: text/plain"]),
        (422, "/predict", ["X-Timeout-Ms: soon"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("in_chunks", [False, True])
# granian lets go of some connections whose answer has begun, whatever the app does.
@pytest.mark.parametrize("real_server", SERVERS[:3], indirect=True)
@pytest.mark.parametrize("then", ["close", "keep-alive"])
def test_client_that_reads_when_it_has_sent_all_gets_its_error(
    real_server: Any,
    servers: ModuleType,
    status: int,
    target: str,
    lines: list[str],
    in_chunks: bool,
    then: str,
) -> None:
    # What is declared over the cap is 413 before anything else is asked.
    pieces = [b"x" * 65536] * (LIMIT // 65536 if status == 422 else 8 * MIB // 65536)
    body = servers.chunked(*pieces) if in_chunks else b"".join(pieces)
    length = "Transfer-Encoding: chunked" if in_chunks else f"Content-Length: {len(body)}"
    lines = [length, f"Connection: {then}", *lines]
    with real_server.connect() as line:
        line.sendall(servers.head("POST", target, *lines, key=status != 401) + body)
        received = b""
        while b'"request_id"' not in received:
            piece = line.recv(65536)
            assert piece, received
            received += piece
    assert received.split()[1] == str(status).encode()


def test_declared_length_over_the_cap_is_413_before_the_body(
    real_server: Any, servers: ModuleType
) -> None:
    with real_server.connect() as line:
        line.sendall(servers.head("POST", "/predict", f"Content-Length: {50 * MIB}"))
        assert line.recv(65536).split()[1] == b"413"


def test_compressed_body_is_415_and_never_inflated(real_server: Any, servers: ModuleType) -> None:
    bomb = gzip.compress(b"0" * 10 * MIB)
    raw = real_server.send(servers.post(bomb, "Content-Encoding: gzip", "Connection: close"))
    assert raw.split()[1] == b"415"


def test_body_in_single_bytes(real_server: Any, servers: ModuleType) -> None:
    start = servers.head("POST", "/predict", "Transfer-Encoding: chunked", "Connection: close")
    raw = real_server.send(start + servers.chunked(*[BODY[at : at + 1] for at in range(len(BODY))]))
    assert raw.split()[1] == b"200"
    with real_server.connect() as line:
        for byte in servers.post(BODY, "Connection: close"):
            line.sendall(bytes([byte]))
        assert line.recv(65536).split()[1] == b"200"


def test_requests_on_one_connection_are_answered_in_order(
    real_server: Any, servers: ModuleType
) -> None:
    bodies = [json.dumps({"inputs": [{"text": f"t{n}"}]}).encode() for n in range(5)]
    raw = b"".join(servers.post(body) for body in bodies[:-1]) + servers.post(
        bodies[-1], "Connection: close"
    )
    replies = servers.parse_many(real_server.send(raw), ["POST"] * 5)
    assert [reply.json()["outputs"][0]["text"] for reply in replies] == [f"T{n}" for n in range(5)]


def test_websocket_is_refused(real_server: Any, servers: ModuleType) -> None:
    key = base64.b64encode(os.urandom(16)).decode()
    with real_server.connect(10.0) as line:
        line.sendall(
            servers.head(
                "GET", "/predict", "Upgrade: websocket", "Connection: Upgrade",
                f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13",
            )
        )  # fmt: skip
        first = line.recv(65536)
    assert b" 101 " not in first.partition(b"\r\n")[0]
    servers.alive(real_server)


def test_expect_continue(real_server: Any, servers: ModuleType) -> None:
    with real_server.connect() as line:
        length = f"Content-Length: {len(BODY)}"
        expects = ("Expect: 100-continue", "Connection: close")
        start = servers.head("POST", "/predict", length, *expects)
        line.sendall(start)
        assert line.recv(65536).split()[1] == b"100"
        line.sendall(BODY)
        assert servers.parse(servers.read_all(line)).status == 200


@pytest.mark.parametrize("kind", SERVERS)
def test_start_that_fails_ends_the_server(kind: str, servers: ModuleType, tmp_path: Any) -> None:
    if kind == "granian":
        pytest.skip("granian respawns a worker that could not start, for ever")
    with (
        pytest.raises(RuntimeError, match="THALAMUS_MAX_BODY_MB must be a number above 0"),
        servers.launched(kind, tmp_path / "log", THALAMUS_MAX_BODY_MB="none"),
    ):
        pass
