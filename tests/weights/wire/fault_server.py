"""An HTTP server over raw sockets that lies, stalls and breaks off, as it is told.

Each GET takes the next act of the script; when the script is empty it is honest. HEAD has a script
of its own.
"""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Act:
    """How one answer departs from the honest one.

    ``headers`` override (None removes). ``cut`` closes after so many bytes of the body, ``stall``
    holds the connection open there instead, ``reset`` sends RST; ``pause_s`` follows each 100
    bytes. ``before`` precedes the head, ``drip`` follows it byte by byte. ``content`` and ``etag``
    stand for another object.
    """

    status: int | None = None
    headers: dict[str, str | None] = field(default_factory=dict)
    content: bytes | None = None
    etag: str | None = None
    ignore_range: bool = False
    chunked: bool = False
    cut: int | None = None
    stall: bool = False
    pause_s: float = 0.0
    reset: bool = False
    shift: int = 0
    raw: bytes | None = None
    body: bytes | None = None
    before: bytes = b""
    drip: bytes = b""


HONEST = Act()


@dataclass(frozen=True)
class Request:
    method: str
    target: str
    headers: dict[str, str]

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


class FaultServer:
    def __init__(self) -> None:
        self.content = b""
        self.etag: str | None = '"v1"'
        self.script: deque[Act] = deque()
        self.head_script: deque[Act] = deque()
        self.paths: dict[str, Act] = {}
        self.targets: dict[str, Act] = {}
        self.requests: list[Request] = []
        self.sent = 0
        self.ranges_answered = 0
        self.tls: Any = None
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._connections: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """How many there have been."""
        with self._lock:
            return len(self._threads)

    def gets(self) -> list[Request]:
        return [request for request in self.requests if request.method == "GET"]

    def reset(self) -> None:
        self.content, self.etag = b"", '"v1"'
        for told in (self.script, self.head_script, self.paths, self.targets, self.requests):
            told.clear()

    def close(self) -> None:
        self._closing.set()
        # shutdown wakes the accept; close alone would leave it asleep.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        with self._lock:
            for connection in self._connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            with self._lock:
                self._connections.add(connection)
                self._threads.append(thread)
            thread.start()

    def _serve(self, plain: socket.socket) -> None:
        connection = plain
        try:
            if self.tls is not None:
                connection = self._secured(plain)
                connection.do_handshake()
            with connection.makefile("rb") as reader:
                while (request := _read(reader)) is not None and self._answer(connection, request):
                    pass
        except OSError:
            pass
        finally:
            with self._lock:
                self._connections -= {plain, connection}
            connection.close()

    def _secured(self, plain: socket.socket) -> socket.socket:
        # Wrapping takes the descriptor over, so it is the new socket that `close` has to end.
        secured = self.tls.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        with self._lock:
            self._connections.discard(plain)
            self._connections.add(secured)
        return secured

    def _next(self, request: Request) -> Act:
        with self._lock:
            self.requests.append(request)
            if request.target in self.targets:
                return self.targets[request.target]
            if request.path in self.paths:
                return self.paths[request.path]
            script = self.head_script if request.method == "HEAD" else self.script
            return script.popleft() if script else HONEST

    def _answer(self, connection: socket.socket, request: Request) -> bool:
        """Send one answer; whether the connection lives on."""
        act = self._next(request)
        if act.raw is not None:
            connection.sendall(act.raw)
            self._drip(connection, act.drip)
            if act.stall:
                self._closing.wait(30)
            return False
        head, body = self._compose(act, request)
        connection.sendall(act.before + head)
        if act.drip:
            self._drip(connection, act.drip)
            return False
        if request.method == "HEAD":
            return True
        whole = act.cut is None
        body = body if act.cut is None else body[: act.cut]
        if act.chunked:
            body = b"".join(
                b"%x\r\n%s\r\n" % (len(piece), piece)
                for piece in (body[i : i + 1000] for i in range(0, len(body), 1000))
            ) + (b"0\r\n\r\n" if whole else b"")
        if act.pause_s:
            for start in range(0, len(body), 100):
                connection.sendall(body[start : start + 100])
                if self._closing.wait(act.pause_s):
                    return False
        else:
            connection.sendall(body)
        with self._lock:
            self.sent += len(body)
        if act.stall:
            self._closing.wait(30)
            return False
        if act.reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        return whole and ("content-length" in head.lower().decode("latin-1") or act.chunked)

    def _drip(self, connection: socket.socket, drip: bytes) -> None:
        for start in range(len(drip)):
            connection.sendall(drip[start : start + 1])
            if self._closing.wait(0.05):
                return

    def _compose(self, act: Act, request: Request) -> tuple[bytes, bytes]:
        content = self.content if act.content is None else act.content
        etag = self.etag if act.etag is None else act.etag
        headers: dict[str, str | None] = {"ETag": etag, "Accept-Ranges": "bytes"}
        status, body = 200, content
        if etag is not None and request.headers.get("if-none-match") == etag:
            status, body = 304, b""
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        fresh = request.headers.get("if-range", etag) == etag
        if wanted and fresh and not act.ignore_range and status == 200:
            start = int(wanted[1])
            stop = min(int(wanted[2]) + 1 if wanted[2] else len(content), len(content))
            if start >= stop:
                status, body = 416, b""
                headers["Content-Range"] = f"bytes */{len(content)}"
            else:
                status, body = 206, content[start + act.shift : stop + act.shift]
                shown = f"bytes {start + act.shift}-{stop + act.shift - 1}/{len(content)}"
                headers["Content-Range"] = shown
        if self.ranges_answered and "range" in request.headers:
            status, body = self.ranges_answered, b""
        if act.body is not None:
            body = act.body
        if act.status is not None:
            status = act.status
        if act.chunked:
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers["Content-Length"] = str(len(body))
        headers |= act.headers
        lines = [f"HTTP/1.1 {status} Whatever"]
        lines += [f"{name}: {value}" for name, value in headers.items() if value is not None]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"), body


def _read(reader: Any) -> Request | None:
    line = reader.readline().decode("latin-1").split()
    if len(line) != 3:
        return None
    headers = {}
    while (header := reader.readline().decode("latin-1").strip()) != "":
        name, _, value = header.partition(":")
        headers[name.strip().lower()] = value.strip()
    reader.read(int(headers.get("content-length", "0")))
    return Request(line[0], line[1], headers)
