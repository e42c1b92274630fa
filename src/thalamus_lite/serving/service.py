"""The use cases of the HTTP surface, without HTTP."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from thalamus_lite.batching.channel import Channel
from thalamus_lite.errors import (
    ClientDisconnected,
    DeadlineExceeded,
    DeviceFailed,
    Draining,
    LaneHung,
    ThalamusError,
)
from thalamus_lite.serving.runtime import ModelRuntime
from thalamus_lite.serving.states import State

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine, Iterable, Iterator

    from thalamus_lite.batching.batcher import Batcher
    from thalamus_lite.batching.group import LaneGroup, PendingRequest
    from thalamus_lite.model.registry import Registry
    from thalamus_lite.model.spec import ModelSpec
    from thalamus_lite.observability.metrics import Metrics
    from thalamus_lite.serving.loading import Context


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
        self.held = 0
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

    @property
    def inflight(self) -> int:
        """Requests that are not answered: in the batcher, or here, waiting for a load or read as a
        stream.
        """
        return self.held + self.batcher.unanswered

    def submit(self, spec: ModelSpec, pending: PendingRequest) -> bool:
        """Queue a request, whose ``future`` is then done when it is answered; False where the model
        is not up, and nothing was done.

        Raises:
            ThalamusError: what became of it instead. It is counted by the caller, see
            :meth:`refused`.
        """
        runtime = self.runtime(spec)
        group = runtime.group
        if group is None or runtime.state is not State.READY or runtime.quarantined:
            return False
        self.batcher.submit(pending, group)
        return True

    async def submit_when_up(self, spec: ModelSpec, pending: PendingRequest) -> None:
        """The same for a model that is not up, but may be soon."""
        runtime = self.runtime(spec)
        with self._holding(runtime):
            group = await self._await_load(runtime, pending)
        self.batcher.submit(pending, group)

    def abandon(self, pending: PendingRequest) -> None:
        """Nobody waits for a request any more."""
        if pending.future is not None:
            self.batcher.cancel(pending, ClientDisconnected())

    async def stream(
        self, spec: ModelSpec, pending: PendingRequest
    ) -> AsyncGenerator[list[bytes], None]:
        """Run a request of a streaming model: its outputs' JSON as they come, several at once where
        they pile up, and an empty list behind the last.

        Closing the iterator early closes the model's generator.
        """
        loop = self.batcher.loop
        patience_s = self.context.watchdog_s if pending.timeout_s is None else pending.timeout_s
        pending.channel = channel = Channel(loop, patience_s, spec.outputs.dump_one)
        if not self.submit(spec, pending):
            await self.submit_when_up(spec, pending)
        with self._holding(self.runtime(spec)):
            watcher = loop.create_task(self._watch(pending))
            try:
                deadline = pending.deadline
                first_s = None if deadline is None else max(deadline - time.monotonic(), 0.0)
                async for items in channel.batches(pending.timeout_s, first_s):
                    yield items
                yield []
            except TimeoutError:
                raise DeadlineExceeded from None
            finally:
                watcher.cancel()
                self.abandon(pending)

    @contextmanager
    def _holding(self, runtime: ModelRuntime) -> Iterator[None]:
        self.held += 1
        runtime.held += 1
        try:
            yield
        finally:
            runtime.held -= 1
            self.held -= 1

    async def _watch(self, pending: PendingRequest) -> None:
        assert pending.disconnected is not None
        await pending.disconnected()
        self.batcher.cancel(pending, ClientDisconnected())

    async def _await_load(self, runtime: ModelRuntime, pending: PendingRequest) -> LaneGroup:
        """Wait for a model that is not loaded, as long as the deadline, the client and the drain
        allow.
        """
        assert pending.disconnected is not None
        load = asyncio.ensure_future(runtime.serving(pending.size))
        gone = asyncio.ensure_future(pending.disconnected())
        turned_away: asyncio.Future[None] = self.batcher.loop.create_future()
        self._load_waiters.add(turned_away)
        left_s = None
        if pending.deadline is not None:
            left_s = max(pending.deadline - time.monotonic(), 0.0)
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

    def refused(self, spec: ModelSpec, error: ThalamusError) -> None:
        """Count a request that was answered with an error."""
        self.metrics.model(spec.id).failed(error)

    async def load(self, model_id: str, version: str | None) -> list[str]:
        """Load one version of a model, or all side by side; the versions that this call brought up.

        Raises:
            ModelLoadFailed, LaneHung, Draining: one could not be; the others may be up by then.
        """
        chosen = self._chosen(model_id, version)
        loaded = await _all(_bring_up(self.runtime(spec)) for spec in chosen)
        return [spec.version for spec, ours in zip(chosen, loaded, strict=True) if ours]

    async def unload(self, model_id: str, version: str | None) -> list[str]:
        """Unload one version of a model, or all side by side; the versions that this call brought
        down.

        Raises:
            LaneHung, Draining: one could not be; the others are down by then.
        """
        chosen = self._chosen(model_id, version)
        unloaded = await _all(self.runtime(spec).unload() for spec in chosen)
        return [spec.version for spec, ours in zip(chosen, unloaded, strict=True) if ours]

    def _chosen(self, model_id: str, version: str | None) -> list[ModelSpec]:
        if version is None:
            return self.registry.versions(model_id)
        return [self.registry.resolve(model_id, version)]


async def _bring_up(runtime: ModelRuntime) -> bool:
    """Have a model READY; whether it was not before."""
    if runtime.state is State.READY:
        if runtime.quarantined:
            raise LaneHung
        return False
    await runtime.ensure_loaded()
    return True


async def _all(moves: Iterable[Coroutine[Any, Any, bool]]) -> list[bool]:
    """All of them to their end, and then the first error."""
    ends = await asyncio.gather(*moves, return_exceptions=True)
    for end in ends:
        if isinstance(end, BaseException):
            raise end
    return [end is True for end in ends]
