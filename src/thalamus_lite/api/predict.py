"""POST /predict: decode, hand over, encode. One answer, or a stream of server-sent events."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

from thalamus_lite.batching.group import PendingRequest
from thalamus_lite.errors import (
    ClientDisconnected,
    NotAcceptable,
    RequestTooLarge,
    ThalamusError,
    ValidationFailed,
)
from thalamus_lite.http.codec import decode, decode_rounded, has_long_integer
from thalamus_lite.http.response import EventStream, Response

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from thalamus_lite.batching.times import Times
    from thalamus_lite.http.request import Request
    from thalamus_lite.model.spec import ModelSpec
    from thalamus_lite.serving.service import Service

    Parts = AsyncGenerator[list[bytes], None]

LONGEST_TIMEOUT_MS = 86_400_000

# Some servers leave the white space that may stand around a header's value.
_DECIMAL = re.compile(rb"[ \t]*\+?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[ \t]*")

# Some clients end lines where `str.splitlines` does. JSON has these in strings only.
_LINE_ENDS = (
    (b"\xe2\x80\xa8", rb"\u2028"),
    (b"\xe2\x80\xa9", rb"\u2029"),
    (b"\xc2\x85", rb"\u0085"),
)


class PredictRoute:
    def __init__(self, service: Service, max_body_bytes: int) -> None:
        self._service = service
        self._limit = max_body_bytes
        self._written = Written()

    async def predict(self, request: Request) -> Response | EventStream:
        received = time.monotonic()
        service = self._service
        service.check_open()
        asked = request.headers.get(b"x-timeout-ms")
        within_s = None if asked is None else partial(_seconds, asked)
        body = await request.body(self._limit, within_s)
        model_id, version, inputs = _read(decode_rounded(body))
        spec = service.registry.resolve(model_id, version)
        pending: PendingRequest | None = None
        try:
            if spec.inputs.tells_rounded_integers and has_long_integer(body):
                inputs = _read(decode(body))[2]
            streams = spec.streams
            events = request.accepts_event_stream()
            if events and not streams and not request.accepts_json():
                raise NotAcceptable
            if len(inputs) > spec.policy.max_queue_size:
                # Before the validation: what no queue can hold need not be read either.
                raise RequestTooLarge
            pending = PendingRequest(
                spec.inputs.validate(inputs),
                received,
                _timeout_s(asked, spec),
                request.disconnected,
            )
            # It may wait long, and what was read is no more needed.
            del body, inputs
            if streams:
                if events:
                    return await self._events(spec, pending)
                return await self._collect(spec, pending)
            if not service.submit(spec, pending):
                await service.submit_when_up(spec, pending)
            await pending.future
            return self._answer(spec, pending, spec.outputs.dump(pending.outputs))
        except ThalamusError as error:
            service.refused(spec, error)
            raise
        except asyncio.CancelledError:
            # Some servers cancel the request of a client that is gone.
            if pending is not None:
                service.abandon(pending)
            service.refused(spec, ClientDisconnected())
            raise
        finally:
            # An error knows this frame, and the request knows the error.
            pending = None

    def _answer(self, spec: ModelSpec, pending: PendingRequest, outputs: bytes) -> Response:
        latency_s = time.monotonic() - pending.received
        meta_end, timing = self._written.of(pending)
        meta = _meta(spec, pending, latency_s, meta_end)
        response = Response(b'{"outputs":[%b],"meta":%b}' % (outputs, meta))
        response.headers.append(
            (b"server-timing", b"queue;dur=%.3f, %b" % (pending.queue_s * 1000, timing))
        )
        pending.group.answered(pending, latency_s)
        return response

    async def _collect(self, spec: ModelSpec, pending: PendingRequest) -> Response:
        """A streaming model that was asked for JSON."""
        outputs: list[bytes] = []
        async with aclosing(self._service.stream(spec, pending)) as stream:
            async for items in stream:
                outputs += items
        return self._answer(spec, pending, b",".join(outputs))

    async def _events(self, spec: ModelSpec, pending: PendingRequest) -> EventStream:
        """Wait for the first output: what goes wrong before it still has a status of its own."""
        stream = self._service.stream(spec, pending)
        try:
            first = await anext(stream)
        except BaseException:
            await stream.aclose()
            raise
        return EventStream(self._frames(spec, pending, first, stream), stream)

    async def _frames(
        self, spec: ModelSpec, pending: PendingRequest, first: list[bytes], stream: Parts
    ) -> AsyncGenerator[bytes, None]:
        """One event for each output, those that came together in one chunk."""
        items: list[bytes] | None = first
        try:
            while items is not None:
                if items:
                    yield _framed(items)
                items = await anext(stream, None)
            latency_s = time.monotonic() - pending.received
            meta = _meta(spec, pending, latency_s, self._written.of(pending)[0])
            yield b"event: done\ndata: %b\n\n" % meta
            # Not before: a client may leave, or be cut off, with all but the end.
            pending.group.answered(pending, latency_s)
        except ThalamusError as error:
            self._service.refused(spec, error)
            raise
        except (GeneratorExit, asyncio.CancelledError):
            self._service.refused(spec, ClientDisconnected())
            raise


class Written:
    """What the answers to all requests of a batch say of it, written once: they are answered one
    behind the other.
    """

    __slots__ = ("_last", "_parts")

    def __init__(self) -> None:
        self._last: Times | None = None
        self._parts = (b"", b"")

    def of(self, pending: PendingRequest) -> tuple[bytes, bytes]:
        """The end of ``meta``, closing brace included, and of ``Server-Timing``."""
        times = pending.times
        if times is not self._last:
            self._parts = (_meta_end(times, pending.group.device), _timing_end(times))
            self._last = times
        return self._parts


def _framed(items: list[bytes]) -> bytes:
    """One event for each output."""
    joined = b"".join([b"data: %b\n\n" % item for item in items])
    if not joined.isascii():
        for character, escape in _LINE_ENDS:
            joined = joined.replace(character, escape)
    return joined


def _read(payload: Any) -> tuple[str | None, str | None, list[Any]]:
    """The envelope of a request, checked by hand: three fields, and a validator would copy the
    inputs.

    Raises:
        ValidationFailed: it has another shape.
    """
    if type(payload) is not dict:
        raise ValidationFailed([_detail([], "The body must be an object", "dict_type")])
    inputs = payload.get("inputs")
    if type(inputs) is list and inputs:
        model_id, version = payload.get("model"), payload.get("version")
        if (model_id is None or type(model_id) is str) and (
            version is None or type(version) is str
        ):
            return model_id, version, inputs
    found = [
        _detail([name], "Input should be a valid string or null", "string_type")
        for name in ("model", "version")
        if not isinstance(payload.get(name), str | None)
    ]
    if "inputs" not in payload:
        found.append(_detail(["inputs"], "Field required", "missing"))
    elif type(inputs) is not list:
        found.append(_detail(["inputs"], "Input should be a valid list", "list_type"))
    elif not inputs:
        found.append(_detail(["inputs"], "List should have at least 1 item", "too_short"))
    raise ValidationFailed(found)


def _detail(loc: list[str], msg: str, kind: str) -> dict[str, Any]:
    return {"loc": loc, "msg": msg, "type": kind}


def _timeout_s(asked: bytes | None, spec: ModelSpec) -> float | None:
    """The lesser of the model's time and what the request asked for."""
    own = spec.policy.timeout_s
    if asked is None:
        return own
    return _seconds(asked) if own is None else min(_seconds(asked), own)


def _seconds(milliseconds: bytes) -> float:
    """
    Raises:
        ValidationFailed: ``X-Timeout-Ms`` is no plain number above 0, or more than a day.
    """
    # float() alone takes 1_000 and 1e3 too.
    asked = float(milliseconds) if _DECIMAL.fullmatch(milliseconds) else 0.0
    if not 0 < asked <= LONGEST_TIMEOUT_MS:
        msg = f"Must be milliseconds above 0 and at most {LONGEST_TIMEOUT_MS}"
        raise ValidationFailed([_detail(["header", "X-Timeout-Ms"], msg, "timeout")])
    return asked / 1000


def _ms(seconds: float | None) -> bytes:
    return b"null" if seconds is None else b"%.3f" % (seconds * 1000)


def _meta(spec: ModelSpec, pending: PendingRequest, latency_s: float, end: bytes) -> bytes:
    return b'%b"latency_ms":%.3f,"batch_size":%d,%b' % (
        spec.meta_head,
        latency_s * 1000,
        pending.size,
        end,
    )


def _meta_end(times: Times, device: str) -> bytes:
    return b'"preprocessing_ms":%b,"inference_ms":%.3f,"postprocessing_ms":%b,"device":"%b"}' % (
        _ms(times.preprocess_s),
        times.predict_s * 1000,
        _ms(times.postprocess_s),
        device.encode("ascii"),
    )


def _timing_end(times: Times) -> bytes:
    parts: list[bytes] = []
    if times.preprocess_s is not None:
        parts.append(b"pre;dur=%.3f" % (times.preprocess_s * 1000))
    parts.append(b"predict;dur=%.3f" % (times.predict_s * 1000))
    if times.postprocess_s is not None:
        parts.append(b"post;dur=%.3f" % (times.postprocess_s * 1000))
    parts.append(b'batch;desc="%d"' % times.executed)
    return b", ".join(parts)
