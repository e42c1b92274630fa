"""The floor: raw ASGI that reads the body and gives a static answer, and the least that rows 6 and
13 can be done with.
"""

from __future__ import annotations

import os
from typing import Any

import orjson
import uvicorn
from pydantic import BaseModel, TypeAdapter

from benchmarks.servers.work import port

ANSWER = os.environ.get("BENCH_ANSWER", "x" * 220).encode()
HEADERS = [
    (b"content-type", b"application/json"),
    (b"content-length", b"%d" % len(ANSWER)),
]


class Vector(BaseModel):
    values: list[float]


RECORDS = TypeAdapter(list[Vector])


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    body = b""
    more = True
    parts = []
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    if scope["path"] == "/tokens":
        await _tokens(int(b"".join(parts)), send)
        return
    if scope["path"] == "/vectors":
        body = b"".join(parts)
        RECORDS.validate_python(orjson.loads(body)["inputs"])
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": ANSWER})


async def _tokens(count: int, send: Any) -> None:
    """One chunk a token, framed as a server-sent event."""
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for index in range(count):
        chunk = b'data: {"token":"token %d"}\n\n' % index
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _lifespan(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port(),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        # As thalamus-lite's own server has it.
        proxy_headers=False,
        server_header=False,
    )
