from __future__ import annotations

import socket
import threading
import time
from typing import Any

from benchmarks.load.connection import encode
from benchmarks.load.generator import Generator, Where
from benchmarks.processes import Call

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
REQUEST = encode(Call("/", b"{}"), "127.0.0.1")
Serve = Any


def test_every_request_of_the_schedule_is_sent_and_answered(ok_server: Any) -> None:
    schedule = [(index * 0.002, 0) for index in range(50)]
    outcome = Generator(Where("127.0.0.1", ok_server.port), [REQUEST]).run(schedule)
    assert outcome.statuses() == {200: 50}
    assert len(ok_server.requests) == 50
    assert all(latency > 0 for latency in outcome.latency)


def test_each_kind_sends_its_own_bytes(ok_server: Any) -> None:
    requests = [encode(Call("/a", method="GET"), "h"), encode(Call("/b", method="GET"), "h")]
    schedule = [(0.0, 0), (0.005, 1), (0.01, 1)]
    outcome = Generator(Where("127.0.0.1", ok_server.port), requests).run(schedule)
    paths = sorted(request.split()[1] for request in ok_server.requests)
    assert paths == [b"/a", b"/b", b"/b"]
    assert len(outcome.of_kind(1).latencies()) == 2


def test_latency_counts_from_when_a_request_was_due(serve: Serve) -> None:
    delay_s = 0.05

    def slow(_: int, connection: socket.socket) -> bool:
        time.sleep(delay_s)
        connection.sendall(OK)
        return True

    # All are due at once, and one connection carries them one after another: the last one has
    # waited for all before it, whenever it was sent.
    with serve(slow) as served:
        outcome = Generator(Where("127.0.0.1", served.port, most=1), [REQUEST]).run([(0.0, 0)] * 5)
    assert outcome.connections == 1
    for index, latency in enumerate(sorted(outcome.latency)):
        assert latency >= (index + 1) * delay_s
    # Those that waited in the generator were not sent in time, and that is seen too.
    # Their wait for the one connection is the server's doing, and not the generator's.
    waited = [a - b for a, b in zip(outcome.latency, outcome.late, strict=True)]
    assert max(waited) >= 2 * delay_s


def test_requests_do_not_wait_for_each_others_answers(serve: Serve) -> None:
    everybody = threading.Barrier(5)

    def together(_: int, connection: socket.socket) -> bool:
        # Nobody is answered before all five have come.
        everybody.wait(10)
        connection.sendall(OK)
        return True

    with serve(together) as served:
        outcome = Generator(Where("127.0.0.1", served.port), [REQUEST]).run([(0.0, 0)] * 5)
    assert outcome.statuses() == {200: 5}


def test_refusals_are_noted_with_their_status(serve: Serve) -> None:
    def refuse(number: int, connection: socket.socket) -> bool:
        status = b"429 Busy" if number % 2 else b"200 OK"
        connection.sendall(b"HTTP/1.1 %b\r\nContent-Length: 0\r\n\r\n" % status)
        return True

    with serve(refuse) as served:
        outcome = Generator(Where("127.0.0.1", served.port, most=1), [REQUEST]).run(
            [(index * 0.01, 0) for index in range(6)]
        )
    assert outcome.statuses() == {200: 3, 429: 3}


def test_connection_that_was_closed_while_idle_is_asked_again_on_another(serve: Serve) -> None:
    def once_each(_: int, connection: socket.socket) -> bool:
        connection.sendall(OK)
        return False

    with serve(once_each) as served:
        outcome = Generator(Where("127.0.0.1", served.port, most=4), [REQUEST]).run(
            [(index * 0.02, 0) for index in range(10)]
        )
    assert outcome.statuses() == {200: 10}


def test_answer_that_breaks_off_is_broken_and_not_asked_again(serve: Serve) -> None:
    def break_off(_: int, connection: socket.socket) -> bool:
        connection.sendall(OK[:-1])
        return False

    with serve(break_off) as served:
        outcome = Generator(Where("127.0.0.1", served.port), [REQUEST]).run([(0.0, 0)])
        assert len(served.requests) == 1
    assert outcome.statuses() == {0: 1}


def test_server_that_never_answers_does_not_hold_the_generator(serve: Serve) -> None:
    with serve(lambda _number, _connection: True) as served:
        where = Where("127.0.0.1", served.port, patience_s=0.1)
        outcome = Generator(where, [REQUEST]).run([(0.0, 0), (0.01, 0)])
    assert outcome.statuses() == {-1: 2}
    assert outcome.latencies() == []


def test_nobody_listening_is_counted_as_broken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    outcome = Generator(Where("127.0.0.1", port, patience_s=1), [REQUEST]).run([(0.0, 0)])
    assert outcome.statuses() == {0: 1}


def test_empty_schedule_ends_at_once(ok_server: Any) -> None:
    outcome = Generator(Where("127.0.0.1", ok_server.port), [REQUEST]).run([])
    assert outcome.summary()["requests"] == 0
