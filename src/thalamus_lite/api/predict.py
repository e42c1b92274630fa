"""POST /predict: decode, hand over, encode. One answer, or a stream of server-sent events."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from thalamus_lite.errors import (
    ClientDisconnected,
    NotAcceptable,
    RequestTooLarge,
    ThalamusError,
    ValidationFailed,
)
from thalamus_lite.http.codec import decode, decode_rounded, has_long_integer
from thalamus_lite.http.messages import EventStream, Response
from thalamus_lite.serving.service import Call

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from thalamus_lite.batching.group import PendingRequest
    from thalamus_lite.http.messages import Request
    from thalamus_lite.model.spec import ModelSpec
    from thalamus_lite.serving.service import Service

    Part = tuple[PendingRequest, list[Any]]
    Parts = AsyncGenerator[Part, None]

LONGEST_TIMEOUT_MS = 86_400_000


class PredictRoute:
    def __init__(self, service: Service, max_body_bytes: int) -> None:
        self._service = service
        self._limit = max_body_bytes

    async def __call__(self, request: Request) -> Response | EventStream:
        received = time.monotonic()
        service = self._service
        service.check_open()
        body = await request.body(self._limit)
        model_id, version, inputs = _read(decode_rounded(body))
        spec = service.registry.resolve(model_id, version)
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
            call = Call(
                spec,
                spec.inputs.validate(inputs),
                received,
                _timeout_s(request, spec),
                request.disconnected,
            )
            if streams:
                if events:
                    return await self._events(call)
                return await self._collect(call)
            pending = await service.predict(call)
            return self._answer(call, pending, spec.outputs.dump(pending.outputs))
        except ThalamusError as error:
            service.refused(spec, error)
            raise
        except asyncio.CancelledError:
            # Some servers cancel the request of a client that is gone.
            service.refused(spec, ClientDisconnected())
            raise

    def _answer(self, call: Call, pending: PendingRequest, outputs: bytes) -> Response:
        meta = _meta(call, pending, self._service.runtime(call.spec).device)
        response = Response(b'{"outputs":[%b],"meta":%b}' % (outputs, meta))
        response.headers.append((b"server-timing", _server_timing(pending)))
        self._service.answered(call, pending)
        return response

    async def _collect(self, call: Call) -> Response:
        """A streaming model that was asked for JSON."""
        outputs: list[bytes] = []
        async with aclosing(self._service.stream(call)) as stream:
            async for part in stream:
                pending, items = part
                outputs += [call.spec.outputs.dump_one(item) for item in items]
        return self._answer(call, pending, b",".join(outputs))

    async def _events(self, call: Call) -> EventStream:
        """Wait for the first output: what goes wrong before it still has a status of its own."""
        stream = self._service.stream(call)
        try:
            first = await anext(stream)
            if first[1]:
                call.spec.outputs.dump_one(first[1][0])
        except BaseException:
            await stream.aclose()
            raise
        return EventStream(self._frames(call, first, stream), stream)

    async def _frames(self, call: Call, first: Part, stream: Parts) -> AsyncGenerator[bytes, None]:
        """One event for each output, those that came together in one chunk."""
        pending, items = first
        try:
            while True:
                frames, error = _framed(call.spec, items)
                if frames:
                    yield frames
                if error is not None:
                    raise error
                part = await anext(stream, None)
                if part is None:
                    break
                items = part[1]
            self._service.answered(call, pending)
            meta = _meta(call, pending, self._service.runtime(call.spec).device)
            yield b"event: done\ndata: %b\n\n" % meta
        except ThalamusError as error:
            self._service.refused(call.spec, error)
            raise
        except (GeneratorExit, asyncio.CancelledError):
            self._service.refused(call.spec, ClientDisconnected())
            raise


def _framed(spec: ModelSpec, items: list[Any]) -> tuple[bytes, ThalamusError | None]:
    """The events of the outputs up to the first that cannot be sent, and what is wrong with it."""
    frames: list[bytes] = []
    try:
        for item in items:
            frames.append(b"data: %b\n\n" % spec.outputs.dump_one(item))
    except ThalamusError as error:
        return b"".join(frames), error
    return b"".join(frames), None


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


def _timeout_s(request: Request, spec: ModelSpec) -> float | None:
    """The lesser of the model's and the request's own time.

    Raises:
        ValidationFailed: ``X-Timeout-Ms`` is no number above 0, or more than a day.
    """
    own = spec.policy.timeout_s
    header = request.headers.get(b"x-timeout-ms")
    if header is None:
        return own
    try:
        asked = float(header)
    except ValueError:
        asked = 0.0
    if not 0 < asked <= LONGEST_TIMEOUT_MS:
        msg = f"Must be milliseconds above 0 and at most {LONGEST_TIMEOUT_MS}"
        raise ValidationFailed([_detail(["header", "X-Timeout-Ms"], msg, "timeout")])
    return asked / 1000 if own is None else min(asked / 1000, own)


def _ms(seconds: float | None) -> bytes:
    return b"null" if seconds is None else b"%.3f" % (seconds * 1000)


def _meta(call: Call, pending: PendingRequest, device: str | None) -> bytes:
    head = call.spec.meta_head
    return (
        b'%b"latency_ms":%.3f,"batch_size":%d,"preprocessing_ms":%b,"inference_ms":%.3f,'
        b'"postprocessing_ms":%b,"device":%b}'
        % (
            head,
            (time.monotonic() - call.received) * 1000,
            pending.size,
            _ms(pending.preprocess_s),
            pending.predict_s * 1000,
            _ms(pending.postprocess_s),
            b"null" if device is None else b'"%b"' % device.encode("ascii"),
        )
    )


def _server_timing(pending: PendingRequest) -> bytes:
    parts = [b"queue;dur=%.3f" % ((pending.queue_s or 0.0) * 1000)]
    if pending.preprocess_s is not None:
        parts.append(b"pre;dur=%.3f" % (pending.preprocess_s * 1000))
    parts.append(b"predict;dur=%.3f" % (pending.predict_s * 1000))
    if pending.postprocess_s is not None:
        parts.append(b"post;dur=%.3f" % (pending.postprocess_s * 1000))
    parts.append(b'batch;desc="%d"' % pending.executed)
    return b", ".join(parts)
