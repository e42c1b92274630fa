"""Streams and events, as the lanes see them.

A stream is a queue of device work that runs in order; work of two streams runs in any order unless
an event says otherwise. CPU and MPS lanes get the no-op backend: there, a hook's result is complete
when it returns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from thalamus_lite.devices import torch_errors

if TYPE_CHECKING:
    from types import TracebackType


class Event(Protocol):
    """A point in a stream."""

    def synchronize(self) -> None:
        """Block the calling thread, without spinning, until the work before the point is done."""


class Stream(Protocol):
    """``with stream:`` makes it the calling thread's current stream, on its device."""

    def __enter__(self) -> Stream: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...

    def record(self) -> Event:
        """An event after all work queued on this stream so far."""

    def wait(self, event: Event) -> None:
        """Hold this stream's later work, not the calling thread, until the event."""


class StreamBackend(Protocol):
    """Makes the streams of one kind of device and reads its errors."""

    def stream(self, device: str) -> Stream:
        """A new stream on ``device`` (``"cuda:0"``)."""

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether a smaller batch could have run."""

    def is_fatal(self, error: BaseException) -> bool:
        """Whether the device's context is lost for this process (illegal access, device assert)."""

    def empty_cache(self, device: str) -> None:
        """Give memory that is cached but unused back to the device."""


class NoEvent:
    __slots__ = ()

    def synchronize(self) -> None:
        return None


class NoStream:
    """The stream of a device that has none."""

    __slots__ = ()

    def __enter__(self) -> NoStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        return None

    def record(self) -> Event:
        return _NO_EVENT

    def wait(self, event: Event) -> None:
        return None


class NoStreams:
    """The backend of the CPU and of MPS."""

    def stream(self, device: str) -> Stream:
        return _NO_STREAM

    def is_out_of_memory(self, error: BaseException) -> bool:
        return torch_errors.is_out_of_memory(error)

    def is_fatal(self, error: BaseException) -> bool:
        return False

    def empty_cache(self, device: str) -> None:
        return None


_NO_EVENT = NoEvent()
_NO_STREAM = NoStream()
