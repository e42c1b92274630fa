"""One request on its way through an app, and the client's end of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from thalamus_lite.testing.answers import Event, Response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from thalamus_lite.http.asgi import ASGIApp, Message


@dataclass(slots=True)
class Exchange:
    """One request's two queues between client and app."""

    to_app: asyncio.Queue[Message] = field(default_factory=asyncio.Queue)
    from_app: asyncio.Queue[Message | None] = field(default_factory=asyncio.Queue)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    def of(cls, chunks: list[bytes]) -> Exchange:
        """An exchange whose request body is there already."""
        exchange = cls()
        for index, chunk in enumerate(chunks):
            more = index + 1 < len(chunks)
            exchange.to_app.put_nowait({"type": "http.request", "body": chunk, "more_body": more})
        return exchange

    async def run(self, app: ASGIApp, scope: dict[str, Any]) -> None:
        try:
            await app(scope, self.receive, self.send)
        finally:
            self.from_app.put_nowait(None)

    async def receive(self) -> Message:
        if not self.to_app.empty():
            return self.to_app.get_nowait()
        message = asyncio.ensure_future(self.to_app.get())
        gone = asyncio.ensure_future(self.gone.wait())
        try:
            await asyncio.wait([message, gone], return_when=asyncio.FIRST_COMPLETED)
            return message.result() if message.done() else {"type": "http.disconnect"}
        finally:
            message.cancel()
            gone.cancel()

    async def send(self, message: Message) -> None:
        self.from_app.put_nowait(dict(message))
        # A server yields to its loop here; so does this one, or nothing else would run.
        await asyncio.sleep(0)


class Stream:
    """An answer as it comes. Leaving the ``async with`` before its end hangs up."""

    def __init__(self, exchange: Exchange, task: asyncio.Task[None], start: Message) -> None:
        self._exchange = exchange
        self._task = task
        self.status: int = start["status"]
        self.headers = headers_of(start)

    @property
    def status_code(self) -> int:
        """The same as ``status``, by the name that other clients have for it."""
        return self.status

    async def chunks(self) -> AsyncIterator[bytes]:
        """The parts of the body."""
        while (message := await self._exchange.from_app.get()) is not None:
            yield message.get("body", b"")
            if not message.get("more_body", False):
                return
        # The app ended in the middle of its answer; what it raised says why.
        self._task.result()
        raise RuntimeError("the app ended in the middle of its answer")

    async def events(self) -> AsyncIterator[Event]:
        """The server-sent events."""
        buffer = ""
        async for chunk in self.chunks():
            *blocks, buffer = (buffer + chunk.decode()).split("\n\n")
            for block in blocks:
                yield Event.parse(block)


class Hangup:
    """A request under way whose client may leave."""

    def __init__(self, exchange: Exchange, task: asyncio.Task[None]) -> None:
        self._exchange = exchange
        self._task = task

    async def hang_up(self) -> None:
        """Leave, and wait until the app has noticed."""
        self._exchange.gone.set()
        await asyncio.gather(self._task, return_exceptions=True)

    async def answer(self) -> Response:
        """Stay, and take the answer."""
        await self._task
        start = self._exchange.from_app.get_nowait()
        if start is None:
            raise RuntimeError("the app ended without an answer")
        body = b""
        while (message := self._exchange.from_app.get_nowait()) is not None:
            body += message.get("body", b"")
        return Response(start["status"], headers_of(start), body)


def scope_of(method: str, target: str, headers: Iterable[tuple[bytes, bytes]]) -> dict[str, Any]:
    """The ASGI scope of a request; ``target`` is the path, as sent, with its query."""
    from urllib.parse import unquote

    raw, _, query = target.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(raw),
        "raw_path": raw.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": list(headers),
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }


def headers_of(start: Message) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in start["headers"]}
