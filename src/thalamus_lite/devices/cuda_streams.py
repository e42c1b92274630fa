"""CUDA's streams as torch has them, and ROCm's; torch is handed in, not imported."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, cast

from thalamus_lite.devices import torch_errors

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from thalamus_lite.devices.streams import Event, Stream


class CudaStreams:
    """``empty_cache`` takes the name of a device."""

    def __init__(self, torch: Any, empty_cache: Callable[[str], None]) -> None:
        self._torch = torch
        self._empty_cache = empty_cache

    def stream(self, device: str) -> Stream:
        return CudaStream(self._torch, device)

    def is_out_of_memory(self, error: BaseException) -> bool:
        return torch_errors.is_out_of_memory(error)

    def is_fatal(self, error: BaseException) -> bool:
        return torch_errors.is_fatal(error)

    def empty_cache(self, device: str) -> None:
        self._empty_cache(device)


class CudaStream:
    """A stream of torch's pool for ``device``; ``with`` may be nested, and used by several threads.

    The pool has 32 streams a device: the 33rd is the first one again, and shares its queue.
    """

    def __init__(self, torch: Any, device: str) -> None:
        self._torch = torch
        self._stream = torch.cuda.Stream(device=device)
        self._entered = threading.local()

    def __enter__(self) -> CudaStream:
        # Sets the device as well as the stream, and restores both.
        context = self._torch.cuda.stream(self._stream)
        context.__enter__()
        self._contexts().append(context)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        self._contexts().pop().__exit__(kind, error, trace)

    def record(self) -> Event:
        # blocking=True, or cudaEventSynchronize spins a core for as long as a batch runs. Always a
        # new event: it is cheap beside a batch, and a reused one moves under whoever holds it.
        event = self._torch.cuda.Event(blocking=True)
        event.record(self._stream)
        return cast("Event", event)

    def wait(self, event: Event) -> None:
        self._stream.wait_event(event)

    def _contexts(self) -> list[Any]:
        contexts: list[Any] = self._entered.__dict__.setdefault("contexts", [])
        return contexts
