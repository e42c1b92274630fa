from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING

import pytest
from benchmarks.load.connection import Broken, Connection, address, encode
from benchmarks.processes import Call
from hypothesis import given
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Iterator

LENGTH = b"HTTP/1.1 201 Created\r\ncontent-length: 11\r\nX-Other: 1\r\n\r\nhello world"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
)
EMPTY = b"HTTP/1.1 204 No Content\r\nServer: x\r\n\r\n"
CLOSING = b"HTTP/1.1 429 Too Many\r\nConnection: close\r\nContent-Length: 1\r\n\r\n!"
UNTIL_CLOSED = b"HTTP/1.0 200 OK\r\n\r\nhello"


class Pair:
    """A connection, and the server's end of it."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.client = Connection(*listener.getsockname())
            self.server, _ = listener.accept()

    def feed(self, data: bytes) -> bool:
        self.server.sendall(data)
        select.select([self.client.socket], [], [], 10)
        return self.client.receive()

    def close(self) -> None:
        self.client.close()
        self.server.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


def test_request_has_all_that_http_needs() -> None:
    call = Call("/predict", b"{}", {"X-API-Key": "k"})
    assert encode(call, "host:1") == (
        b"POST /predict HTTP/1.1\r\nHost: host:1\r\nX-API-Key: k\r\nContent-Length: 2\r\n\r\n{}"
    )


def test_get_without_a_body_has_no_length() -> None:
    assert b"Content-Length" not in encode(Call("/", method="GET"), "h")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8000/predict", ("127.0.0.1", 8000, "/predict")),
        ("http://localhost", ("localhost", 80, "/")),
        ("http://h:1/a?b=c", ("h", 1, "/a?b=c")),
    ],
)
def test_url_is_taken_apart(url: str, expected: tuple[str, int, str]) -> None:
    assert address(url) == expected


@pytest.mark.parametrize("url", ["https://h/", "h:80/x", "/predict", ""])
def test_url_that_cannot_be_asked_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="expected a URL"):
        address(url)


@pytest.mark.parametrize(
    ("answer", "status", "reusable"),
    [(LENGTH, 201, True), (CHUNKED, 200, True), (EMPTY, 204, True), (CLOSING, 429, False)],
)
@given(data=st.data())
def test_answer_is_complete_at_its_last_byte_however_it_is_cut(
    answer: bytes, status: int, reusable: bool, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, len(answer) - 1), max_size=6)))
    pair = Pair()
    try:
        pair.client.send(b"GET / HTTP/1.1\r\n\r\n")
        pieces = [answer[a:b] for a, b in zip([0, *cuts], [*cuts, len(answer)], strict=True)]
        assert [pair.feed(piece) for piece in pieces] == [False] * len(cuts) + [True]
        assert pair.client.status == status
        assert pair.client.reusable is reusable
    finally:
        pair.close()


def test_answer_without_a_length_ends_with_the_connection(pair: Pair) -> None:
    pair.client.send(b"x")
    assert not pair.feed(UNTIL_CLOSED)
    pair.server.shutdown(socket.SHUT_WR)
    select.select([pair.client.socket], [], [], 10)
    assert pair.client.receive()
    assert pair.client.status == 200
    assert not pair.client.reusable


def test_end_before_the_answer_is_a_broken_connection(pair: Pair) -> None:
    pair.client.send(b"x")
    pair.feed(LENGTH[:30])
    pair.server.close()
    select.select([pair.client.socket], [], [], 10)
    with pytest.raises(Broken):
        pair.client.receive()
    assert not pair.client.untouched


def test_end_before_any_byte_leaves_the_request_untouched(pair: Pair) -> None:
    pair.client.send(b"x")
    pair.server.shutdown(socket.SHUT_WR)
    select.select([pair.client.socket], [], [], 10)
    with pytest.raises(Broken):
        pair.client.receive()
    assert pair.client.untouched


def test_second_answer_on_a_connection_starts_afresh(pair: Pair) -> None:
    pair.client.send(b"x")
    assert pair.feed(LENGTH)
    pair.client.send(b"x")
    assert pair.client.status == 0
    assert pair.feed(CHUNKED)
    assert pair.client.status == 200


def test_large_request_is_sent_as_the_socket_takes_it(pair: Pair) -> None:
    body = bytes(8_000_000)
    done = pair.client.send(body)
    assert not done
    pair.server.settimeout(10)
    received = 0
    while received < len(body):
        received += len(pair.server.recv(1 << 20))
        if not done:
            done = pair.client.flush()
    assert done
    assert received == len(body)
