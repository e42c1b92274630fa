"""The use cases of the HTTP surface, without HTTP."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from thalamus_lite.batching.channel import Channel
from thalamus_lite.batching.group import PendingRequest
from thalamus_lite.errors import (
    ClientDisconnected,
    DeadlineExceeded,
    DeviceFailed,
    Draining,
    ThalamusError,
)
from thalamus_lite.serving.runtime import ModelRuntime
from thalamus_lite.serving.states import State

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from thalamus_lite.batching.batcher import Batcher
    from thalamus_lite.batching.group import LaneGroup
    from thalamus_lite.model.registry import Registry
    from thalamus_lite.model.spec import ModelSpec
    from thalamus_lite.observability.metrics import Metrics, ModelMetrics
    from thalamus_lite.serving.loading import Context


@dataclass(slots=True)
class Call:
    """One validated request on its way. ``received`` and ``deadline`` are monotonic seconds."""

    spec: ModelSpec
    inputs: list[Any]
    received: float
    timeout_s: float | None
    disconnected: Callable[[], Awaitable[None]]

    @property
    def deadline(self) -> float | None:
        return None if self.timeout_s is None else self.received + self.timeout_s


class Service:
    """All models of a started app."""

    def __init__(self, registry: Registry, context: Context) -> None:
        self.registry = registry
        self.context = context
        self.batcher: Batcher = context.batcher
        self.metrics: Metrics = context.metrics
        self.runtimes = {spec.key: ModelRuntime(spec, context) for spec in registry}
        self.draining = False
        self.leaving = False
        self.failed_device = False
        self.inflight = 0
        self.started_at = time.monotonic()
        self._load_waiters: set[asyncio.Future[None]] = set()

    def runtime(self, spec: ModelSpec) -> ModelRuntime:
        found = self.runtimes.get(spec.key)
        if found is None:
            # Registered after the start.
            found = self.runtimes[spec.key] = ModelRuntime(spec, self.context)
        return found

    @property
    def uptime_s(self) -> float:
        return time.monotonic() - self.started_at

    def announce_drain(self) -> None:
        """Turn ``/ready`` to 503, and take requests until the balancer has looked."""
        self.leaving = True

    def give_up(self, error: ThalamusError) -> None:
        """Answer all that is under way, waits for a load included."""
        self.batcher.fail_all(error)
        for waiter in self._load_waiters:
            if not waiter.done():
                waiter.set_exception(error)

    @property
    def open(self) -> bool:
        """Whether this process should get traffic, whatever its models say."""
        return not (self.draining or self.leaving or self.failed_device)

    def check_open(self) -> None:
        """
        Raises:
            Draining, DeviceFailed: this process takes no more requests.
        """
        if self.failed_device:
            raise DeviceFailed
        if self.draining:
            raise Draining

    async def predict(self, call: Call) -> PendingRequest:
        """Run a request to its end; the outputs are in what is returned.

        Raises:
            ThalamusError: what became of it instead. It is counted by the caller, see
            :meth:`refused`.
        """
        runtime = self.runtime(call.spec)
        self.inflight += 1
        runtime.inflight += 1
        try:
            group = runtime.group
            if group is None or runtime.state is not State.READY or runtime.quarantined:
                group = await self._await_load(runtime, call)
            pending = PendingRequest(
                group,
                call.inputs,
                call.deadline,
                self.batcher.loop.create_future(),
                call.disconnected,
            )
            self.batcher.submit(pending)
            try:
                await pending.future
            except asyncio.CancelledError:
                self.batcher.cancel(pending, ClientDisconnected())
                raise
            return pending
        finally:
            runtime.inflight -= 1
            self.inflight -= 1

    async def stream(self, call: Call) -> AsyncGenerator[tuple[PendingRequest, list[Any]], None]:
        """Run a request of a streaming model: its outputs as they come, several at once where they
        pile up.

        Closing the iterator early closes the model's generator.
        """
        runtime = self.runtime(call.spec)
        self.inflight += 1
        runtime.inflight += 1
        pending: PendingRequest | None = None
        watcher: asyncio.Task[None] | None = None
        try:
            group = runtime.group
            if group is None or runtime.state is not State.READY or runtime.quarantined:
                group = await self._await_load(runtime, call)
            loop = self.batcher.loop
            pending = PendingRequest(group, call.inputs, call.deadline, loop.create_future())
            pending.channel = channel = Channel(loop)
            self.batcher.submit(pending)
            watcher = loop.create_task(self._watch(call, pending))
            try:
                deadline = call.deadline
                first_s = None if deadline is None else max(deadline - time.monotonic(), 0.0)
                async for items in channel.batches(call.timeout_s, first_s):
                    yield pending, items
            except TimeoutError:
                raise DeadlineExceeded from None
            yield pending, []
        finally:
            if watcher is not None:
                watcher.cancel()
            if pending is not None:
                self.batcher.cancel(pending, ClientDisconnected())
            runtime.inflight -= 1
            self.inflight -= 1

    async def _watch(self, call: Call, pending: PendingRequest) -> None:
        await call.disconnected()
        self.batcher.cancel(pending, ClientDisconnected())

    async def _await_load(self, runtime: ModelRuntime, call: Call) -> LaneGroup:
        """Wait for a model that is not loaded, as long as the deadline, the client and the drain
        allow.
        """
        load = asyncio.ensure_future(runtime.serving(len(call.inputs)))
        gone = asyncio.ensure_future(call.disconnected())
        turned_away: asyncio.Future[None] = self.batcher.loop.create_future()
        self._load_waiters.add(turned_away)
        left_s = None if call.deadline is None else max(call.deadline - time.monotonic(), 0.0)
        ends: list[asyncio.Future[Any]] = [load, gone, turned_away]
        try:
            await asyncio.wait(ends, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if load.done():
                return load.result()
            if turned_away.done():
                turned_away.result()
            if gone.done():
                raise ClientDisconnected
            raise DeadlineExceeded
        finally:
            self._load_waiters.discard(turned_away)
            for end in ends:
                end.cancel()
            # A load that was not waited for to its end has no other reader of its error.
            await asyncio.gather(*ends, return_exceptions=True)

    def answered(self, call: Call, pending: PendingRequest) -> ModelMetrics:
        """Count a request that was answered with outputs."""
        metrics = self.metrics.model(call.spec.id)
        metrics.ok()
        metrics.latency(time.monotonic() - call.received)
        metrics.batch_size(pending.size)
        metrics.inference(pending.predict_s)
        if pending.queue_s is not None:
            metrics.queue_wait(pending.queue_s)
        if pending.preprocess_s is not None:
            metrics.preprocessing(pending.preprocess_s)
        if pending.postprocess_s is not None:
            metrics.postprocessing(pending.postprocess_s)
        return metrics

    def refused(self, spec: ModelSpec, error: ThalamusError) -> None:
        """Count a request that was answered with an error."""
        self.metrics.model(spec.id).failed(error)

    async def load(self, model_id: str, version: str | None) -> list[str]:
        """Load one version of a model, or all; the versions that this call brought up."""
        done: list[str] = []
        for spec in self._chosen(model_id, version):
            runtime = self.runtime(spec)
            if runtime.state is not State.READY:
                await runtime.ensure_loaded()
                done.append(spec.version)
        return done

    async def unload(self, model_id: str, version: str | None) -> list[str]:
        """Unload one version of a model, or all; the versions that this call brought down."""
        chosen = self._chosen(model_id, version)
        return [spec.version for spec in chosen if await self.runtime(spec).unload()]

    def _chosen(self, model_id: str, version: str | None) -> list[ModelSpec]:
        if version is None:
            return self.registry.versions(model_id)
        return [self.registry.resolve(model_id, version)]
