"""Small servers of the tests' own, and the repository on the path, where ``benchmarks`` is."""

from __future__ import annotations

import socket
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Served:
    """A port, and the requests that came to it, heads and bodies together."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.requests: list[bytes] = []
        self.connections = 0


@contextmanager
def scripted(answer: Callable[[int, socket.socket], bool]) -> Iterator[Served]:
    """A server that calls ``answer(number, connection)`` for each request; False hangs up.

    A request is what ends with an empty line, or with the body that its Content-Length announces.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    served = Served(listener.getsockname()[1])
    threads: list[threading.Thread] = []
    open_connections: list[socket.socket] = []
    lock = threading.Lock()

    def serve(connection: socket.socket) -> None:
        with connection:
            received = b""
            while True:
                try:
                    data = connection.recv(65536)
                except OSError:
                    return
                if not data:
                    return
                received += data
                while (length := _whole(received)) is not None:
                    with lock:
                        number = len(served.requests)
                        served.requests.append(received[:length])
                    received = received[length:]
                    try:
                        if not answer(number, connection):
                            return
                    except OSError:
                        return

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            served.connections += 1
            open_connections.append(connection)
            thread = threading.Thread(target=serve, args=(connection,))
            threads.append(thread)
            thread.start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield served
    finally:
        # close() alone would leave accept() waiting.
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join()
        for connection in open_connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        for thread in threads:
            thread.join()


def _whole(received: bytes) -> int | None:
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    length = end + 4
    for line in received[:end].lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length += int(line.partition(b":")[2])
    return length if len(received) >= length else None


@pytest.fixture
def ok_server() -> Iterator[Served]:
    def answer(_: int, connection: socket.socket) -> bool:
        connection.sendall(OK)
        return True

    with scripted(answer) as served:
        yield served


@pytest.fixture
def serve() -> Callable[[Callable[[int, socket.socket], bool]], object]:
    return scripted
