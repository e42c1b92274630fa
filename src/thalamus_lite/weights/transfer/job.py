"""One file under way: its workers, and the thread that looks on."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thalamus_lite.errors import WeightChanged, WeightError, WeightUnreachable
from thalamus_lite.weights.origin import DownloadCancelled
from thalamus_lite.weights.transfer.answers import judge
from thalamus_lite.weights.transfer.giving_up import until
from thalamus_lite.weights.transfer.ranges import pieces
from thalamus_lite.weights.transfer.retry import SpeedGate, Unanswered, is_retryable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from thalamus_lite.weights.origin import Origin, Progress, RangeBody, RemoteFile
    from thalamus_lite.weights.transfer.part import PartWriter
    from thalamus_lite.weights.transfer.tuning import TransferOptions

_TICK_S = 0.02


class _Stopped(Exception):
    """Another worker failed, or the caller cancelled."""


@dataclass(slots=True)
class _Cursor:
    """One worker's piece; ``stop`` is None only while nobody knows the file's size."""

    position: int
    stop: int | None


@dataclass(slots=True, eq=False)
class _Held:
    """An open answer, and how fast it comes."""

    body: RangeBody
    gate: SpeedGate

    def abort(self) -> None:
        # Who aborts has to wait for the worker all the same, or to look after others.
        with suppress(Exception):
            self.body.abort()


class Job:
    """One file's pieces, the workers that bring them, and what stops those.

    Attributes:
        ranges_allowed: False once the server has shown that it does not do ranges.
    """

    def __init__(
        self,
        options: TransferOptions,
        origin: Origin,
        file: RemoteFile,
        writer: PartWriter,
        progress: Progress,
    ) -> None:
        self.file = file
        self.writer = writer
        self.progress = progress
        self.ranges_allowed = bool(file.validator)
        self._options = options
        self._clock = options.clock
        self._origin = origin
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._held: set[_Held] = set()
        self._todo: deque[_Cursor] = deque()
        self._working = 0
        self._size: int | None = None

    def start_over(self) -> None:
        """Give up the bytes in place. For the thread that looks on, with no worker active."""
        self.progress.restarted(self.writer.forget())
        self.writer.save()

    def fetch(self, cancel: threading.Event) -> int:
        """Bring what is missing; returns the file's size."""
        stop = self._stop = threading.Event()
        self._failure = None
        self._size = self.file.size
        self._working = self._plan()
        try:
            for number in range(self._working):
                name = f"thalamus-weights-{number}"
                threading.Thread(target=self._work, args=(stop,), name=name, daemon=True).start()
            self._look_on(cancel)
        except BaseException:
            self._quit()
            raise
        if self._size is None:
            raise AssertionError("a stream ended without a size")
        return self._size

    @property
    def _resumable(self) -> bool:
        return self.ranges_allowed and self.file.size is not None

    def _plan(self) -> int:
        """Cut what is missing into pieces; returns how many workers they get."""
        options, size = self._options, self.file.size
        if size is None:
            self.writer.follow()
            self._todo = deque([_Cursor(0, None)])
            return 1
        gaps = self.writer.gaps(size)
        missing = sum(stop - start for start, stop in gaps)
        parallel = self.ranges_allowed and missing >= options.parallel_from
        if parallel:
            gaps = pieces(gaps, options.range_bytes)
        if missing >= options.follow_from:
            self.writer.follow()
        self._todo = deque(_Cursor(start, stop) for start, stop in gaps)
        return min(len(gaps), options.connections if parallel else 1)

    def _look_on(self, cancel: threading.Event) -> None:
        saved_at = self._clock.now()
        save_every = self._options.save_every(self.file.size)
        while True:
            with self._changed:
                if self._working and self._failure is None:
                    self._changed.wait(_TICK_S)
                working, failure = self._working, self._failure
            if failure is not None:
                raise failure
            if not working:
                return
            if cancel.is_set():
                raise cancelled(self.file)
            now, unsaved = self._clock.now(), self.writer.unsaved
            due = now - saved_at >= self._options.save_s or unsaved >= save_every
            # A file whose size nobody told takes its room as it grows.
            if due and unsaved and (self._resumable or self.file.size is None):
                saved_at = now
                self.writer.save()
            self._drop_slow(now)

    def _drop_slow(self, now: float) -> None:
        """Break off answers that bring too little. A worker inside a silent read cannot look."""
        with self._changed:
            for held in self._held:
                if held.gate.too_slow(now):
                    held.abort()

    def _quit(self) -> None:
        """Stop the workers, wait until none can write any more, and keep what is there.

        A worker that is still connecting is not waited for: it holds nothing, and looks at its stop
        event before it touches the file.
        """
        with self._changed:
            self._stop.set()
            for held in self._held:
                held.abort()
            self._changed.wait_for(lambda: not self._held)
        if self._resumable and self.writer.unsaved:
            self.writer.save()

    def _work(self, stop: threading.Event) -> None:
        failure: BaseException | None = None
        try:
            with until(stop):
                while (cursor := self._next(stop)) is not None:
                    self._bring(cursor, stop)
        except _Stopped:
            pass
        except BaseException as error:
            # Nothing may die in a thread: the thread that looks on raises it.
            failure = error
        with self._changed:
            # A worker that outlived its fetch has no say in the next one.
            if stop is self._stop:
                self._working -= 1
                self._failure = self._failure or failure
                self._changed.notify_all()

    def _next(self, stop: threading.Event) -> _Cursor | None:
        with self._changed:
            return self._todo.popleft() if self._todo and not stop.is_set() else None

    def _bring(self, cursor: _Cursor, stop: threading.Event) -> None:
        """Fill one piece, however many answers that takes."""
        failures, kept = 0, cursor.position
        while True:
            try:
                self._stream(cursor, stop)
                return
            except WeightUnreachable as error:
                if stop.is_set():
                    raise _Stopped from None
                if not is_retryable(error):
                    raise
                if not self._resumable:
                    cursor.position = kept = 0
                    self.progress.restarted(self.writer.forget())
                progressed = cursor.position - kept >= self._options.progress_bytes
                failures = 1 if progressed else failures + 1
                kept = cursor.position
                self._pause(failures, error, stop)

    def _pause(self, failures: int, error: WeightUnreachable, stop: threading.Event) -> None:
        delay = self._options.retry.delay_s(failures, error.retry_after_s, self._clock.uniform)
        if delay is None:
            raise WeightUnreachable(
                f"{error}. Gave up after {failures} attempts without progress: check the network"
                " and the server, and try again"
            ) from error
        self.progress.retried()
        self._clock.wait(stop, delay)
        if stop.is_set():
            raise _Stopped

    def _stream(self, cursor: _Cursor, stop: threading.Event) -> None:
        """Ask once, from the cursor on, and move it as bytes get into place."""
        options = self._options
        start, whole = cursor.position, cursor.position == 0 and cursor.stop == self.file.size
        with self._answer(start, None if whole else cursor.stop, stop) as held:
            body = held.body
            judge(self.file, body, start, whole=whole)
            while cursor.stop is None or cursor.position < cursor.stop:
                left = options.read_bytes if cursor.stop is None else cursor.stop - cursor.position
                data = body.read(min(options.read_bytes, left))
                if stop.is_set():
                    raise _Stopped
                if not data:
                    break
                self.writer.write(cursor.position, data)
                cursor.position += len(data)
                self.progress.received(len(data))
                with self._changed:
                    held.gate.received(len(data))
            end = body.total if cursor.stop is None else cursor.stop
            if whole and body.total is None and cursor.position == end and body.read(1):
                raise WeightChanged(f"{self.file.relpath} became longer on the server")
        if end is not None and cursor.position < end:
            raise Unanswered(
                f"{self.file.relpath}: the answer ended at byte {cursor.position} of {end}"
            )
        if cursor.stop is None:
            self._size = cursor.position

    @contextmanager
    def _answer(self, start: int, stop_at: int | None, stop: threading.Event) -> Iterator[_Held]:
        """An open answer. Only a worker that holds one touches the file: `_quit` waits for it."""
        options = self._options
        body = self._origin.open(self.file, start, stop_at)
        try:
            # A new connection would begin at 0 again, and be no faster.
            least = options.slow_bytes_per_s if self._resumable else 0.0
            held = _Held(body, SpeedGate(self._clock.now(), least, options.slow_window_s))
            with self._changed:
                if stop.is_set():
                    raise _Stopped
                self._held.add(held)
            try:
                yield held
            finally:
                with self._changed:
                    self._held.discard(held)
                    self._changed.notify_all()
        except WeightError:
            # An aborted read fails as a broken connection would; the reason is the abort.
            if stop.is_set():
                raise _Stopped from None
            raise
        finally:
            body.close()


def cancelled(file: RemoteFile) -> DownloadCancelled:
    return DownloadCancelled(f"the download of {file.relpath} was cancelled")
