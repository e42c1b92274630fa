"""A lane: one thread, one device, one stream. It runs the user's hooks, and nothing else does.

Current device and current stream belong to a thread, so a model whose hooks all run in its lane
never sees another model's. Everything else sends the lane messages and gets one message back.

Rules that keep a stream's results correct (docs/adr/0012):

1. Hooks run inside ``with stream:``.
2. What they return is handed over only after an event, recorded on the stream behind them, has
   completed. The lane's own thread waits for it, blocking and not spinning; the event loop never
   does.
3. Inputs, outputs and all that passed between hooks stay referenced until that event: memory which
   the stream still reads must not be given to another one.
4. ``load()`` has a stream of its own; the lane's stream waits for its event once, before the first
   batch.
"""

from __future__ import annotations

import itertools
import logging
import queue
import sys
import threading
import time
from collections.abc import Mapping
from contextvars import Context
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel

from thalamus_lite.batching.times import Times
from thalamus_lite.model.inspection import declares

if TYPE_CHECKING:
    from collections.abc import Callable

    from thalamus_lite.devices.streams import Event, Stream, StreamBackend
    from thalamus_lite.model.protocol import Model

    Job = Callable[["Lane"], None]

_log = logging.getLogger("thalamus_lite")


_NO_LISTS = (type(None), str, bytes, Mapping, set, frozenset)


class Ran(NamedTuple):
    """What one pass through the hooks gave."""

    outputs: list[Any]
    times: Times


class WrongOutputs(Exception):
    """The hooks returned something that is not one output for each input."""


class Lane:
    """Runs jobs one after another in a daemon thread of its own.

    A daemon, since an executor's threads are joined when the interpreter exits, and a hook that
    hangs would hold the process for ever.
    """

    def __init__(
        self, name: str, device: str, backend: StreamBackend, context: Context | None = None
    ) -> None:
        self.name = name
        self.device = device
        self.backend = backend
        self._context = Context() if context is None else context
        self.busy_since: float | None = None
        # The same for a coroutine that runs on the loop in this lane's name; the thread never
        # writes it.
        self.awaiting_since: float | None = None
        self.busy_seconds = 0.0
        self.stream: Stream | None = None
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._ready: Event | None = None
        self._thread = self._new_thread()

    @property
    def working_since(self) -> float | None:
        """When the hook that runs began, here or on the loop in this lane's name; the older one
        where both do.
        """
        busy, awaiting = self.busy_since, self.awaiting_since
        if busy is None or awaiting is None:
            return awaiting if busy is None else busy
        return min(busy, awaiting)

    def start(self) -> None:
        self._thread.start()

    def post(self, job: Job) -> None:
        """Run ``job(lane)`` in the lane's thread after the jobs before it; from any thread."""
        self._jobs.put(job)

    def stop(self) -> None:
        """End the thread once the jobs posted so far are done."""
        self._jobs.put(None)

    def touch(self) -> None:
        """Say that the running job makes progress: a stream does at every output."""
        self.busy_since = time.monotonic()

    def after(self, event: Event) -> None:
        """Hold this lane's stream, from the next pass on, until ``event``:

        What ``load()`` queued.
        """
        self._ready = event

    def load(self, work: Callable[[], Any]) -> Event:
        """Run ``work`` on a stream of its own; the event is behind all that it queued."""
        with self.backend.stream(self.device) as stream:
            work()
            return stream.record()

    def open_stream(self) -> Stream:
        """The lane's stream, made in the lane's thread at its first use."""
        if self.stream is None:
            self.stream = self.backend.stream(self.device)
        if self._ready is not None:
            self.stream.wait(self._ready)
            self._ready = None
        return self.stream

    def _new_thread(self) -> threading.Thread:
        # What was set when the app was imported, such as decimal's precision, holds here too.
        run = self._context.copy().run
        return threading.Thread(target=run, args=(self._run,), name=self.name, daemon=True)

    def _run(self) -> None:
        _own_decimal_context()
        try:
            while (job := self._jobs.get()) is not None:
                started = self.busy_since = time.monotonic()
                try:
                    job(self)
                except Exception:
                    _log.exception("a lane's job failed: %s", self.name, extra={"lane": self.name})
                self.busy_since = None
                self.busy_seconds += time.monotonic() - started
                # The last job's tensors must not live until the next one comes.
                del job
        except BaseException:
            # sys.exit() in a hook, or an exception that another thread raised into this one: the
            # jobs behind it still have a claim to run.
            self.busy_since = None
            name = self.name
            _log.exception("a lane died and is replaced: %s", name, extra={"lane": name})
            self._thread = self._new_thread()
            self._thread.start()


def _own_decimal_context() -> None:
    """A context variable of decimal's holds one object that changes: it would be everybody's."""
    decimal = sys.modules.get("decimal")
    if decimal is not None:
        decimal.setcontext(decimal.getcontext().copy())


class Hooks:
    """The user's hooks of one instance, run as one pass inside the lane's stream.

    Each is looked up when it is needed: an instance may exchange them, as for a compiled one.
    """

    __slots__ = ("_has_postprocess", "_has_preprocess", "_instance", "hidden")

    def __init__(self, instance: Model, hidden: bool = False) -> None:
        self._instance: Any = instance
        self._has_preprocess = declares(type(instance), "preprocess")
        self._has_postprocess = declares(type(instance), "postprocess")
        # Whether an ``async def predict`` is below a plain decorator.
        self.hidden = hidden

    @property
    def preprocess(self) -> Callable[[list[Any]], Any] | None:
        return self._instance.preprocess if self._has_preprocess else None

    @property
    def predict(self) -> Callable[[Any], Any]:
        return self._instance.predict  # type: ignore[no-any-return]

    @property
    def postprocess(self) -> Callable[[Any], list[Any]] | None:
        return self._instance.postprocess if self._has_postprocess else None

    def run(self, lane: Lane, inputs: list[Any]) -> Ran:
        """One pass: as many outputs as inputs, all of them complete on the device.

        Raises:
            WrongOutputs: another number, or nothing that can be counted.
            BaseException: whatever a hook raised, once its work on the device is over.
        """
        clock = time.perf_counter
        count = len(inputs)
        pre_s = post_s = None
        stream = lane.open_stream()
        # Without the calls of the properties, for every batch.
        instance = self._instance
        try:
            with stream:
                start = clock()
                prepared = inputs
                if self._has_preprocess and (preprocess := instance.preprocess) is not None:
                    prepared = preprocess(inputs)
                    pre_s = clock() - start
                predict_start = clock()
                predicted = instance.predict(prepared)
                predicted_at = clock()
                outputs = predicted
                if self._has_postprocess and (postprocess := instance.postprocess) is not None:
                    outputs = postprocess(predicted)
                    post_s = clock() - predicted_at
                listed = as_outputs(outputs, count)
                done = stream.record()
        except BaseException:
            outlive(stream)
            raise
        waited_from = clock()
        done.synchronize()
        waited_s = clock() - waited_from
        # Named here so that nothing of this pass is released before the event (rule 3).
        del inputs, prepared, predicted, outputs
        return Ran(listed, Times(pre_s, predicted_at - predict_start + waited_s, post_s))


def outlive(stream: Stream) -> None:
    """Wait for all that was queued, where a hook has failed:

    Its frames hold the memory until here (rule 3).
    """
    stream.record().synchronize()


def as_outputs(outputs: Any, count: int) -> list[Any]:
    """What a hook returned, as a list of one output an input.

    Raises:
        WrongOutputs: None, text, a mapping, or another number of outputs.
    """
    listed = outputs if type(outputs) is list else as_list(outputs, count + 1)
    if len(listed) != count:
        some = "more" if len(listed) > count else str(len(listed))
        raise WrongOutputs(f"the hooks returned {some} outputs for {count} inputs")
    return listed


def as_list(outputs: Any, most: int | None = None) -> list[Any]:
    """The first ``most`` of what a hook returned.

    Raises:
        WrongOutputs: None, text, a mapping, a set, a record, or what cannot be iterated over.
    """
    # Of what is refused, some can be iterated over: by its letters, its keys, its fields or its
    # columns, or in an order of its own.
    kind = type(outputs)
    fields = isinstance(outputs, BaseModel) and kind.__iter__ is BaseModel.__iter__
    if isinstance(outputs, _NO_LISTS) or fields or kind.__name__ == "DataFrame":
        raise WrongOutputs(f"the hooks returned {type(outputs).__name__}, not a list of outputs")
    try:
        found = iter(outputs)
    except TypeError:
        raise WrongOutputs(
            f"the hooks returned {type(outputs).__name__}, not a list of outputs"
        ) from None
    # Bounded, since an iterator may never end.
    return list(itertools.islice(found, most))
