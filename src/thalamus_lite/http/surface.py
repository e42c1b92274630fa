"""From an HTTP scope to one answer: gate, router, handler, error envelope."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from thalamus_lite.errors import ThalamusError
from thalamus_lite.http.request import Request, RequestIds
from thalamus_lite.http.response import EmptyResponse, EventStream, error_response
from thalamus_lite.observability.logs import Throttle

if TYPE_CHECKING:
    from collections.abc import Callable

    from thalamus_lite.http.asgi import Receive, Scope, Send
    from thalamus_lite.http.gate import Gate
    from thalamus_lite.http.response import Response
    from thalamus_lite.http.router import Router

_log = logging.getLogger("thalamus_lite")

_TRACEPARENT = b"traceparent"
_CLOSED_TRANSPORT = "; the handler is closed"

LINES_A_SECOND = 20
"""How many failed requests are logged; a storm of them must not fill a disk."""

LINGER_S = 5.0
LINGER_PAUSE_S = 1.0
"""How long a client that was answered in the middle of its body may go on sending it, and with what
pauses.
"""


class Surface:
    """The HTTP side of a started app. Every error leaves as the one envelope; nothing else does.

    ``observe`` is called with the fields of each request, once its answer was sent: for the access
    log.
    """

    def __init__(
        self,
        router: Router,
        gate: Gate,
        observe: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self._router = router
        self._gate = gate
        self._observe = observe
        self._ids = RequestIds()
        self._cut_off: ThalamusError | None = None
        self._throttle = Throttle(LINES_A_SECOND)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, self._ids)
        started = time.perf_counter() if self._observe is not None else 0.0
        try:
            resource = self._router.find(request)
            response: Response | EventStream
            if request.method == "OPTIONS":
                response = EmptyResponse([(b"allow", resource.allow.encode("ascii"))])
            else:
                self._gate.check(request, resource.access)
                response = await resource.handler(request.method)(request)
        except ThalamusError as error:
            self._log_failure(request, error)
            response = error_response(error, request.request_id)
            if error.status == 413 and scope["http_version"].startswith("1"):
                # What is left of the body would have to be read and thrown away to keep it open.
                response.headers.append((b"connection", b"close"))
        except Exception as error:
            unexpected = ThalamusError(f"unexpected {type(error).__name__}")
            unexpected.__cause__ = error
            self._log_failure(request, unexpected)
            response = error_response(unexpected, request.request_id)
        except asyncio.CancelledError:
            if self._cut_off is None:
                raise
            response = error_response(self._cut_off, request.request_id)
        try:
            if isinstance(response, EventStream):
                await response.send(request, send)
            else:
                # Without a coroutine of its own.
                start, body = response.messages(request)
                await send(start)
                if request.unread and request.is_sending() and self._cut_off is None:
                    # Most clients read when they have sent all. A server may close the connection
                    # behind the answer's end, and the system then resets it under their hands, the
                    # answer lost: so its end waits for theirs (RFC 9112, section 9.6).
                    await send({**body, "more_body": True})
                    await request.discard(LINGER_S, LINGER_PAUSE_S)
                    body = {"type": "http.response.body", "body": b""}
                await send(body)
        except ThalamusError as error:
            self._log_failure(request, error)
        except (OSError, RuntimeError) as error:
            if not _tells_that_the_client_is_gone(error):
                raise
            # There is nobody to tell.
            fields = log_fields(request, "client_disconnected")
            _log.debug("client of %s gone before its answer", fields["request_id"], extra=fields)
        except asyncio.CancelledError:
            if self._cut_off is None:
                raise
        if self._observe is not None:
            self._observe(
                {
                    **log_fields(request, "ok" if response.status < 400 else "refused"),
                    "status": response.status,
                    "ms": round((time.perf_counter() - started) * 1000, 2),
                }
            )

    def cut_off(self, error: ThalamusError) -> None:
        """End every request under way: with ``error`` where its body is still being read, in the
        middle where its client does not read.
        """
        self._cut_off = error
        for task in asyncio.all_tasks():
            if self._is_served_by(task):
                task.cancel()

    def _is_served_by(self, task: asyncio.Task[Any]) -> bool:
        """Looked for in its coroutines: a list of requests would cost each of them its part."""
        awaited: Any = task.get_coro()
        while (frame := getattr(awaited, "cr_frame", None)) is not None:
            if frame.f_code is _SERVE and frame.f_locals.get("self") is self:
                return True
            awaited = awaited.cr_await
        return False

    def _log_failure(self, request: Request, error: ThalamusError) -> None:
        if error.status < 500:
            return
        held_back = self._throttle.take()
        if held_back is None:
            return
        fields: dict[str, Any] = log_fields(request, error.code)
        text = f"request {fields['request_id']} failed: {error}"
        if held_back:
            fields["lines_held_back"] = held_back
            text += f" ({held_back} more were not logged)"
        level = logging.ERROR if type(error) is ThalamusError else logging.WARNING
        _log.log(level, "%s", text, extra=fields, exc_info=error.__cause__)


_SERVE = Surface.serve.__code__


def _tells_that_the_client_is_gone(error: OSError | RuntimeError) -> bool:
    """ASGI servers may raise an OSError then, and under uvloop what a closed transport raises."""
    return isinstance(error, OSError) or str(error).endswith(_CLOSED_TRANSPORT)


def log_fields(request: Request, code: str) -> dict[str, str]:
    """What ties a log line to a request: its id, and the caller's trace where one was sent."""
    fields = {
        "request_id": request.request_id.decode("ascii"),
        "method": request.method,
        "path": request.path[:200],
        "code": code,
    }
    trace = request.headers.get(_TRACEPARENT)
    if trace is not None and len(trace) <= 128 and trace.isascii():
        fields["traceparent"] = trace.decode("ascii")
    return fields
