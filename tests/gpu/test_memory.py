"""Figures and placement, by a real driver."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from thalamus_lite.devices import torch_backend
from thalamus_lite.devices.allocator import DeviceAllocator
from thalamus_lite.devices.device import Device, DeviceRequest, GPURequirementError

MB = 10**6


def test_the_status_shows_every_device_with_the_drivers_figures(torch: Any) -> None:
    status = torch_backend.get_gpu_status()
    assert status["available"]
    assert status["device_count"] == torch.cuda.device_count() == len(status["devices"])
    assert status["torch_version"] == torch.__version__
    for index, device in enumerate(status["devices"]):
        assert device["device"] == f"cuda:{index}"
        assert device["name"] == torch.cuda.get_device_name(index)
        assert device["used_mb"] + device["available_mb"] == pytest.approx(device["total_mb"])


def test_a_tensor_shows_in_the_figures_and_goes_with_the_cache(torch: Any) -> None:
    device = Device("cuda", 0)
    torch.zeros(1, device="cuda:0")
    before, total = torch_backend.memory_probe(device)
    tensor = torch.empty(512 * MB, dtype=torch.uint8, device="cuda:0")
    during, _ = torch_backend.memory_probe(device)
    del tensor
    torch_backend.clear_gpu_cache("cuda:0")
    after, _ = torch_backend.memory_probe(device)
    assert before - during >= 512 * MB
    # Other processes come and go: their share is not this test's to pin down.
    assert after - during >= 500 * MB
    assert 0 < after <= total


OTHER_PROCESS = """
import sys, torch
tensor = torch.empty(int(sys.argv[1]), dtype=torch.uint8, device="cuda:0")
torch.cuda.current_stream().synchronize()
print("holding", flush=True)
sys.stdin.read()
"""


def test_another_processes_memory_counts(torch: Any) -> None:
    torch.zeros(1, device="cuda:0")
    before = torch_backend.get_gpu_memory("cuda:0")
    with subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS, str(1024 * MB)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline().strip() == "holding"
        during = torch_backend.get_gpu_memory("cuda:0")
        other.stdin.close()
    assert during[0] - before[0] >= 1000
    assert torch.cuda.memory_allocated(0) < 1000 * MB


def test_models_are_placed_on_the_devices_that_are_there(torch: Any) -> None:
    allocator = DeviceAllocator(torch_backend.list_devices, torch_backend.memory_probe)
    count = torch.cuda.device_count()
    assert allocator.check(DeviceRequest("cuda")) is None
    reservation = allocator.place(DeviceRequest("auto"), need_bytes=100 * MB, require_gpu=True)
    assert reservation.device.kind == "cuda"
    assert len(allocator.place_many(DeviceRequest("cuda"), "all")) == count
    beyond = DeviceRequest("cuda", count)
    assert str(allocator.place(beyond).device) == "cpu"
    with pytest.raises(GPURequirementError, match=f"cuda:{count} is not available on this host"):
        allocator.place(beyond, require_gpu=True)
