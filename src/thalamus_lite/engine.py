"""A started app: what lives between start and shutdown, and nothing that outlives them."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from thalamus_lite.api.routes import routes
from thalamus_lite.batching.batcher import Batcher
from thalamus_lite.batching.queue import Scheduler
from thalamus_lite.devices.device import GPURequirementError
from thalamus_lite.errors import DeviceFailed, Draining
from thalamus_lite.http.gate import Gate
from thalamus_lite.http.router import Router
from thalamus_lite.http.surface import Surface
from thalamus_lite.observability.access import access_log
from thalamus_lite.observability.metrics import Metrics
from thalamus_lite.serving.drain import Drain
from thalamus_lite.serving.loading import Context
from thalamus_lite.serving.service import Service
from thalamus_lite.serving.snapshot import Snapshots
from thalamus_lite.serving.states import State
from thalamus_lite.serving.threads import in_thread
from thalamus_lite.serving.watchdog import watch

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from thalamus_lite.devices.allocator import DeviceAllocator
    from thalamus_lite.devices.streams import StreamBackend
    from thalamus_lite.model.registry import Registry
    from thalamus_lite.serving.runtime import ModelRuntime
    from thalamus_lite.settings import Settings
    from thalamus_lite.weights.cache import WeightCache

_log = logging.getLogger("thalamus_lite")

ACCELERATOR_SLOTS = 2
"""Batches that may run on one accelerator at once: one computes while another one copies."""

FATAL_EXIT_CODE = 70
SHUTDOWN_PATIENCE_S = 5.0
RETRY_LOOK_S = 0.25
LAST_WORDS_S = 0.25


@dataclass(frozen=True, slots=True)
class Parts:
    """What the composition root hands over."""

    name: str
    load_mode: str
    registry: Registry
    settings: Settings
    cache: WeightCache
    allocator: DeviceAllocator
    backend_for: Callable[[str], StreamBackend]
    gpu_status: Callable[[], dict[str, Any]]


class Engine:
    """Bound to the event loop that is running when it is made."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.loop = asyncio.get_running_loop()
        settings = parts.settings
        self.gate = Gate(settings, time.monotonic)
        batcher = Batcher(Scheduler(_device_slots), self.loop)
        batcher.on_fatal = self._on_fatal
        context = Context(
            cache=parts.cache,
            allocator=parts.allocator,
            backend_for=parts.backend_for,
            batcher=batcher,
            metrics=Metrics(),
            load_slots=asyncio.Semaphore(settings.load_concurrency),
            watchdog_s=settings.watchdog_s,
        )
        self.service = Service(parts.registry, context)
        self.snapshots = Snapshots(self.service, self._gpu_status)
        table = routes(
            parts.name, self.service, self.snapshots, settings, parts.load_mode == "lazy"
        )
        observe = access_log if settings.access_log else None
        self.surface = Surface(Router(table), self.gate, observe)
        self.drain = Drain(self.service, settings.drain_s)
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self.stopping = False
        # By its owner, where it has one that must know.
        self.end: Callable[[], Coroutine[Any, Any, None]] = self.stop
        self._last: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load what is to be loaded now.

        Raises:
            GPURequirementError: before any download, for lazy models too.
            Exception: what kept a critical model from loading; everything is given back by then.
        """
        self._warn()
        self.drain.install()
        self.drain.on_begin = self._stopping.set
        self.drain.cut_off = lambda: self.surface.cut_off(Draining())
        self.drain.on_stuck = self._end_anyway
        try:
            await self._check_devices()
            self._spawn(watch(self.parts.settings.watchdog_s, self._check_progress))
            self._spawn(self.snapshots.keep_fresh())
            if self.parts.load_mode != "lazy":
                loads = {runtime: runtime.start() for runtime in self.service.runtimes.values()}
                if self.parts.load_mode == "startup":
                    await self._all_loaded(loads)
            self._spawn(self._retry())
        except BaseException:
            await self.stop()
            raise
        self.drain.delay_s = self.parts.settings.drain_delay_s

    async def stop(self) -> None:
        """Drain, unload, give everything back. What hangs is left behind after a bounded time."""
        self.stopping = True
        self.drain.begin()
        settings = self.parts.settings
        if not await self._answered(settings.drain_s + 1.0):
            count = self.service.inflight
            _log.error("requests were left unanswered: %d", count, extra={"count": count})
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        runtimes = self.service.runtimes.values()
        await asyncio.gather(*(runtime.abandon(SHUTDOWN_PATIENCE_S) for runtime in runtimes))
        await self.service.batcher.aclose()
        self.service.metrics.close()
        self.drain.uninstall()
        if self.service.failed_device:
            _end_process()

    def rebind(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Go on under another loop, since the first one is closed, or stands still; False where
        work was cut off by its end.

        A test client without a lifespan runs every request in a loop of its own.
        """
        if self.service.inflight or not all(r.settled for r in self.service.runtimes.values()):
            return False
        if not self.loop.is_closed():
            for task in self._tasks:
                task.cancel()
        self.loop = loop
        self._tasks.clear()
        self.service.context.load_slots = asyncio.Semaphore(self.parts.settings.load_concurrency)
        self.service.batcher.rebind(loop)
        self.drain.rebind(loop)
        self._stopping = asyncio.Event()
        self.drain.on_begin = self._stopping.set
        self._spawn(watch(self.parts.settings.watchdog_s, self._check_progress))
        self._spawn(self.snapshots.keep_fresh())
        self._spawn(self._retry())
        return True

    def _gpu_status(self) -> dict[str, Any] | None:
        """What the drivers say; None where no model may use one, and torch would be imported to
        ask.
        """
        wanted = any(spec.device.kind != "cpu" for spec in self.parts.registry)
        return self.parts.gpu_status() if wanted or "torch" in sys.modules else None

    def discard(self) -> None:
        """Give back what can be given back without a loop."""
        for runtime in self.service.runtimes.values():
            runtime.discard()

    def _warn(self) -> None:
        """Of what starts and yet can serve nobody."""
        missing = self.gate.missing()
        if missing is not None:
            _log.warning(missing)
        if not len(self.parts.registry):
            _log.warning("no model is registered: decorate a class with @app.model()")

    async def _check_devices(self) -> None:
        for spec in self.parts.registry:
            if spec.require_gpu:
                reason = await in_thread(self.parts.allocator.check, spec.device)
                if reason is not None:
                    raise GPURequirementError(f"{spec.key} requires a GPU but {reason}")

    async def _all_loaded(self, loads: dict[ModelRuntime, asyncio.Task[None]]) -> None:
        """Wait for all loads, or for the first critical one that fails, or for a signal to stop."""
        stop = asyncio.ensure_future(self._stopping.wait())
        left: set[asyncio.Future[Any]] = set(loads.values())
        try:
            while left:
                done, _ = await asyncio.wait(
                    {*left, stop}, timeout=RETRY_LOOK_S, return_when=asyncio.FIRST_COMPLETED
                )
                if stop in done:
                    raise StartupAborted("told to stop while models were loading")
                left -= done
                for runtime, task in loads.items():
                    if runtime.spec.critical and runtime.state is State.FAILED:
                        raise runtime.cause or RuntimeError(f"{runtime.spec.key} failed to load")
                    if runtime.quarantined and not runtime.spec.critical:
                        # It hangs, and the others need not wait for it.
                        left.discard(task)
        finally:
            stop.cancel()

    async def _retry(self) -> None:
        """Load models that failed again, with back-off; but a lazy one that was never up waits for
        its next request.
        """
        lazy = self.parts.load_mode == "lazy"
        while True:
            for runtime in self.service.runtimes.values():
                runtime.cause = None
                due = runtime.state is State.FAILED and not runtime.retry_in_s
                if due and (runtime.was_up or not lazy):
                    runtime.start()
            await asyncio.sleep(RETRY_LOOK_S)

    def _check_progress(self, limit_s: float) -> None:
        self.service.batcher.check_lanes(limit_s)
        for runtime in self.service.runtimes.values():
            runtime.check_hooks(limit_s)

    def _end_anyway(self, force: Callable[[], None]) -> None:
        """The server does not come to its end: give all back now, and then end it."""
        if self.stopping:
            return
        _log.error("clients that do not read keep the server up: it is told to end at once")
        # At once: the end of a lifespan may come before the first step of this one.
        self.stopping = True

        async def end() -> None:
            await self.end()
            force()

        self._last = self.loop.create_task(end())

    def _on_fatal(self, error: BaseException) -> None:
        """A device's context is lost: nothing more is started on it, and the process goes down."""
        if self.service.failed_device:
            return
        self.service.failed_device = True
        self.service.batcher.stop()
        _log.critical("a device has failed", exc_info=error)
        self._spawn(self._go_down())

    async def _go_down(self) -> None:
        # What waits can never run; what runs on another device may still end well.
        self.service.batcher.fail_queued(DeviceFailed())
        self.drain.begin()
        await self._answered(self.parts.settings.drain_s)
        # An answer counts as given before it is written.
        await asyncio.sleep(LAST_WORDS_S)
        _end_process()

    async def _answered(self, patience_s: float) -> bool:
        """Wait for all requests to be answered, but no longer than that."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                # Polled, since an event would cost each request its part of it.
                while self.service.inflight:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        return self.service.inflight == 0

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class StartupAborted(RuntimeError):
    """The process was told to stop before it had started."""


def _end_process() -> None:
    """End at once with a code that a supervisor takes for a failure; a lost device cannot be
    unloaded.
    """
    _log.critical("a device failed: the process ends")
    logging.shutdown()
    os._exit(FATAL_EXIT_CODE)


def _device_slots(device: str) -> int | None:
    return ACCELERATOR_SLOTS if device.startswith("cuda") else None
