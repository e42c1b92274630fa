"""An ASGI server of one request: any scope, any messages, nothing tidied up on the way."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from thalamus_lite.testing import TEST_API_KEY

if TYPE_CHECKING:
    from collections.abc import Iterable

    from thalamus_lite.http.asgi import ASGIApp, Message

KEY = (b"x-api-key", TEST_API_KEY.encode())


@dataclass(slots=True)
class Answer:
    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    ended: bool = False

    def header(self, name: str) -> str | None:
        found = [value for key, value in self.headers if key == name.encode()]
        assert len(found) <= 1, f"{name} was sent {len(found)} times"
        return found[0].decode("latin-1") if found else None

    def json(self) -> Any:
        return json.loads(self.body)

    def take(self, message: Message) -> None:
        """A message of the app, held to the rules of the ASGI specification."""
        kind = message["type"]
        if kind == "http.response.start":
            assert self.status == 0, "started twice"
            self.status = message["status"]
            self.headers = list(message["headers"])
            for name, value in self.headers:
                assert type(name) is bytes
                assert type(value) is bytes
                assert name == name.lower()
                assert not {b"\r", b"\n", b"\0"} & {name[i : i + 1] for i in range(len(name))}
                assert b"\r" not in value
                assert b"\n" not in value
            return
        assert kind == "http.response.body", kind
        assert self.status, "a body before its start"
        assert not self.ended, "a body after its end"
        assert type(message.get("body", b"")) is bytes
        self.body += message.get("body", b"")
        self.ended = not message.get("more_body", False)


async def call(
    app: ASGIApp,
    method: str = "GET",
    target: bytes | str = b"/",
    headers: Iterable[tuple[bytes, bytes]] = (KEY,),
    messages: Iterable[dict[str, Any]] = ({"type": "http.request"},),
    stays: bool = False,
    **scope: Any,
) -> Answer:
    """One request, its target as it stands on the wire; after ``messages`` the client is gone,
    unless it ``stays``.
    """
    raw = target.encode() if isinstance(target, str) else target
    path, _, query = raw.partition(b"?")
    left = iter(messages)
    answer = Answer()

    async def receive() -> Message:
        message = next(left, None)
        if message is None and stays:
            await asyncio.Event().wait()
        return message or {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        answer.take(message)

    full = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote_to_bytes(path).decode("utf-8", "replace"),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": list(headers),
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        **scope,
    }
    await app(full, receive, send)
    assert answer.ended, "the app ended without a whole answer"
    return answer


def body(content: bytes | Any, size: int | None = None) -> list[dict[str, Any]]:
    """A body's messages: one, or several of ``size`` bytes."""
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    step = size or max(len(raw), 1)
    parts = [raw[at : at + step] for at in range(0, len(raw), step)] or [b""]
    return [
        {"type": "http.request", "body": piece, "more_body": at + 1 < len(parts)}
        for at, piece in enumerate(parts)
    ]
