"""Clients that misbehave, at every server, over real sockets: nobody gets in, nobody is harmed."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types import ModuleType

KEY = "X-API-Key: test-api-key-for-testing\r\n"
HI = {"inputs": [{"text": "hi"}]}
BODY = json.dumps(HI).encode()


TARGETS = [
    "//predict", "/predict/", "/predict//", "/./predict", "/x/../predict", "/health/../predict",
    "/health/%2e%2e/predict", "/health%2f..%2fpredict", "/%70redict", "/%2570redict", "/PREDICT",
    "/Predict", "/predict%00", "/predict%20", "/predict%0a", "/predict;x", "/predict?x=/health",
    "/predict%3f/health", "/predict%23", "/health;/predict", "http://h/predict",
    "http://h/health/../predict", "http://health/predict", "https://h:1/predict", "/\\predict",
    "/health\\..\\predict", "/x" * 3000 + "/predict", "/predict" + "a" * 8000, "/%ff", "/\xff",
]  # fmt: skip


def test_no_spelling_of_a_target_opens_a_closed_route(
    real_server: Any, servers: ModuleType
) -> None:
    for target in TARGETS:
        for method in ("POST", "GET"):
            with contextlib.suppress(ConnectionError):
                raw = real_server.send(
                    servers.head(
                        method,
                        target,
                        f"Content-Length: {len(BODY)}",
                        "Connection: close",
                        key=False,
                    )
                    + BODY
                )
                assert b"HI" not in raw, target
                assert b'"outputs"' not in raw, target
                if raw:
                    status = int(raw.split()[1])
                    assert status in (400, 401, 404, 405, 414, 431), (target, status)
    servers.alive(real_server)


@pytest.mark.parametrize("host", ["x/health/?", "x/health", "", "[", "x\\health", "t, t"])
def test_host_chooses_nothing(real_server: Any, host: str) -> None:
    raw = real_server.send(
        f"POST /predict HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
        f"Content-Length: {len(BODY)}\r\n\r\n".encode()
        + BODY
    )
    assert not raw or int(raw.split()[1]) in (400, 401), raw


def test_key_of_any_bytes_is_401_or_refused_by_the_server(real_server: Any) -> None:
    for byte in range(256):
        line = b"X-API-Key: k" + bytes([byte]) + b"\r\n"
        raw = real_server.send(
            b"GET /schema HTTP/1.1\r\nHost: t\r\nConnection: close\r\n" + line + b"\r\n"
        )
        assert not raw or int(raw.split()[1]) in (400, 401), (byte, raw[:100])


@pytest.mark.parametrize(
    "lines",
    [
        ["X-API-Key: test-api-key-for-testing", "X-API-Key: wrong"],
        ["X-API-Key: wrong", "X-API-Key: test-api-key-for-testing"],
        ["X-API-Key: test-api-key-for-testing", "X-API-Key: test-api-key-for-testing"],
        ["X-API-Key: wrong", "Authorization: Bearer test-api-key-for-testing"],
        ["Authorization: Basic dGVzdA=="],
    ],
)
def test_key_sent_twice_is_none(real_server: Any, lines: list[str], servers: ModuleType) -> None:
    raw = real_server.send(servers.head("GET", "/schema", "Connection: close", *lines, key=False))
    assert raw.split()[1] == b"401"


def test_body_that_was_not_read_is_not_the_next_request(
    real_server: Any, servers: ModuleType
) -> None:
    """Where the answer is clear before the body, the body must not be taken for a request."""
    smuggled = servers.head("POST", "/cache/clear", "Content-Length: 0")
    for refused, status in (
        (servers.post(smuggled, key=False), 401),
        (servers.post(smuggled, target="/nowhere"), 404),
        (servers.post(smuggled, "Content-Type: text/plain"), 415),
        (servers.post(smuggled, target="/health"), 405),
        (servers.post(smuggled, target="/cache/clear"), 200),
    ):
        with real_server.connect() as line, contextlib.suppress(ConnectionError):
            line.sendall(
                refused + servers.head("GET", "/schema/echo/versions", "Connection: close")
            )
            replies = servers.parse_many(servers.read_all(line), ["POST", "GET"])
            assert replies[0].status == status
            # One answer each, or the connection was closed; never one to what was smuggled.
            assert len(replies) <= 2
            if len(replies) == 2:
                assert replies[1].json() == ["1.10.0", "1.9.0"]
    servers.alive(real_server)


POST = b"POST /predict HTTP/1.1\r\nHost: t\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
GARBAGE = [
    b"\x00" * 100,
    b"\r\n\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01",
    b"GET / HTTP/1.1\r\nHost: t\r\n" + b"a: b\r\n" * 20_000,
    b"A" * 200_000,
    b"GET /" + b"a" * 200_000,
    POST + b"Content-Length: -5\r\n\r\nhello",
    POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    CHUNKED + b"zz\r\nhello\r\n0\r\n\r\n",
    CHUNKED + b"ffffffffffffffffff\r\nx",
    b"GET /health HTTP/1.1\r\nHost: t\r\nX: a\x00b\r\n\r\n",
    b"GET /health HTTP/1.1\r\n bad: fold\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 50,
    bytes(range(256)) * 16,
]


def test_garbage_harms_nobody(real_server: Any, servers: ModuleType) -> None:
    for raw in GARBAGE:
        with real_server.connect(2.0) as line, contextlib.suppress(OSError):
            line.sendall(raw)
            line.shutdown(socket.SHUT_WR)
            while line.recv(65536):
                pass
    servers.alive(real_server)


def reset(line: socket.socket) -> None:
    """Close as a client that crashed: by a reset, without a farewell."""
    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    line.close()


@pytest.mark.parametrize("close", [socket.socket.close, reset], ids=["close", "reset"])
def test_client_that_leaves_anywhere_harms_nobody(
    real_server: Any, close: Any, servers: ModuleType
) -> None:
    whole = servers.post(BODY)
    streamed = json.dumps({"model": "words", "inputs": [{"text": "w " * 20_000}]}).encode()
    cuts = [whole[:at] for at in (0, 1, 10, len(whole) - len(BODY), len(whole) - 1, len(whole))]
    cuts.append(servers.post(streamed, "Accept: text/event-stream"))
    for raw in cuts:
        line = real_server.connect()
        line.sendall(raw)
        close(line)
    line = real_server.connect()
    line.sendall(servers.post(streamed, "Accept: text/event-stream"))
    assert line.recv(100)
    close(line)
    servers.alive(real_server)
    until_idle(real_server)


def until_idle(real_server: Any) -> None:
    """Everything that was dropped is also forgotten."""
    deadline = time.monotonic() + 20
    while True:
        answer = real_server.request("GET", "/capacity")
        if answer.json()["inflight_requests"] == 0:
            return
        assert time.monotonic() < deadline, answer.json()
        time.sleep(0.01)


def test_reader_that_is_slow_gets_everything(real_server: Any, servers: ModuleType) -> None:
    count = 20_000
    body = json.dumps({"model": "words", "inputs": [{"text": "w " * count}]}).encode()
    with real_server.connect() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        line.sendall(servers.post(body, "Accept: text/event-stream", "Connection: close"))
        assert line.recv(10)
        # Meanwhile it holds nobody up.
        servers.alive(real_server)
        raw = b"HTTP/1.1 2" + servers.read_all(line)
    assert raw.count(b'data: {"text":"w"') == count
    assert raw.rstrip(b"\r\n0").count(b"event: done") == 1


def test_half_open_connections_hold_nobody_up(real_server: Any, servers: ModuleType) -> None:
    lines = [real_server.connect() for _ in range(50)]
    try:
        for number, line in enumerate(lines):
            line.sendall(servers.post(BODY)[: number * 3])
        servers.alive(real_server)
    finally:
        for line in lines:
            line.close()


def test_half_closed_client_harms_nobody(real_server: Any, servers: ModuleType) -> None:
    """It has said all and waits: some servers take that for a farewell."""
    raw = real_server.send(servers.post(BODY, "Connection: close"), half_close=True)
    assert not raw or raw.split()[1] == b"200"
    servers.alive(real_server)
