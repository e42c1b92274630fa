"""The client for ``async`` tests."""

from __future__ import annotations

import asyncio
import contextlib
import json as _json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from thalamus_lite.testing.answers import Response
from thalamus_lite.testing.exchange import Exchange, Hangup, Stream, scope_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from types import EllipsisType, TracebackType

    from thalamus_lite.http.asgi import ASGIApp, Message

    Content = bytes | Iterable[bytes] | None
    Headers = Mapping[str, str] | Iterable[tuple[str, str | bytes]] | None
    Params = Mapping[str, Any] | Iterable[tuple[str, Any]] | None

TEST_API_KEY = "test-api-key-for-testing"
TEST_API_KEY_HEADER = {"X-API-Key": TEST_API_KEY}

_ENV = "THALAMUS_API_KEY"


class AsyncClient:
    """``async with AsyncClient(app) as client``: starts the app by its lifespan and stops it at the
    end.

    Args:
        app: Any ASGI application.
        api_key: Sent with every request: the one in the environment, unless given; None sends none.
        headers: Sent with every request as well.
        lifespan: False to leave the start to the first request.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        api_key: str | EllipsisType | None = ...,
        headers: Mapping[str, str] | None = None,
        lifespan: bool = True,
    ) -> None:
        self.app = app
        self._api_key = api_key
        self._given = dict(headers or {})
        self._headers: dict[str, str | bytes] = {}
        self._wants_lifespan = lifespan
        self._lifespan: asyncio.Task[None] | None = None
        self._set_key = False
        self._blank: str | None = None

    async def __aenter__(self) -> AsyncClient:
        # As the settings read it: blanks around it are none of it, and a blank one counts as unset.
        configured = os.environ.get(_ENV, "").strip()
        # A blank one is left where none is sent: so an app that has no key can be tested.
        if not configured and not (self._api_key is None and _ENV in os.environ):
            self._blank = os.environ.get(_ENV)
            os.environ[_ENV] = configured = TEST_API_KEY
            self._set_key = True
        key = configured if self._api_key is ... else self._api_key
        self._headers = dict(self._given)
        if key is not None:
            # As the gate encodes the key that it compares with.
            self._headers.setdefault("X-API-Key", os.fsencode(key))
        if self._wants_lifespan:
            try:
                await self._start()
            except BaseException:
                self._unset_key()
                raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        lifespan, self._lifespan = self._lifespan, None
        try:
            if lifespan is not None:
                self._stop.set()
                await lifespan
        finally:
            self._unset_key()

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Params = None,
        json: Any = None,
        content: Content = None,
        headers: Headers = None,
    ) -> Response:
        """One request, and its whole answer. ``content`` may be several chunks; ``params`` go into
        the query, behind one that ``path`` has.
        """
        async with self.stream(
            method, path, params=params, json=json, content=content, headers=headers
        ) as answer:
            body = b"".join([chunk async for chunk in answer.chunks()])
            return Response(answer.status, answer.headers, body)

    async def get(self, path: str, **options: Any) -> Response:
        return await self.request("GET", path, **options)

    async def post(self, path: str, **options: Any) -> Response:
        return await self.request("POST", path, **options)

    @contextlib.asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        params: Params = None,
        json: Any = None,
        content: Content = None,
        headers: Headers = None,
    ) -> AsyncIterator[Stream]:
        """One request, and its answer as it comes."""
        exchange, task = self._send(method, path, params, json, content, headers)
        try:
            start = await exchange.from_app.get()
            if start is None:
                task.result()
                raise RuntimeError("the app ended without an answer")
            yield Stream(exchange, task, start)
        finally:
            exchange.gone.set()
            await asyncio.gather(task, return_exceptions=True)

    def begin(
        self,
        method: str,
        path: str,
        *,
        params: Params = None,
        json: Any = None,
        content: Content = None,
        headers: Headers = None,
    ) -> Hangup:
        """Send a request and keep the line in hand: :meth:`Hangup.hang_up` is a client that goes
        away."""
        return Hangup(*self._send(method, path, params, json, content, headers))

    def _send(
        self, method: str, path: str, params: Params, json: Any, content: Content, headers: Headers
    ) -> tuple[Exchange, asyncio.Task[None]]:
        given = list(headers.items() if isinstance(headers, Mapping) else headers or ())
        names = {name.lower() for name, _ in given}
        pairs = [pair for pair in self._headers.items() if pair[0].lower() not in names] + given
        if json is not None:
            content = _json.dumps(json).encode()
            if "content-type" not in names:
                pairs.append(("content-type", "application/json"))
        chunks = [content or b""] if isinstance(content, bytes | None) else list(content) or [b""]
        if not {"content-length", "transfer-encoding"} & names and len(chunks) == 1:
            pairs.append(("content-length", str(len(chunks[0]))))
        encoded = [(name.lower().encode(), _bytes(value)) for name, value in pairs]
        exchange = Exchange.of(chunks)
        scope = scope_of(method, _with_query(path, params), encoded)
        return exchange, asyncio.ensure_future(exchange.run(self.app, scope))

    async def _start(self) -> None:
        stop = self._stop = asyncio.Event()
        events: asyncio.Queue[Message] = asyncio.Queue()
        received: list[str] = []

        async def receive() -> Message:
            if received:
                await stop.wait()
            received.append("lifespan.shutdown" if received else "lifespan.startup")
            return {"type": received[-1]}

        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
        lifespan = asyncio.ensure_future(_lifespan(self.app, scope, receive, events))
        event = asyncio.ensure_future(events.get())
        await asyncio.wait([event, lifespan], return_when=asyncio.FIRST_COMPLETED)
        if event.done() and event.result()["type"] == "lifespan.startup.complete":
            self._lifespan = lifespan
            return
        event.cancel()
        await lifespan
        raise RuntimeError("the app failed to start")

    def _unset_key(self) -> None:
        if self._set_key:
            self._set_key = False
            os.environ.pop(_ENV, None)
            if self._blank is not None:
                os.environ[_ENV] = self._blank


async def _lifespan(
    app: ASGIApp, scope: dict[str, Any], receive: Any, events: asyncio.Queue[Message]
) -> None:
    async def send(message: Message) -> None:
        events.put_nowait(message)

    await app(scope, receive, send)


def _with_query(path: str, params: Params) -> str:
    pairs = list(params.items() if isinstance(params, Mapping) else params or ())
    query = urlencode(pairs, doseq=True)
    return f"{path}{'&' if '?' in path else '?'}{query}" if query else path


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("latin-1")
