"""From a scope to one answer, whatever a handler does."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from typing import TYPE_CHECKING, Any

import pytest

from thalamus_lite.errors import BodyTooLarge, DeadlineExceeded, Draining, InvalidJSON, ModelError
from thalamus_lite.http.gate import Gate
from thalamus_lite.http.response import EventStream, Response
from thalamus_lite.http.router import Access, Route, Router
from thalamus_lite.http.surface import LINES_A_SECOND, Surface
from thalamus_lite.settings import Settings

if TYPE_CHECKING:
    from types import ModuleType

    from thalamus_lite.http.asgi import Message
    from thalamus_lite.http.request import Request


def surface(outcome: Any, observe: Any = None) -> Any:
    """One public route, ``/it``, that answers or raises ``outcome``."""

    async def handle(request: Request) -> Any:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome() if callable(outcome) else outcome

    router = Router([Route("GET", "/it", handle, Access.PUBLIC), Route("GET", "/shut", handle)])
    return Surface(router, Gate(Settings(api_key="k"), lambda: 0.0), observe).serve


async def test_answer_of_the_handler_is_sent(driver: ModuleType) -> None:
    answer = await driver.call(surface(Response(b"x", 202)), "GET", "/it")
    assert (answer.status, answer.body) == (202, b"x")


async def test_id_of_the_client_comes_back_with_errors_too(driver: ModuleType) -> None:
    headers = [(b"x-request-id", b"trace-1")]
    answer = await driver.call(surface(InvalidJSON()), "GET", "/it", headers)
    assert answer.header("x-request-id") == "trace-1"
    assert answer.json() == {
        "error": "The request body is not valid JSON",
        "code": "invalid_json",
        "request_id": "trace-1",
    }


async def test_unexpected_exception_is_a_fixed_500_and_a_log_line(
    driver: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await driver.call(surface(KeyError("secret")), "GET", "/it")
    assert answer.status == 500
    assert answer.json()["code"] == "internal_error"
    assert b"secret" not in answer.body
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    ident = answer.json()["request_id"]
    assert record.getMessage() == f"request {ident} failed: unexpected KeyError"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)


async def test_failure_is_logged_with_what_ties_it_to_its_request(
    driver: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    error = ModelError("bert@1 failed: ValueError")
    error.__cause__ = ValueError("why")
    headers = [(b"x-request-id", b"id-1"), (b"traceparent", b"00-4bf9-00f0-01")]
    await driver.call(surface(error), "GET", "/it", headers)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    fields = vars(record)
    assert fields["request_id"] == "id-1"
    assert fields["traceparent"] == "00-4bf9-00f0-01"
    assert (fields["method"], fields["path"], fields["code"]) == ("GET", "/it", "model_error")
    assert record.getMessage() == "request id-1 failed: bert@1 failed: ValueError"
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "why"


@pytest.mark.parametrize("trace", [b"x" * 129, b"\xff"])
async def test_trace_that_is_none_is_left_out(
    trace: bytes, driver: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    await driver.call(surface(ModelError()), "GET", "/it", [(b"traceparent", trace)])
    assert "traceparent" not in vars(caplog.records[0])


async def test_clients_own_errors_are_not_logged(
    driver: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    await driver.call(surface(InvalidJSON()), "GET", "/it")
    await driver.call(surface(Response(b"")), "GET", "/shut", [])
    assert caplog.records == []


async def test_storm_of_errors_does_not_fill_the_log(
    driver: ModuleType, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tested = surface(ModelError("no"))
    now = [0.0]
    monkeypatch.setattr(tested.__self__._throttle, "_clock", lambda: now[0])
    for _ in range(1000):
        assert (await driver.call(tested, "GET", "/it")).status == 500
    assert len(caplog.records) == LINES_A_SECOND
    now[0] = 1.5
    await driver.call(tested, "GET", "/it")
    assert len(caplog.records) == LINES_A_SECOND + 1
    assert vars(caplog.records[-1])["lines_held_back"] == 1000 - LINES_A_SECOND
    assert (
        caplog.records[-1]
        .getMessage()
        .endswith(f" failed: no ({1000 - LINES_A_SECOND} more were not logged)")
    )


@pytest.mark.parametrize(("version", "closes"), [("1.0", True), ("1.1", True), ("2", False)])
async def test_connection_is_closed_after_a_body_that_is_too_large(
    version: str, closes: bool, driver: ModuleType
) -> None:
    answer = await driver.call(surface(BodyTooLarge()), "GET", "/it", http_version=version)
    assert answer.status == 413
    assert answer.header("connection") == ("close" if closes else None)


@pytest.mark.parametrize(
    ("error", "status"), [(Draining(), 503), (DeadlineExceeded(), 504), (ModelError(), 500)]
)
async def test_only_503_and_429_say_when_to_come_back(
    error: Exception, status: int, driver: ModuleType
) -> None:
    answer = await driver.call(surface(error), "GET", "/it")
    assert answer.status == status
    assert (answer.header("retry-after") is not None) is (status == 503)


async def test_401_names_the_scheme(driver: ModuleType) -> None:
    answer = await driver.call(surface(Response(b"")), "GET", "/shut", [])
    assert answer.status == 401
    assert answer.header("www-authenticate") == "Bearer"


async def test_options_needs_no_key_and_lists_the_methods(driver: ModuleType) -> None:
    for path, allow in (("/it", "GET, HEAD, OPTIONS"), ("/shut", "GET, HEAD, OPTIONS"),
                        ("/nowhere", "OPTIONS")):  # fmt: skip
        answer = await driver.call(surface(KeyError()), "OPTIONS", path, [])
        assert (answer.status, answer.body) == (204, b"")
        assert answer.header("allow") == allow


async def closed_transport() -> asyncio.Transport:
    """One whose client has left, and whose loop has seen to it."""
    here, there = socket.socketpair()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=here)
    there.close()
    transport.abort()
    while transport.get_extra_info("socket").fileno() >= 0:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    return transport


def what_uvloop_raises() -> BaseException:
    async def written() -> BaseException:
        transport = await closed_transport()
        with pytest.raises(RuntimeError) as caught:
            transport.write(b"x")
        return caught.value

    uvloop = pytest.importorskip("uvloop", reason="not on this platform")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(written())


async def send_fails(error: BaseException, seen: list[dict[str, Any]]) -> None:
    """A request whose answer cannot be sent, for this reason."""

    async def send(message: Message) -> None:
        raise error

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "http_version": "1.1", "method": "GET", "path": "/it", "headers": []}
    await surface(Response(b"x"), seen.append)(scope, receive, send)


@pytest.mark.parametrize("raised", [lambda: OSError("broken pipe"), what_uvloop_raises])
def test_client_that_is_gone_at_its_answer_harms_nobody(
    raised: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "thalamus_lite")
    seen: list[dict[str, Any]] = []
    asyncio.run(send_fails(raised(), seen))
    (record,) = caplog.records
    ident = vars(record)["request_id"]
    assert record.getMessage() == f"client of {ident} gone before its answer"
    assert len(seen) == 1


async def test_servers_own_complaint_is_not_taken_for_a_client_that_is_gone() -> None:
    with pytest.raises(RuntimeError, match="already completed"):
        await send_fails(RuntimeError("sent, after response already completed."), [])


async def test_stream_that_breaks_off_is_logged(
    driver: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    async def chunks() -> Any:
        yield b"data: 1\n\n"
        raise ModelError("m@1 failed")

    async def source() -> Any:
        yield None

    stream = EventStream(chunks(), source())
    answer = await driver.call(surface(stream), "GET", "/it")
    assert answer.status == 200
    assert answer.body.startswith(b"data: 1\n\nevent: error\ndata: ")
    ident = answer.header("x-request-id")
    assert [record.getMessage() for record in caplog.records] == [
        f"request {ident} failed: m@1 failed"
    ]


async def test_observer_sees_each_request_once(driver: ModuleType) -> None:
    seen: list[dict[str, Any]] = []
    await driver.call(surface(Response(b"x"), seen.append), "GET", "/it")
    await driver.call(surface(InvalidJSON(), seen.append), "GET", "/it")
    await driver.call(surface(KeyError(), seen.append), "GET", "/it")
    assert [(one["status"], one["code"]) for one in seen] == [
        (200, "ok"),
        (400, "refused"),
        (500, "refused"),
    ]
    assert all(one["ms"] >= 0 and one["request_id"] for one in seen)
    json.dumps(seen)
