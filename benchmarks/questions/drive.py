"""``python -m benchmarks.questions.drive APP MODEL N``: N requests to an ASGI app in this process,
twice, with a mark before each.

The mark is a call of libc's ``ctermid``, which nothing else here calls: callgrind writes what it
has counted, and starts again, whenever that function is entered. Without callgrind the mark does
nothing.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from benchmarks.peers import predict

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.processes import Call

WARM = 50


def scope_of(call: Call) -> dict[str, Any]:
    """The scope of a request, as uvicorn gives it."""
    raw = [(name.lower().encode(), value.encode()) for name, value in call.headers.items()]
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": call.method,
        "scheme": "http",
        "path": call.path,
        "raw_path": call.path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [
            (b"host", b"127.0.0.1"),
            *raw,
            (b"content-length", b"%d" % len(call.body)),
        ],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        "extensions": {},
        "state": {},
    }


class _Sender:
    """The client's side of one request."""

    __slots__ = ("body", "sent")

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.sent = False

    async def receive(self) -> dict[str, Any]:
        if self.sent:
            # The client stays: whoever listens for its leaving waits for good.
            await asyncio.Event().wait()
        self.sent = True
        return {"type": "http.request", "body": self.body, "more_body": False}


class Driver:
    """An app with its lifespan begun, and one request to send to it again and again."""

    def __init__(self, app: Any, call: Call) -> None:
        self.app = app
        self.body = call.body
        self.scope = scope_of(call)
        self.statuses: list[int] = []
        self.on_body: Callable[[bytes], None] | None = None

    async def start(self) -> None:
        events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._stop = asyncio.Event()
        asked = iter(["lifespan.startup"])

        async def receive() -> dict[str, Any]:
            for kind in asked:
                return {"type": kind}
            await self._stop.wait()
            return {"type": "lifespan.shutdown"}

        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        self._lifespan = asyncio.ensure_future(self.app(scope, receive, events.put))
        said = await events.get()
        if said["type"] != "lifespan.startup.complete":
            raise RuntimeError(f"the app did not start: {said}")

    async def stop(self) -> None:
        self._stop.set()
        await self._lifespan

    async def request(self, body: bytes | None = None) -> None:
        """``body``: another one than the call's; its length in the headers is then left out."""
        scope = dict(self.scope)
        if body is not None:
            scope["headers"] = scope["headers"][:-1]
        await self.app(scope, _Sender(self.body if body is None else body).receive, self._send)

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.statuses.append(message["status"])
        elif self.on_body is not None:
            self.on_body(message.get("body", b""))


async def drive(module: str, model: str, count: int) -> None:
    driver = Driver(importlib.import_module(module).app, predict(model or None))
    await driver.start()
    for _ in range(WARM):
        await driver.request()
    gc.collect()
    for _ in range(2):
        os.ctermid()
        for _ in range(count):
            await driver.request()
    os.ctermid()
    await driver.stop()
    if set(driver.statuses) != {200}:
        raise SystemExit(f"answers other than 200: {set(driver.statuses)}")


if __name__ == "__main__":
    asyncio.run(drive(sys.argv[1], sys.argv[2], int(sys.argv[3])))
