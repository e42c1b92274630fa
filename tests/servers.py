"""Real servers in processes of their own, and clients that say exactly what they are told to."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thalamus_lite.testing import TEST_API_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
PATIENCE_S = 20.0

KEY = f"X-API-Key: {TEST_API_KEY}\r\n"


@dataclass(slots=True)
class Reply:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        found = [value for key, value in self.headers if key == name]
        return found[0] if found else None

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class Server:
    """A server that listens; everything goes over one fresh connection a call."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def connect(self, timeout_s: float = PATIENCE_S) -> socket.socket:
        made = socket.create_connection(("127.0.0.1", self.port), timeout_s)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def send(self, raw: bytes, *, half_close: bool = False) -> bytes:
        """Send bytes, and return all that comes back until the server closes."""
        with self.connect() as line:
            # A server that has heard enough closes before it has read all.
            with contextlib.suppress(ConnectionError):
                line.sendall(raw)
                if half_close:
                    line.shutdown(socket.SHUT_WR)
            return read_all(line)

    def request(
        self, method: str, target: str, body: bytes | Any = None, headers: str = KEY
    ) -> Reply:
        """One well-formed request, its target as it stands."""
        content = b""
        if body is not None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            headers += f"Content-Length: {len(content)}\r\n"
        head = f"{method} {target} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n{headers}\r\n"
        with self.connect() as line:
            line.sendall(head.encode("latin-1") + content)
            return parse(read_all(line), method)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


def read_all(line: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionError):
        while piece := line.recv(65536):
            received += piece
    return received


def parse(raw: bytes, method: str = "GET") -> Reply:
    """The one answer in ``raw``, which must be whole and the only one."""
    replies = parse_many(raw, [method])
    assert len(replies) == 1, raw[:500]
    return replies[0]


def parse_many(raw: bytes, methods: list[str]) -> list[Reply]:
    replies = []
    while raw:
        method = methods[len(replies)] if len(replies) < len(methods) else "GET"
        head, end, raw = raw.partition(b"\r\n\r\n")
        assert end, f"half an answer: {head[:200]!r}"
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = [line.partition(":") for line in lines]
        headers = [(name.lower(), value.strip()) for name, _, value in pairs]
        found = dict(headers)
        status = int(first.split()[1])
        if method == "HEAD" or status in (204, 304):
            body = b""
        elif "chunked" in found.get("transfer-encoding", ""):
            body, raw = _unchunk(raw)
        else:
            size = int(found.get("content-length", len(raw)))
            body, raw = raw[:size], raw[size:]
            assert len(body) == size, "half a body"
        replies.append(Reply(status, headers, body))
    return replies


def _unchunk(raw: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        size, _, raw = raw.partition(b"\r\n")
        length = int(size.partition(b";")[0], 16)
        body, raw = body + raw[:length], raw[length + 2 :]
        if length == 0:
            return body, raw


def head(method: str, target: str, *lines: str, key: bool = True) -> bytes:
    """The head of a request as it stands on the wire."""
    found = [f"{method} {target} HTTP/1.1", "Host: t", *lines]
    if key:
        found.append(KEY.strip())
    return ("\r\n".join(found) + "\r\n\r\n").encode("latin-1")


def post(body: bytes, *lines: str, target: str = "/predict", key: bool = True) -> bytes:
    """A whole request."""
    return head("POST", target, f"Content-Length: {len(body)}", *lines, key=key) + body


def chunked(*pieces: bytes) -> bytes:
    """A body in these chunks, and its end."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])


def alive(server: Server) -> None:
    """It serves on, whatever was done to it before."""
    answer = server.request("POST", "/predict", {"inputs": [{"text": "hi"}]})
    assert (answer.status, answer.json()["outputs"][0]["text"]) == (200, "HI")


@contextlib.contextmanager
def running(command: list[str], log: Path, **environ: str) -> Iterator[Server]:
    """A process that prints its port first, until the end of the block."""
    env = {
        **os.environ,
        "THALAMUS_API_KEY": TEST_API_KEY,
        "PYTHONPATH": str(HERE),
        "PYTHONUNBUFFERED": "1",
        **environ,
    }
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, env=env, cwd=HERE
        )
    server = Server(0, process, log)
    try:
        assert process.stdout is not None
        server.port = int(process.stdout.readline() or b"0")
        await_health(server)
        yield server
    finally:
        server.stop()
        assert process.stdout is not None
        process.stdout.close()


def launched(kind: str, log: Path, app: str = "zoo:app", **environ: str) -> Any:
    return running([sys.executable, str(HERE / "launch.py"), kind, app], log, **environ)


def await_health(server: Server) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        if server.process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the server did not start:\n{server.log.read_text()}")
        with contextlib.suppress(ConnectionError, TimeoutError):
            # Whatever it says, it listens, and its lifespan is over.
            server.request("GET", "/health")
            return
        time.sleep(0.02)
