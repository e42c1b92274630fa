"""Tests for a real device. Without one they are skipped, and torch is not even imported."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from thalamus_lite.devices import torch_backend

HERE = Path(__file__).parent


def why_skip() -> str | None:
    if "torch" not in sys.modules and not torch_backend.driver_present():
        return "needs a CUDA device: this host has no GPU driver"
    status = torch_backend.detect_devices()
    if not any(device.device_type.value == "cuda" for device in status.devices):
        return f"needs a CUDA device: {torch_backend.why_none()}"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mine = [item for item in items if HERE in item.path.parents]
    reason = why_skip() if mine else None
    for item in mine:
        item.add_marker(pytest.mark.gpu)
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def torch() -> Any:
    import torch

    return torch


@pytest.fixture
def busy(torch: Any) -> Any:
    """``busy(ms)`` queues that much work on the current stream, and returns at once."""
    rate_hz = (
        1_000_000_000  # cycles; the clock of any GPU of the last ten years is near it or above
    )

    def queue(ms: float) -> None:
        torch.cuda._sleep(int(rate_hz * ms / 1000))

    return queue


@pytest.fixture(autouse=True)
def a_clean_device() -> Any:
    yield
    torch_backend.clear_gpu_cache()
