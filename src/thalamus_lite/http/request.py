"""A request over ASGI: its path, headers and id, and its body under a limit."""

from __future__ import annotations

import asyncio
import itertools
import re
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

from thalamus_lite.errors import (
    BodyTooLarge,
    ClientDisconnected,
    DeadlineExceeded,
    RequestError,
    UnsupportedMediaType,
)
from thalamus_lite.http.accept import prefers, takes

if TYPE_CHECKING:
    from collections.abc import Callable

    from thalamus_lite.http.asgi import Receive, Scope

MAX_REQUEST_ID = 128
MAX_QUERY_FIELDS = 32

FIRST_PAUSE_S = 0.01
LONGEST_PAUSE_S = 1.0
"""How soon and how seldom a client is asked for again whose ``receive`` never waits."""

# An empty one says as little as none.
_JSON_TYPES = frozenset({None, b"", b"application/json", b"application/json; charset=utf-8"})
_USUAL_ACCEPTS = frozenset({b"*/*", b"application/json", b"application/json, */*"})
# Neither user info, which is a way to deceive, nor anything encoded.
_ABSOLUTE_FORM = re.compile(r"(?i:https?)://[A-Za-z0-9._~:\[\]-]+(/.*)?")
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

    __slots__ = ("_receive", "headers", "method", "params", "path", "request_id", "scope", "unread")

    def __init__(self, scope: Scope, receive: Receive, ids: RequestIds) -> None:
        self.scope = scope
        self._receive = receive
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        raw: bytes | None = scope.get("raw_path")
        # What was percent-encoded is longer than what it stands for.
        if raw is None or len(raw) != len(self.path) or scope.get("root_path"):
            self.path = _path(scope)
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.params = _NO_PARAMS
        # Whether its body, if it has one, may still be on the way.
        self.unread = True
        given = self.headers.get(b"x-request-id")
        self.request_id = ids.new() if given is None or not _is_safe_id(given) else given

    def origin_form(self) -> str:
        """The path of a target such as ``http://host/health``; of any other, as it is.

        Clients send proxies such targets, and a server must take them too (RFC 9112, section
        3.2.2).
        """
        root = self.scope.get("root_path", "").rstrip("/")
        target = self.path.removeprefix(root)
        match = _ABSOLUTE_FORM.fullmatch(target)
        if match is None:
            return self.path
        path = match[1] or "/"
        # Some servers put the root in front of whatever was sent.
        return path if target != self.path else _below_root(path, self.scope)

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

    def accept(self) -> bytes:
        """All that the client takes: headers that are repeated are one list (RFC 9110, section
        5.3).
        """
        return b",".join(value for name, value in self.scope["headers"] if name == b"accept")

    def accepts_event_stream(self) -> bool:
        """Whether the client names server-sent events, and does not like JSON better."""
        accept = self.headers.get(b"accept")
        if accept is None:
            return False
        if accept in _USUAL_ACCEPTS and len(self.headers) == len(self.scope["headers"]):
            return False
        return prefers(self.accept(), b"text/event-stream", b"application/json")

    def accepts_json(self) -> bool:
        return b"accept" not in self.headers or takes(self.accept(), b"application/json")

    async def body(
        self, limit: int, within_s: Callable[[], float] | None = None
    ) -> bytes | bytearray:
        """The whole body, which must be JSON and at most ``limit`` bytes.

        ``within_s`` says how long it may take; it is asked once the headers were found good, and
        what it raises is raised.

        Raises:
            UnsupportedMediaType: another content type, or a content encoding.
            RequestError: a length that is no number.
            BodyTooLarge: as soon as it is known, declared or not.
            ClientDisconnected: the client left before the body ended.
            DeadlineExceeded: it took longer than ``within_s``.
        """
        headers = self.headers
        declared = headers.get(b"content-length")
        # Where there is nothing to read, its type does not matter.
        if declared != b"0" and (
            headers.get(b"content-type") not in _JSON_TYPES or b"content-encoding" in headers
        ):
            self._check_media_type()
        if declared is not None:
            if not declared.isdigit():
                raise RequestError
            if len(declared) > 18 or int(declared) > limit:
                raise BodyTooLarge
        if within_s is not None:
            try:
                async with asyncio.timeout(within_s()):
                    return await self.body(limit)
            except TimeoutError:
                raise DeadlineExceeded from None
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        body: bytes = message.get("body", b"")
        if not message.get("more_body", False):
            self.unread = False
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
        self.unread = False
        if len(whole) > limit:
            raise BodyTooLarge
        return whole

    def _check_media_type(self) -> None:
        headers = self.headers
        kind = headers.get(b"content-type")
        if kind is not None and kind.strip():
            name = kind.partition(b";")[0].strip().lower()
            if name != b"application/json" and not (
                name.startswith(b"application/") and name.endswith(b"+json")
            ):
                raise UnsupportedMediaType
        encoding = headers.get(b"content-encoding")
        if encoding is not None and encoding.strip().lower() not in (b"", b"identity"):
            raise UnsupportedMediaType

    def is_sending(self) -> bool:
        """Whether the client may be in the middle of its body, where that was not read, on a
        connection of this request alone.
        """
        headers = self.headers
        return (
            self.scope["http_version"].startswith("1")
            and (headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers)
            # It waits for an answer before it sends any.
            and b"expect" not in headers
        )

    async def discard(self, within_s: float, pause_s: float) -> None:
        """Read the rest of the body and throw it away, as long as it comes without such a pause and
        takes no longer.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                more = True
                while more:
                    message = await asyncio.wait_for(self._receive(), pause_s)
                    more = message.get("more_body", False)

    async def disconnected(self) -> None:
        """Return once the client is gone; only to be awaited after the body was read."""
        pause_s = FIRST_PAUSE_S
        while (await self._receive())["type"] != "http.disconnect":
            # A middleware that replays the body does so at once, each time it is asked.
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _path(scope: Scope) -> str:
    path: str = scope["path"]
    raw: bytes = scope.get("raw_path") or b""
    if b"%" in raw:
        # Some servers leave the query in it.
        path = raw.partition(b"?")[0].decode("latin-1")
    return _below_root(path, scope)


def _below_root(path: str, scope: Scope) -> str:
    root: str = scope.get("root_path", "")
    if (
        root
        and path.startswith(root)
        and (root.endswith("/") or path[len(root) : len(root) + 1] == "/")
    ):
        return path[len(root.rstrip("/")) :]
    encoded = b"%" in (scope.get("raw_path") or b"")
    return _below_encoded(path, root.rstrip("/")) if root and encoded else path


def _below_encoded(path: str, root: str) -> str:
    """``"/a%20b/%63"`` below ``"/a b"`` is ``"/%63"``; a path that is not below it stays whole.

    By segments: a slash that was encoded separates none, so it makes a root of more slashes than
    this one.
    """
    from urllib.parse import unquote

    segments = path.split("/")
    depth = root.count("/") + 1
    try:
        above = [unquote(segment, errors="strict") for segment in segments[:depth]]
    except UnicodeDecodeError:
        return path
    if len(segments) > depth and "/".join(above) == root:
        return "/" + "/".join(segments[depth:])
    return path


def _is_safe_id(value: bytes) -> bool:
    return 0 < len(value) <= MAX_REQUEST_ID and value.isascii() and value.decode().isprintable()
