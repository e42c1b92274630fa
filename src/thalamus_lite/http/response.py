"""Answers over ASGI: one whose bytes are known before it is sent, or server-sent events."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from thalamus_lite.errors import ThalamusError
from thalamus_lite.http.codec import encode

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from thalamus_lite.http.asgi import Message, Send
    from thalamus_lite.http.request import Request

LONGEST_RETRY_S = 3600


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

    def messages(self, request: Request) -> tuple[Message, Message]:
        """What is sent, in this order."""
        self.headers.append((b"x-request-id", request.request_id))
        return (
            {"type": "http.response.start", "status": self.status, "headers": self.headers},
            {
                "type": "http.response.body",
                "body": b"" if request.method == "HEAD" else self.body,
            },
        )

    async def send(self, request: Request, send: Send) -> None:
        for message in self.messages(request):
            await send(message)


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
