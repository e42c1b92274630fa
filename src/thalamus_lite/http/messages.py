"""Requests and responses over ASGI, without a framework.

A request reads its headers once, into a dict, and its body under a limit. A response knows its
bytes before it is sent, or streams server-sent events.
"""

from __future__ import annotations

import itertools
import math
import secrets
from typing import TYPE_CHECKING, Any

from thalamus_lite.errors import (
    BodyTooLarge,
    ClientDisconnected,
    RequestError,
    ThalamusError,
    UnsupportedMediaType,
)
from thalamus_lite.http.accept import media_ranges
from thalamus_lite.http.codec import encode

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from thalamus_lite.http.asgi import Receive, Scope, Send

MAX_REQUEST_ID = 128
MAX_QUERY_FIELDS = 32
LONGEST_RETRY_S = 3600

_JSON_TYPES = frozenset({b"application/json", b"application/json; charset=utf-8"})
_JSON_RANGES = frozenset({b"application/json", b"application/*", b"*/*"})
_NO_PARAMS: dict[str, str] = {}


class RequestIds:
    """Unique ids at the cost of a counter: a random prefix a process, a number a request."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(8).encode("ascii")
        self._numbers = itertools.count(1)

    def new(self) -> bytes:
        return b"%b%08x" % (self._prefix, next(self._numbers))


class Request:
    """One HTTP request.

    ``path`` is what the gate and the router see: the part below ``root_path``, and undecoded where
    the client percent-encoded anything, so that two spellings can never mean one route.
    """

    __slots__ = ("_receive", "headers", "method", "params", "path", "request_id", "scope")

    def __init__(self, scope: Scope, receive: Receive, ids: RequestIds) -> None:
        self.scope = scope
        self._receive = receive
        self.method: str = scope["method"]
        self.path = _path(scope)
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.params = _NO_PARAMS
        given = self.headers.get(b"x-request-id")
        self.request_id = ids.new() if given is None or not _is_safe_id(given) else given

    def query(self, name: str) -> str | None:
        """The first value of a query parameter.

        Raises:
            RequestError: more parameters than any route has.
        """
        raw = self.scope.get("query_string", b"")
        if not raw:
            return None
        from urllib.parse import parse_qs

        try:
            values = parse_qs(raw.decode("latin-1"), max_num_fields=MAX_QUERY_FIELDS).get(name)
        except ValueError:
            raise RequestError from None
        return values[0] if values else None

    def accepts_event_stream(self) -> bool:
        """Whether the client asks for server-sent events; ``*/*`` does not."""
        accept = self.headers.get(b"accept")
        if accept is None or b"event-stream" not in accept.lower():
            return False
        return b"text/event-stream" in media_ranges(accept)

    def accepts_json(self) -> bool:
        accept = self.headers.get(b"accept")
        return accept is None or not _JSON_RANGES.isdisjoint(media_ranges(accept))

    async def body(self, limit: int) -> bytes | bytearray:
        """The whole body, which must be JSON and at most ``limit`` bytes.

        Raises:
            UnsupportedMediaType: another content type, or a content encoding.
            RequestError: a length that is no number.
            BodyTooLarge: as soon as it is known, declared or not.
            ClientDisconnected: the client left before the body ended.
        """
        headers = self.headers
        declared = headers.get(b"content-length")
        if declared != b"0":
            self._check_media_type()
        if declared is not None:
            if not declared.isdigit():
                raise RequestError
            if len(declared) > 18 or int(declared) > limit:
                raise BodyTooLarge
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        body: bytes = message.get("body", b"")
        if not message.get("more_body", False):
            if len(body) > limit:
                raise BodyTooLarge
            return body
        whole = bytearray(body)
        while message.get("more_body", False):
            if len(whole) > limit:
                raise BodyTooLarge
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnected
            whole += message.get("body", b"")
        if len(whole) > limit:
            raise BodyTooLarge
        return whole

    def _check_media_type(self) -> None:
        headers = self.headers
        kind = headers.get(b"content-type")
        if kind is not None and kind not in _JSON_TYPES:
            name = kind.partition(b";")[0].strip().lower()
            if name != b"application/json" and not (
                name.startswith(b"application/") and name.endswith(b"+json")
            ):
                raise UnsupportedMediaType
        encoding = headers.get(b"content-encoding")
        if encoding is not None and encoding.strip().lower() not in (b"", b"identity"):
            raise UnsupportedMediaType

    async def disconnected(self) -> None:
        """Return once the client is gone; only to be awaited after the body was read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


def _path(scope: Scope) -> str:
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    raw: bytes | None = scope.get("raw_path")
    if raw is not None and b"%" in raw:
        # Some servers leave the query in it.
        path = raw.partition(b"?")[0].decode("latin-1")
    if (
        root
        and path.startswith(root)
        and (root.endswith("/") or path[len(root) : len(root) + 1] == "/")
    ):
        return path[len(root.rstrip("/")) :]
    return path


def _is_safe_id(value: bytes) -> bool:
    return 0 < len(value) <= MAX_REQUEST_ID and value.isascii() and value.decode().isprintable()


class Response:
    """A complete answer."""

    __slots__ = ("body", "headers", "status")

    def __init__(
        self,
        body: bytes,
        status: int = 200,
        content_type: bytes = b"application/json",
        headers: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        self.status = status
        self.body = body
        self.headers = [
            (b"content-type", content_type),
            (b"content-length", b"%d" % len(body)),
            *headers,
        ]

    async def send(self, request: Request, send: Send) -> None:
        self.headers.append((b"x-request-id", request.request_id))
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        body = b"" if request.method == "HEAD" else self.body
        await send({"type": "http.response.body", "body": body})


class EmptyResponse(Response):
    """204, which has neither a content type nor a length."""

    __slots__ = ()

    def __init__(self, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        super().__init__(b"", 204)
        self.headers = list(headers)


class EventStream:
    """Server-sent events, whose text is already framed.

    ``source`` is what ``chunks`` reads from. Both are closed at the end, whatever it is: closing a
    generator that was never begun does not run its ``finally``, so ``chunks`` cannot close it.
    """

    __slots__ = ("_chunks", "_source", "headers", "status")

    def __init__(
        self, chunks: AsyncGenerator[bytes, None], source: AsyncGenerator[Any, None]
    ) -> None:
        self._chunks = chunks
        self._source = source
        self.status = 200
        self.headers = [
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ]

    async def send(self, request: Request, send: Send) -> None:
        """
        Raises:
            ThalamusError: what broke the stream off; the client was sent it as its last event.
        """
        self.headers.append((b"x-request-id", request.request_id))
        start = {"type": "http.response.start", "status": self.status, "headers": self.headers}
        try:
            await send(start)
            try:
                while (chunk := await self._next()) is not None:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            except ThalamusError as error:
                frame = b"event: error\ndata: %b\n\n"
                body = frame % encode(error_body(error, request.request_id))
                await send({"type": "http.response.body", "body": body})
                raise
            await send({"type": "http.response.body", "body": b""})
        finally:
            await self._chunks.aclose()
            await self._source.aclose()

    async def _next(self) -> bytes | None:
        try:
            return await anext(self._chunks, None)
        except ThalamusError:
            raise
        except Exception as error:
            raise ThalamusError(f"unexpected {type(error).__name__}") from error


def json_response(value: Any, status: int = 200) -> Response:
    return Response(encode(value), status)


def error_body(error: ThalamusError, request_id: bytes) -> dict[str, Any]:
    """The one error envelope of every route."""
    body: dict[str, Any] = {
        "error": error.text,
        "code": error.code,
        "request_id": request_id.decode("ascii"),
    }
    details = getattr(error, "details", None)
    if details is not None:
        body["details"] = details
    return body


def error_response(error: ThalamusError, request_id: bytes) -> Response:
    response = Response(encode(error_body(error, request_id)), error.status)
    allow = getattr(error, "allow", None)
    if allow is not None:
        response.headers.append((b"allow", allow.encode("ascii")))
    if error.retry_after_s is not None or error.status in (429, 503):
        response.headers.append((b"retry-after", _whole_seconds(error.retry_after_s)))
    if error.status == 401:
        response.headers.append((b"www-authenticate", b"Bearer"))
    return response


def _whole_seconds(seconds: float | None) -> bytes:
    """Rounded up: a client that comes back a moment too early is turned away again."""
    bounded = min(max(seconds or 1.0, 1.0), LONGEST_RETRY_S)
    return b"%d" % math.ceil(bounded)
