"""One model's life: its state, its lanes, its leases and its place on a device.

One transition at a time, each a task of its own: whoever asks for another state waits for the
running transition and then looks again. No lock is held across a hook, a download or an await.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from thalamus_lite.batching.execution import clear_frames
from thalamus_lite.errors import (
    Draining,
    LaneHung,
    ModelLoadFailed,
    ModelLoading,
    ModelUnloading,
    QueueFull,
    RequestTooLarge,
    ThalamusError,
)
from thalamus_lite.observability.logs import log_of_model, sentence_of, traceback_of
from thalamus_lite.serving.backoff import Backoff
from thalamus_lite.serving.carried import carry
from thalamus_lite.serving.loaded import Loaded
from thalamus_lite.serving.loading import load
from thalamus_lite.serving.readiness import Readiness
from thalamus_lite.serving.states import State, check_move
from thalamus_lite.serving.transition import Transition
from thalamus_lite.serving.unloading import unload

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from thalamus_lite.batching.group import LaneGroup
    from thalamus_lite.model.spec import ModelSpec
    from thalamus_lite.serving.loading import Context


class ModelRuntime:
    """A registered model in a started app. All methods run on the event loop."""

    def __init__(self, spec: ModelSpec, context: Context) -> None:
        self.spec = spec
        self.state = State.REGISTERED
        self.quarantined = self._starting = self._abandoned = self.was_up = False
        self.error: str | None = None
        self.held = 0
        self.group: LaneGroup | None = None
        self.device: str | None = None
        self.clock: Callable[[], float] = time.monotonic
        self._context = context
        self._loaded: Loaded | None = None
        self._transition = Transition(self._ended)
        self._backoff = Backoff()
        self._readiness = Readiness(spec)
        self._waiting_inputs = 0
        self._slot: asyncio.Semaphore | None = None
        self.cause: BaseException | None = None

    @property
    def inflight(self) -> int:
        """Requests that are not answered, and streams that are not read to their end."""
        group = self.group
        return self.held + (0 if group is None or group.streams else len(group.live))

    @property
    def instance(self) -> Any:
        """The user's object, on the first device; None while nothing is loaded."""
        return next(iter(self._loaded.instances), None) if self.group and self._loaded else None

    @property
    def ready(self) -> bool:
        """Loaded, not hung, and ready by the model's own word."""
        if self.state is not State.READY or self.quarantined or self._loaded is None:
            return False
        return self._readiness.of(self._loaded.instances)

    @property
    def state_name(self) -> str:
        return "quarantined" if self.quarantined else self.state.value

    def start(self) -> asyncio.Task[None]:
        """Load at start-up or in the background; requests that come before its end are answered
        503.

        What is under way already is returned instead.
        """
        if self._transition.task is not None:
            return self._transition.task
        self._starting = True
        return self._begin(self._load())

    async def settle(self) -> None:
        """Wait for the transition that is under way."""
        await self._transition.settled()

    async def serving(self, inputs: int) -> LaneGroup:
        """The lanes for a request of ``inputs`` inputs, once the model is loaded.

        Raises:
            ModelLoading, ModelUnloading, ModelLoadFailed, LaneHung: not now.
            QueueFull, RequestTooLarge: too many inputs wait for the load already.
        """
        if self.state is State.LOADING and self._starting:
            raise ModelLoading
        if self.state is not State.LOADING and self.quarantined:
            # Not for a load() that seems to hang: a large model takes its time.
            raise LaneHung
        if self.state is State.DRAINING:
            raise ModelUnloading
        limit = self.spec.policy.max_queue_size
        if inputs > limit:
            raise RequestTooLarge
        if self._waiting_inputs + inputs > limit:
            raise QueueFull
        self._waiting_inputs += inputs
        try:
            await self.ensure_loaded()
        finally:
            self._waiting_inputs -= inputs
        if self.group is None:
            raise ModelUnloading
        return self.group

    async def ensure_loaded(self) -> None:
        """Be READY: load, or wait for whoever loads.

        Raises:
            ModelLoadFailed: the load failed, now or so lately that it is not tried again yet.
            LaneHung, Draining: the model can be neither used nor replaced, or not any more.
        """
        while self.state is not State.READY:
            if self._abandoned:
                raise Draining
            if self.quarantined and self.state is State.DRAINING:
                raise LaneHung
            if self._transition.task is None:
                if self.retry_in_s:
                    raise self._load_failed()
                self._begin(self._load())
            was_loading = self.state is State.LOADING
            await self._transition.settled_or_hung()
            if was_loading and self.state is State.FAILED:
                raise self._load_failed()

    async def unload(self) -> bool:
        """Be unloaded, every accepted request answered; whether this call brought that about.

        Raises:
            LaneHung: a hook does not return. The model keeps its device and its weights.
            Draining: the shutdown does not wait for it any longer.
        """
        while self.state in (State.LOADING, State.READY, State.DRAINING):
            if self.quarantined:
                raise LaneHung
            # READY a moment before its load is put away, it waits for that.
            ours = self._transition.task is None
            if ours:
                if self.state is not State.READY:
                    # Cut short at shutdown: nothing will move it any more.
                    raise Draining
                self._begin(self._unload())
            if not await self._transition.settled_or_hung():
                raise LaneHung
            if ours and self.state is not State.DRAINING:
                return True
        return False

    async def abandon(self, patience_s: float) -> None:
        """At shutdown: unload what can be unloaded within ``patience_s``; leave what hangs."""
        self._abandoned = True
        try:
            async with asyncio.timeout(patience_s):
                if self.state is State.LOADING:
                    await self._transition.cancel()
                await self.unload()
        except (TimeoutError, LaneHung, Draining):
            log_of_model(logging.ERROR, self.spec.key, "is left hanging at shutdown")
        await self._transition.cancel()
        self.discard()

    @property
    def settled(self) -> bool:
        """No transition under way and no lane at work."""
        return self.state not in (State.LOADING, State.DRAINING) and (
            self.group is None or self.group.idle
        )

    def discard(self) -> None:
        """Give all back without ``unload()``, once the lanes come to an end of what they run."""
        if self._loaded is not None:
            self._loaded.let_go()

    def check_hooks(self, limit_s: float) -> None:
        """Report a ``load()`` or ``unload()`` that has not returned for ``limit_s``."""
        if self._transition.task is None or self._loaded is None or self.quarantined:
            return
        if self._loaded.busy_before(time.monotonic() - limit_s):
            self._on_hung()

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # At once, not when the task first runs: nobody may see the old state in between.
        self._move(State.DRAINING if self.state is State.READY else State.LOADING)
        return self._transition.begin(work)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._starting = False
        self._free_slot()
        self._on_recovered()
        if self.state is State.LOADING:
            # Cancelled before its first step.
            self.discard()
            self._load_ended_badly(asyncio.CancelledError())
        if not task.cancelled() and (error := task.exception()) is not None:
            log_of_model(logging.CRITICAL, self.spec.key, "failed in a transition", error)

    async def _load(self) -> None:
        spec = self.spec
        started = self.clock()
        loaded = self._loaded = Loaded(spec)
        try:
            slot = self._context.load_slots
            await slot.acquire()
            self._slot = slot
            group = await load(loaded, self._context)
        except BaseException as error:
            self._load_ended_badly(error)
            if not isinstance(error, Exception):
                raise
            return
        group.on_hung, group.on_recovered = self._on_hung, self._on_recovered
        self._observe(group)
        self._context.batcher.add(group)
        self.group, self.device = group, loaded.device
        self._backoff.succeeded()
        self.error = self.cause = None
        self.was_up = True
        self._move(State.READY)
        seconds = round(self.clock() - started, 3)
        text = f"loaded on {loaded.device} in {seconds} s"
        log_of_model(logging.INFO, spec.key, text, device=loaded.device, seconds=seconds)

    def _load_ended_badly(self, error: BaseException) -> None:
        self._backoff.failed(self.clock())
        self.error = error.code if isinstance(error, ThalamusError) else ModelLoadFailed.code
        # Only for a start to raise: it holds half a model for as long as anybody holds it.
        self.cause = error if self._starting else None
        self._loaded = None
        self._move(State.FAILED)
        if isinstance(error, Exception):
            text = f"failed to load: {sentence_of(error)}"
            log_of_model(logging.ERROR, self.spec.key, text, traceback_of(error))
        clear_frames(error)

    async def _unload(self) -> None:
        assert self._loaded is not None
        assert self.group is not None
        await unload(self._loaded, self._context)
        carry(self._context.metrics, self.spec.id, self.group)
        self._loaded = self.group = self.device = None
        self._move(State.UNLOADED)
        log_of_model(logging.INFO, self.spec.key, "unloaded")

    def _free_slot(self) -> None:
        slot, self._slot = self._slot, None
        if slot is not None:
            slot.release()

    def _load_failed(self) -> ModelLoadFailed:
        return ModelLoadFailed(retry_after_s=max(self.retry_in_s or 0.0, 1.0))

    @property
    def retry_in_s(self) -> float | None:
        """Seconds until a failed load may be tried again; None where nothing failed."""
        return self._backoff.left_s(self.clock()) if self.state is State.FAILED else None

    def _observe(self, group: LaneGroup) -> None:
        metrics = self._context.metrics.model(self.spec.id)
        group.answered, group.observe = metrics.answered, metrics.ran

    def _on_hung(self) -> None:
        self.quarantined = True
        # A load that hangs must not keep the others from their turn.
        self._free_slot()
        self._transition.hangs()
        log_of_model(logging.ERROR, self.spec.key, "hangs: it is quarantined")

    def _on_recovered(self) -> None:
        if self.quarantined:
            self.quarantined = False
            if not self._abandoned:
                log_of_model(logging.WARNING, self.spec.key, "came back")

    def _move(self, state: State) -> None:
        check_move(self.state, state)
        self.state = state
