"""The client for plain tests."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from thalamus_lite.testing.client import AsyncClient

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping
    from types import EllipsisType, TracebackType

    from thalamus_lite.http.asgi import ASGIApp
    from thalamus_lite.testing.answers import Response
    from thalamus_lite.testing.client import Content, Headers, Params


class Client:
    """``with Client(app) as client``: :class:`AsyncClient` for plain tests, with the app's loop in
    a thread of its own. The arguments are those of :class:`AsyncClient`.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        api_key: str | EllipsisType | None = ...,
        headers: Mapping[str, str] | None = None,
        lifespan: bool = True,
    ) -> None:
        self._client = AsyncClient(app, api_key=api_key, headers=headers, lifespan=lifespan)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Client:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        try:
            self._do(self._client.__aenter__())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._do(self._client.__aexit__(None, None, None))
        finally:
            self._end()

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Params = None,
        json: Any = None,
        content: Content = None,
        headers: Headers = None,
    ) -> Response:
        """One request, and its whole answer; see :meth:`AsyncClient.request`."""
        if self._loop is None:
            raise RuntimeError("use the client in a with statement: with Client(app) as client")
        answer: Response = self._do(
            self._client.request(
                method, path, params=params, json=json, content=content, headers=headers
            )
        )
        return answer

    def get(self, path: str, **options: Any) -> Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> Response:
        return self.request("POST", path, **options)

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _end(self) -> None:
        assert self._loop is not None
        assert self._thread is not None
        # In the loop's own thread: another loop may run in this one, as in a notebook.
        self._do(self._loop.shutdown_asyncgens())
        loop, self._loop = self._loop, None
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join()
        loop.close()
