"""Requests made by hand, without an app."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from thalamus_lite.http.request import Request, RequestIds

Make = Callable[..., Request]


@pytest.fixture
def make_request() -> Make:
    """A request; its body is the given messages, and after them the client is gone."""
    ids = RequestIds()

    def make(
        method: str = "GET",
        path: str = "/",
        headers: list[tuple[bytes, bytes]] | None = None,
        messages: list[dict[str, Any]] | None = None,
        **scope: Any,
    ) -> Request:
        left = list(messages or [])

        async def receive() -> dict[str, Any]:
            return left.pop(0) if left else {"type": "http.disconnect"}

        full = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "http_version": "1.1",
            "headers": headers or [],
            **scope,
        }
        return Request(full, receive, ids)

    return make
