from __future__ import annotations

import sys
import threading
import types
from typing import TYPE_CHECKING, Any

import pytest

from thalamus_lite.devices import torch_backend

if TYPE_CHECKING:
    from collections.abc import Iterator


class FakeTorch(types.ModuleType):
    """As much of torch as is used, with GPUs of 80 GB that can be set to misbehave.

    ``current`` is per thread, as in torch: (device index, stream), None being the default stream.
    """

    def __init__(self, gpus: int = 0, mps: bool = False) -> None:
        super().__init__("torch")
        self.__version__ = "9.9.9+fake"
        self.calls: list[str] = []
        self.figures = {index: (70_000_000_000, 80_000_000_000) for index in range(gpus)}
        self.current = threading.local()
        out_of_memory = type("OutOfMemoryError", (RuntimeError,), {})
        self.OutOfMemoryError = out_of_memory
        self.AcceleratorError = type("AcceleratorError", (RuntimeError,), {})
        self.cuda = types.SimpleNamespace(
            is_available=lambda: gpus > 0,
            device_count=lambda: gpus,
            get_device_properties=lambda index: types.SimpleNamespace(
                name=f"GPU {index}", total_memory=81_000_000_000
            ),
            mem_get_info=self._mem_get_info,
            empty_cache=lambda: self.calls.append("cuda.empty_cache"),
            OutOfMemoryError=out_of_memory,
            Stream=lambda device: FakeStream(self, device),
            Event=lambda **options: FakeEvent(self, options),
            stream=lambda stream: FakeStreamContext(self, stream),
        )
        self.backends = types.SimpleNamespace(mps=types.SimpleNamespace(is_available=lambda: mps))
        self.mps = types.SimpleNamespace(
            recommended_max_memory=lambda: 12_000_000_000,
            driver_allocated_memory=lambda: 2_000_000_000,
            empty_cache=lambda: self.calls.append("mps.empty_cache"),
        )

    def where(self) -> tuple[int, Any]:
        return getattr(self.current, "value", (0, None))

    def _mem_get_info(self, index: int) -> tuple[int, int]:
        if index not in self.figures:
            raise RuntimeError("invalid device ordinal")
        return self.figures[index]


class FakeStream:
    def __init__(self, torch: FakeTorch, device: str) -> None:
        self.torch = torch
        self.index = int(device.partition(":")[2])

    def wait_event(self, event: FakeEvent) -> None:
        self.torch.calls.append("wait_event")
        self.waited = event


class FakeEvent:
    def __init__(self, torch: FakeTorch, options: dict[str, Any]) -> None:
        self.torch = torch
        self.options = options
        self.stream: FakeStream | None = None

    def record(self, stream: FakeStream) -> None:
        self.stream = stream

    def synchronize(self) -> None:
        self.torch.calls.append("synchronize")


class FakeStreamContext:
    def __init__(self, torch: FakeTorch, stream: FakeStream) -> None:
        self.torch, self.stream = torch, stream

    def __enter__(self) -> None:
        self.before = self.torch.where()
        self.torch.current.value = (self.stream.index, self.stream)

    def __exit__(self, *error: object) -> None:
        self.torch.current.value = self.before


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A process that has not imported torch yet, on a host without a driver."""
    for name in [name for name in sys.modules if name == "torch" or name.startswith("torch.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(torch_backend, "driver_present", lambda: False)
    torch_backend._import_torch.cache_clear()
    torch_backend._warn_once.cache_clear()
    yield monkeypatch
    torch_backend._import_torch.cache_clear()
    torch_backend._warn_once.cache_clear()


@pytest.fixture
def fake_torch(without_torch: pytest.MonkeyPatch) -> Any:
    """``fake_torch(gpus=2)`` puts a fake in torch's place."""

    def install(**options: Any) -> FakeTorch:
        torch = FakeTorch(**options)
        without_torch.setitem(sys.modules, "torch", torch)
        without_torch.setattr(torch_backend, "driver_present", lambda: True)
        return torch

    return install
