"""One HTTP/1.1 connection that sends ready-made bytes and knows when an answer is complete; no more
of HTTP than that takes.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.processes import Call

_READ = 1 << 18


class Broken(Exception):
    """The connection ended before its answer did."""


def encode(call: Call, host: str) -> bytes:
    """The bytes of a request."""
    headers: Mapping[str, str] = {
        "Host": host,
        **call.headers,
        **({"Content-Length": str(len(call.body))} if call.body or call.method == "POST" else {}),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{call.method} {call.path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + call.body


def address(url: str) -> tuple[str, int, str]:
    """Host, port and path of a plain http URL.

    Raises:
        ValueError: it is something else.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname is None:
        raise ValueError(f"expected a URL such as http://127.0.0.1:8000/predict, got {url!r}")
    path = parts.path or "/"
    return parts.hostname, parts.port or 80, f"{path}?{parts.query}" if parts.query else path


class Connection:
    """Non-blocking. ``ticket`` is whatever the owner is waiting for on it; None while idle."""

    __slots__ = ("_closes", "_fed", "_left", "_need", "_seen", "socket", "status", "ticket")

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect_ex((host, port))
        self.ticket: int | None = None
        self.status = 0
        self._left = b""
        self._reset()

    def send(self, data: bytes) -> bool:
        """Send what the socket takes; False while some is left for :meth:`flush`."""
        self._reset()
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        self._left = b"" if sent == len(data) else data[sent:]
        return not self._left

    def flush(self) -> bool:
        try:
            while self._left:
                self._left = self._left[self.socket.send(self._left) :]
        except BlockingIOError:
            return False
        return True

    def receive(self) -> bool:
        """Read what is there; whether the answer is complete.

        Raises:
            Broken: the end came first.
        """
        try:
            data = self.socket.recv(_READ)
        except BlockingIOError:
            return False
        except OSError as error:
            raise Broken from error
        if not data:
            if self._closes and self._seen:
                return True
            raise Broken
        self._fed += len(data)
        if self._need is not None:
            return self._fed >= self._need
        self._seen += data
        return self._read_head() if not self.status else self._ends_chunked()

    @property
    def reusable(self) -> bool:
        return not self._closes

    @property
    def untouched(self) -> bool:
        """Nothing of an answer has come: a server that was closing an idle connection does this."""
        return self._fed == 0

    def close(self) -> None:
        self.socket.close()

    def _reset(self) -> None:
        self.status = 0
        self._seen = b""
        self._fed = 0
        self._need: int | None = None
        self._closes = False

    def _read_head(self) -> bool:
        end = self._seen.find(b"\r\n\r\n")
        if end < 0:
            return False
        self.status = int(self._seen[9:12])
        head = self._seen[:end].lower()
        self._closes = b"\r\nconnection: close" in head
        at = head.find(b"\r\ncontent-length:")
        if at >= 0:
            stop = head.find(b"\r\n", at + 2)
            length = int(head[at + 17 : stop if stop >= 0 else end])
            self._need = end + 4 + length
            return self._fed >= self._need
        if b"\r\ntransfer-encoding: chunked" in head:
            self._seen = self._seen[end + 2 :]
            return self._ends_chunked()
        if self.status in (204, 304):
            return True
        self._closes = True
        return False

    def _ends_chunked(self) -> bool:
        """The last chunk has no length and no trailers follow it, with every server that is
        compared.
        """
        self._seen = self._seen[-7:]
        return not self._closes and self._seen == b"\r\n0\r\n\r\n"
