"""Requests as they are read, and answers as they are sent."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from thalamus_lite.errors import (
    BodyTooLarge,
    ClientDisconnected,
    DeadlineExceeded,
    MethodNotAllowed,
    ModelError,
    QueueFull,
    RequestError,
    ThalamusError,
    UnsupportedMediaType,
)
from thalamus_lite.http.request import RequestIds
from thalamus_lite.http.response import (
    LONGEST_RETRY_S,
    EmptyResponse,
    EventStream,
    Response,
    error_response,
    json_response,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from conftest import Make
    from thalamus_lite.http.asgi import Message


def part(body: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def test_ids_are_unique_and_plain() -> None:
    ids = RequestIds()
    made = [ids.new() for _ in range(1000)]
    assert len(set(made)) == 1000
    assert all(one.isalnum() and len(one) == 24 for one in made)
    assert RequestIds().new()[:16] != made[0][:16]


@pytest.mark.parametrize("given", [b"abc", b"a b:c/d", b"x" * 128])
def test_safe_id_is_echoed(given: bytes, make_request: Make) -> None:
    assert make_request(headers=[(b"x-request-id", given)]).request_id == given


@pytest.mark.parametrize("given", [b"", b"x" * 129, b"a\x00", b"a\x7f", b"\xc3\xa9", b"a\tb"])
def test_unsafe_id_is_replaced(given: bytes, make_request: Make) -> None:
    made = make_request(headers=[(b"x-request-id", given)]).request_id
    assert made != given
    assert made.isalnum()


@pytest.mark.parametrize(
    ("path", "root", "raw", "seen"),
    [
        ("/health", "", b"/health", "/health"),
        ("/health", "", None, "/health"),
        # Undecoded where anything is encoded.
        ("/health", "", b"/%68ealth", "/%68ealth"),
        ("/schema/a b", "", b"/schema/a%20b", "/schema/a%20b"),
        ("/health", "", b"/health?x=%20", "/health"),
        ("/a/../health", "", b"/a/%2e%2e/health", "/a/%2e%2e/health"),
        # Below the root.
        ("/api/health", "/api", b"/api/health", "/health"),
        ("/api/health", "/api/", b"/api/health", "/health"),
        ("/health", "/", b"/health", "/health"),
        ("/health", "/api", b"/health", "/health"),
        ("/apihealth", "/api", b"/apihealth", "/apihealth"),
        ("/api", "/api", b"/api", "/api"),
        ("/api/", "/api", b"/api/", "/"),
        ("/api/a b", "/api", b"/api/a%20b", "/a%20b"),
        ("/api/api/health", "/api", b"/api/api/health", "/api/health"),
        # Below a root that was encoded, as servers that follow the specification decode it.
        ("/acme inc/health", "/acme inc", b"/acme%20inc/health", "/health"),
        ("/acme inc/health", "/acme inc/", b"/acme%20inc/health", "/health"),
        ("/caf\u00e9/v 1/health", "/caf\u00e9/v 1", b"/caf%C3%A9/v%201/health", "/health"),
        ("/a b/health", "/a b", b"/a%20b/health?x=/a%20b", "/health"),
        ("/100%/health", "/100%", b"/100%25/health", "/health"),
        ("/a b", "/a b", b"/a%20b", "/a%20b"),
        ("/a b/", "/a b", b"/a%20b/", "/"),
        # What lies below it stays as it was sent.
        ("/a b/health", "/a b", b"/a%20b/%68ealth", "/%68ealth"),
        ("/a b//health", "/a b", b"/a%20b//health", "//health"),
        ("/a b/c/health", "/a b", b"/a%20b%2Fc/health", "/a%20b%2Fc/health"),
        ("/a b/health", "/a b", b"/a%20b%2Fhealth", "/a%20b%2Fhealth"),
        # A slash that was encoded, bytes that are no UTF-8, another root: nothing is cut off.
        ("/a/b c/health", "/a/b c", b"/a%2Fb%20c/health", "/a%2Fb%20c/health"),
        ("/a/b//health", "/a/b", b"/a%2Fb//health", "/a%2Fb//health"),
        ("/\ufffd/health", "/\ufffd", b"/%E9/health", "/%E9/health"),
        ("/\ufffd/health", "/\ufffd", b"/%EF%BF%BD/health", "/health"),
        ("/a b/health", "/a c", b"/a%20b/health", "/a%20b/health"),
        ("/a b/health", "a b", b"/a%20b/health", "/a%20b/health"),
        ("/a b/health", "/%61 b", b"/%61%20b/health", "/%61%20b/health"),
    ],
)
def test_path_is_what_lies_below_the_root(
    path: str, root: str, raw: bytes | None, seen: str, make_request: Make
) -> None:
    scope: dict[str, Any] = (
        {"root_path": root} if raw is None else {"root_path": root, "raw_path": raw}
    )
    request = make_request("GET", path, **scope)
    if raw is None:
        request.scope.pop("raw_path")
    assert request.path == seen


@pytest.mark.parametrize(
    ("path", "root", "seen"),
    [
        ("http://host/health", "", "/health"),
        ("HTTPS://10.0.0.1:8000/health", "", "/health"),
        ("http://[::1]:80/a/b", "", "/a/b"),
        ("http://host", "", "/"),
        ("http://host/", "", "/"),
        ("http://host//health", "", "//health"),
        ("http://host/http://host/health", "", "/http://host/health"),
        ("http://host/%68ealth", "", "/%68ealth"),
        # Below the root, and where the server put it in front.
        ("http://host/api/health", "/api", "/health"),
        ("http://host/api/health", "/api/", "/health"),
        ("http://host/a%20b/health", "/a b", "/health"),
        ("/apihttp://host/health", "/api", "/health"),
        ("/apihttp://host/api/health", "/api", "/api/health"),
        # None of them is one.
        ("/health", "", "/health"),
        ("*", "", "*"),
        ("/http://host/health", "", "/http://host/health"),
        ("/api/http://host/health", "/api", "/http://host/health"),
        ("http:///health", "", "http:///health"),
        ("http:/host/health", "", "http:/host/health"),
        ("ftp://host/health", "", "ftp://host/health"),
        ("xhttp://host/health", "", "xhttp://host/health"),
        ("http://user:pw@host/health", "", "http://user:pw@host/health"),
        ("http://ho%73t/health", "", "http://ho%73t/health"),
        ("http://host\\x/health", "", "http://host\\x/health"),
        ("http://host?/health", "", "http://host?/health"),
        ("http://host#/health", "", "http://host#/health"),
        ("http://host/x\n/health", "", "http://host/x\n/health"),
    ],
)
def test_target_in_absolute_form_has_the_path_behind_its_host(
    path: str, root: str, seen: str, make_request: Make
) -> None:
    request = make_request("GET", path, root_path=root)
    request.path = request.origin_form()
    assert request.path == seen


def test_root_path_may_be_missing(make_request: Make) -> None:
    request = make_request("GET", "/x")
    scope = {
        key: value for key, value in request.scope.items() if key in ("method", "path", "headers")
    }
    assert type(request)(scope, request._receive, RequestIds()).path == "/x"


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"", None),
        (b"version=1.0", "1.0"),
        (b"a=1&version=2&version=3", "2"),
        (b"version=", None),
        (b"version=%31%2e0", "1.0"),
        (b"version=%ff", "\ufffd"),
        (b"other=1", None),
        (b"\xff=\xff&version=1", "1"),
    ],
)
def test_query_gives_the_first_value(raw: bytes, value: str | None, make_request: Make) -> None:
    assert make_request(query_string=raw).query("version") == value


def test_query_of_a_thousand_fields_is_refused(make_request: Make) -> None:
    with pytest.raises(RequestError):
        make_request(query_string=b"a=1&" * 1000).query("version")


@pytest.mark.parametrize(
    ("accept", "wants"),
    [
        (None, False),
        (b"*/*", False),
        (b"application/json", False),
        (b"text/event-stream", True),
        (b"application/json;q=0.8, Text/Event-Stream;q=0.9", True),
        (b"application/json, text/event-stream", True),
        (b"text/event-stream, */*", True),
        (b"*/*;q=0.5, text/event-stream;q=0.6", True),
        (b"text/event-stream;q=nonsense, application/json", True),
        # JSON is wanted more.
        (b"text/event-stream;q=0.1, application/json", False),
        (b"application/*, text/event-stream;q=0.999", False),
        (b"text/event-stream;q=0.9, */*;q=0.95", False),
        # The most specific range counts.
        (b"text/event-stream;q=0.5, application/json;q=0.4, */*", True),
        (b"application/json, text/event-stream; q = 0.0", False),
        (b"text/event-stream;q=0", False),
        (b"text/event-streams", False),
    ],
)
def test_event_stream_has_to_be_asked_for(
    accept: bytes | None, wants: bool, make_request: Make
) -> None:
    headers = [] if accept is None else [(b"accept", accept)]
    assert make_request(headers=headers).accepts_event_stream() is wants


@pytest.mark.parametrize(
    ("accept", "takes"),
    [
        (None, True),
        (b"*/*", True),
        (b"text/event-stream, application/*;q=0.1", True),
        (b"text/event-stream, Application/JSON", True),
        (b"text/event-stream", False),
        (b"text/event-stream, application/json;q=0", False),
        (b"text/event-stream, */*, application/json;q=0", False),
        (b"*/*;q=0.001", True),
        (b"", False),
    ],
)
def test_json_is_taken_unless_it_is_left_out(
    accept: bytes | None, takes: bool, make_request: Make
) -> None:
    headers = [] if accept is None else [(b"accept", accept)]
    assert make_request(headers=headers).accepts_json() is takes


@pytest.mark.parametrize(
    ("accepts", "wants", "takes"),
    [
        ([b"text/event-stream", b"application/json"], True, True),
        ([b"application/json", b"text/event-stream"], True, True),
        ([b"text/event-stream", b"*/*;q=0"], True, False),
        ([b"text/event-stream;q=0.1", b"*/*"], False, True),
        ([b"text/event-stream", b""], True, False),
    ],
)
def test_headers_that_are_repeated_are_one_list(
    accepts: list[bytes], wants: bool, takes: bool, make_request: Make
) -> None:
    request = make_request(headers=[(b"accept", one) for one in accepts])
    assert request.accepts_event_stream() is wants
    assert request.accepts_json() is takes


@pytest.mark.parametrize(
    ("messages", "whole"),
    [
        ([part(b"abc")], b"abc"),
        ([part(b"")], b""),
        ([{"type": "http.request"}], b""),
        ([part(b"a", True), part(b"b", True), part(b"c")], b"abc"),
        ([part(b"", True), part(b"x", True), {"type": "http.request"}], b"x"),
    ],
)
async def test_body_is_put_together(
    messages: list[dict[str, Any]], whole: bytes, make_request: Make
) -> None:
    assert await make_request(messages=messages).body(100) == whole


@pytest.mark.parametrize("size", [9, 10])
@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("chunk", [1, 3, 100])
async def test_body_up_to_the_cap_is_taken(
    size: int, declared: bool, chunk: int, make_request: Make
) -> None:
    body = b"x" * size
    pieces = [body[at : at + chunk] for at in range(0, size, chunk)]
    messages = [part(piece, n + 1 < len(pieces)) for n, piece in enumerate(pieces)]
    headers = [(b"content-length", b"%d" % size)] if declared else []
    assert await make_request(headers=headers, messages=messages).body(10) == body


async def test_declared_length_over_the_cap_is_refused_before_the_body(make_request: Make) -> None:
    for length in (b"11", b"9" * 30):
        request = make_request(headers=[(b"content-length", length)], messages=[])
        with pytest.raises(BodyTooLarge):
            await request.body(10)


@pytest.mark.parametrize("declared", [[], [(b"content-length", b"5")]])
async def test_longer_body_is_refused_as_soon_as_it_is_known(
    declared: list[tuple[bytes, bytes]], make_request: Make
) -> None:
    """Undeclared, or by a length that lies; nothing is read after the byte that is too much."""
    messages = [part(b"x" * 6, True), part(b"x" * 5, True), part(b"never read", True)]
    with pytest.raises(BodyTooLarge):
        await make_request(headers=declared, messages=messages).body(10)
    assert messages[2]["body"] == b"never read"
    for one in ([part(b"x" * 11)], [part(b"x" * 11, True)], [part(b"x", True), part(b"x" * 10)]):
        with pytest.raises(BodyTooLarge):
            await make_request(headers=declared, messages=one).body(10)


async def test_stream_without_an_end_is_refused_at_the_cap(make_request: Make) -> None:
    request = make_request()
    read = 0

    async def endless() -> Message:
        nonlocal read
        read += 1
        return part(b"x", True)

    request._receive = endless
    with pytest.raises(BodyTooLarge):
        await request.body(10)
    assert read == 11


@pytest.mark.parametrize("length", [b"-1", b"+1", b"1.0", b"0x1", b"", b" 1", b"1,1", b"\xb2"])
async def test_length_that_is_no_number_is_a_bad_request(length: bytes, make_request: Make) -> None:
    request = make_request(headers=[(b"content-length", length)], messages=[part(b"{}")])
    with pytest.raises(RequestError) as caught:
        await request.body(10)
    assert caught.value.code == "bad_request"


@pytest.mark.parametrize("before", [[], [part(b"x", True)]])
async def test_client_that_leaves_in_its_body_is_gone(
    before: list[dict[str, Any]], make_request: Make
) -> None:
    with pytest.raises(ClientDisconnected):
        await make_request(messages=before).body(10)


@pytest.mark.parametrize("before", [[], [part(b"x", True)]])
async def test_body_that_takes_longer_than_it_may_misses_its_deadline(
    before: list[dict[str, Any]], make_request: Make
) -> None:
    request, left = make_request(), list(before)

    async def receive() -> Message:
        if not left:
            await asyncio.Event().wait()
        return left.pop()

    request._receive = receive
    with pytest.raises(DeadlineExceeded):
        await request.body(10, lambda: 0.01)


async def test_body_that_is_there_has_not_missed_its_deadline(make_request: Make) -> None:
    messages = [part(b"a", True), part(b"b")]
    assert await make_request(messages=messages).body(10, lambda: 1e-9) == b"ab"


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ([(b"content-type", b"text/plain")], UnsupportedMediaType),
        ([(b"content-length", b"11")], BodyTooLarge),
        ([(b"content-length", b"x")], RequestError),
    ],
)
async def test_time_for_the_body_is_asked_for_after_the_headers_were_found_good(
    headers: list[tuple[bytes, bytes]], error: type[Exception], make_request: Make
) -> None:
    def never_asked() -> float:
        raise AssertionError("asked for")

    with pytest.raises(error):
        await make_request(headers=headers, messages=[part(b"{}")]).body(10, never_asked)


@pytest.mark.parametrize(
    ("headers", "taken"),
    [
        ([], True),
        ([(b"content-type", b"application/json")], True),
        ([(b"content-type", b"application/json; charset=utf-8")], True),
        ([(b"content-type", b"Application/JSON;charset=UTF-8")], True),
        ([(b"content-type", b"application/vnd.x+json")], True),
        ([(b"content-type", b" application/json ; x=y")], True),
        ([(b"content-type", b"")], True),
        ([(b"content-type", b" ")], True),
        ([(b"content-type", b""), (b"content-encoding", b"gzip")], False),
        ([(b"content-type", b";charset=utf-8")], False),
        ([(b"content-type", b"text/plain")], False),
        ([(b"content-type", b"text/json+json")], False),
        ([(b"content-type", b"application/jsonx")], False),
        ([(b"content-type", b"application/x-www-form-urlencoded")], False),
        ([(b"content-type", b"\xff")], False),
        ([(b"content-encoding", b"identity")], True),
        ([(b"content-encoding", b" Identity ")], True),
        ([(b"content-encoding", b"")], True),
        ([(b"content-encoding", b"gzip")], False),
        ([(b"content-encoding", b"identity, gzip")], False),
        ([(b"content-encoding", b"br")], False),
        ([(b"content-length", b"0"), (b"content-type", b"text/plain")], True),
    ],
)
async def test_body_has_to_be_json(
    headers: list[tuple[bytes, bytes]], taken: bool, make_request: Make
) -> None:
    request = make_request(headers=headers, messages=[part(b"")])
    if taken:
        assert await request.body(10) == b""
    else:
        with pytest.raises(UnsupportedMediaType):
            await request.body(10)


async def test_disconnect_is_awaited_past_what_is_left_of_the_body(make_request: Make) -> None:
    await make_request(messages=[part(b"a", True), part(b"b")]).disconnected()


class Replaying:
    """A middleware's ``receive``, which gives the whole body each time it is asked."""

    def __init__(self, times: int | None = None) -> None:
        self.asked = 0
        self._times = times

    async def __call__(self) -> Message:
        self.asked += 1
        assert self.asked < 1000, "asked without a pause"
        if self._times is not None and self.asked > self._times:
            return {"type": "http.disconnect"}
        return part(b"{}")


async def test_replayed_body_does_not_keep_the_watcher_busy(make_request: Make) -> None:
    request, receive = make_request(), Replaying()
    request._receive = receive
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await request.disconnected()
    assert 1 <= receive.asked <= 10


async def test_disconnect_after_a_replayed_body_is_noticed(make_request: Make) -> None:
    request, receive = make_request(), Replaying(times=3)
    request._receive = receive
    await request.disconnected()
    assert receive.asked == 4


class Sent(list["Message"]):
    async def __call__(self, message: Message) -> None:
        self.append(message)

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self[1:])


async def test_response_carries_its_length_type_and_id(make_request: Make) -> None:
    sent = Sent()
    request = make_request(headers=[(b"x-request-id", b"mine")])
    await json_response({"a": 1}, 201).send(request, sent)
    assert sent[0]["status"] == 201
    assert sent.headers == {
        b"content-type": b"application/json",
        b"content-length": b"7",
        b"x-request-id": b"mine",
    }
    assert sent.body == b'{"a":1}'


async def test_head_is_answered_without_a_body(make_request: Make) -> None:
    sent = Sent()
    await Response(b"12345").send(make_request("HEAD"), sent)
    assert sent.headers[b"content-length"] == b"5"
    assert sent.body == b""


async def test_empty_response_has_neither_type_nor_length(make_request: Make) -> None:
    sent = Sent()
    await EmptyResponse([(b"allow", b"GET")]).send(make_request("OPTIONS"), sent)
    assert sent[0]["status"] == 204
    assert sent.headers.keys() == {b"allow", b"x-request-id"}
    assert sent.body == b""


def test_error_is_an_envelope_of_fixed_text() -> None:
    response = error_response(ModelError("m@1 failed: secret"), b"id-1")
    assert response.status == 500
    assert json.loads(response.body) == {
        "error": "The model failed on this request",
        "code": "model_error",
        "request_id": "id-1",
    }


@pytest.mark.parametrize(
    ("seconds", "header"),
    [(None, b"1"), (0.0, b"1"), (-5.0, b"1"), (1.0, b"1"), (1.01, b"2"), (59.5, b"60"),
     (float("inf"), b"%d" % LONGEST_RETRY_S)],
)  # fmt: skip
def test_retry_after_is_whole_seconds_rounded_up(seconds: float | None, header: bytes) -> None:
    response = error_response(QueueFull(retry_after_s=seconds), b"x")
    assert dict(response.headers)[b"retry-after"] == header


def test_headers_of_an_error_follow_its_status() -> None:
    assert dict(error_response(MethodNotAllowed("GET"), b"x").headers)[b"allow"] == b"GET"
    plain = dict(error_response(ModelError(), b"x").headers)
    assert plain.keys() == {b"content-type", b"content-length"}


class Source:
    """What an event stream reads from, and whether it was closed."""

    def __init__(self, *items: bytes | Exception) -> None:
        self.items = items
        self.closed = False

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        for item in self.items:
            if isinstance(item, Exception):
                raise item
            yield item

    async def aclose(self) -> None:
        self.closed = True


async def test_stream_is_sent_as_it_comes(make_request: Make) -> None:
    sent, source = Sent(), Source(b"data: 1\n\n", b"data: 2\n\n")
    await EventStream(source.chunks(), source).send(make_request(), sent)  # type: ignore[arg-type]
    assert [message.get("body") for message in sent] == [None, b"data: 1\n\n", b"data: 2\n\n", b""]
    assert [message.get("more_body", False) for message in sent] == [False, True, True, False]
    assert sent.headers[b"content-type"] == b"text/event-stream"
    assert source.closed


@pytest.mark.parametrize(
    ("raised", "code"), [(ModelError("m failed"), "model_error"), (KeyError("x"), "internal_error")]
)
async def test_stream_that_breaks_off_says_so_in_its_last_event(
    raised: Exception, code: str, make_request: Make
) -> None:
    sent, source = Sent(), Source(b"data: 1\n\n", raised)
    with pytest.raises(ThalamusError) as caught:
        await EventStream(source.chunks(), source).send(make_request(), sent)  # type: ignore[arg-type]
    assert caught.value.code == code
    assert caught.value is raised or caught.value.__cause__ is raised
    name, _, data = sent[-1]["body"].partition(b"\n")
    assert name == b"event: error"
    assert json.loads(data.removeprefix(b"data: "))["code"] == code
    assert not sent[-1].get("more_body", False)
    assert source.closed


@pytest.mark.parametrize("fails_at", [0, 1, 2])
async def test_source_is_closed_when_the_client_is_gone(fails_at: int, make_request: Make) -> None:
    source, calls = Source(b"1", b"2"), 0

    async def send(message: Message) -> None:
        nonlocal calls
        calls += 1
        if calls > fails_at:
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await EventStream(source.chunks(), source).send(make_request(), send)  # type: ignore[arg-type]
    assert source.closed
