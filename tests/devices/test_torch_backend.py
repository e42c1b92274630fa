from __future__ import annotations

import gc
import logging
import subprocess
import sys
import weakref
from typing import Any

import pytest

from thalamus_lite.devices import torch_backend
from thalamus_lite.devices.allocator import DeviceAllocator
from thalamus_lite.devices.cuda_streams import CudaStreams
from thalamus_lite.devices.device import Device, DeviceRequest, DeviceType, GPUStatus
from thalamus_lite.devices.streams import NoStreams
from thalamus_lite.devices.torch_backend import MpsStreams

NO_GPU = {"available": False, "device_count": 0, "devices": []}


class TorchImport:
    """In ``sys.meta_path`` it sees every attempt to import torch, and answers it."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.attempts = 0

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == "torch":
            self.attempts += 1
            if self.error is not None:
                raise self.error


@pytest.fixture
def torch_import(without_torch: pytest.MonkeyPatch) -> Any:
    def install(error: BaseException | None = None) -> TorchImport:
        finder = TorchImport(error)
        without_torch.setattr(sys, "meta_path", [finder, *sys.meta_path])
        return finder

    return install


def dlopen_fails(name: str) -> object:
    raise OSError(f"{name}: cannot open shared object file")


@pytest.mark.parametrize(
    "node", ["/dev/nvidiactl", "/proc/driver/nvidia/version", "/dev/nvmap", "/dev/dxg", "/dev/kfd"]
)
def test_a_device_node_tells_of_a_driver(node: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert torch_backend.driver_present(node.__eq__, dlopen_fails)


def test_without_nodes_the_loader_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    asked: list[str] = []
    assert torch_backend.driver_present(lambda node: False, asked.append)
    assert asked == ["libcuda.so.1"]
    assert not torch_backend.driver_present(lambda node: False, dlopen_fails)


@pytest.mark.parametrize(("machine", "expected"), [("arm64", True), ("x86_64", False)])
def test_on_macos_the_processor_tells(
    machine: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert torch_backend.driver_present() is expected


def test_an_unknown_platform_has_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "plan9")
    assert not torch_backend.driver_present(lambda node: False, lambda name: None)


def test_without_a_driver_nothing_imports_torch(torch_import: Any) -> None:
    finder = torch_import(AssertionError("torch was imported"))
    torch_backend.detect_devices()
    torch_backend.get_gpu_memory("cuda:0")
    torch_backend.clear_gpu_cache()
    assert torch_backend.get_optimal_device() == "cpu"
    assert torch_backend.list_devices() == ()
    assert torch_backend.get_gpu_status() | NO_GPU == torch_backend.get_gpu_status()
    allocator = DeviceAllocator(torch_backend.list_devices, torch_backend.memory_probe)
    assert str(allocator.place(DeviceRequest("auto")).device) == "cpu"
    assert finder.attempts == 0


def test_in_a_fresh_process_auto_does_not_import_torch() -> None:
    program = (
        "import sys\n"
        "from thalamus_lite.devices import torch_backend\n"
        "torch_backend.driver_present = lambda: False\n"
        "torch_backend.get_gpu_status(), torch_backend.why_none()\n"
        "torch_backend.backend_for('cpu'), torch_backend.get_optimal_device()\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_the_version_is_known_without_an_import(without_torch: pytest.MonkeyPatch) -> None:
    without_torch.setattr("importlib.metadata.version", lambda name: f"{name} 3")
    assert torch_backend.detect_devices().torch_version == "torch 3"
    assert "torch" not in sys.modules


def test_a_torch_that_is_not_installed_is_no_gpu_and_no_warning(
    torch_import: Any, without_torch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing(name: str) -> str:
        raise torch_backend.metadata.PackageNotFoundError(name)

    without_torch.setattr("importlib.metadata.version", missing)
    empty = GPUStatus(available=False, device_count=0, devices=(), torch_version=None)
    assert torch_backend.detect_devices() == empty
    torch_import(ModuleNotFoundError("No module named 'torch'", name="torch"))
    without_torch.setattr(torch_backend, "driver_present", lambda: True)
    assert torch_backend.detect_devices() == empty
    without_torch.setattr("importlib.util.find_spec", lambda name: None)
    assert torch_backend.why_none().startswith("PyTorch is not installed (pip install")
    assert caplog.records == []


@pytest.mark.parametrize(
    "error",
    [
        OSError("libcudart.so.12: cannot open shared object file"),
        ImportError("libtorch_cuda.so: undefined symbol"),
        ModuleNotFoundError("No module named 'typing_extensions'", name="typing_extensions"),
        RuntimeError("module compiled against another ABI"),
    ],
)
def test_a_broken_torch_counts_as_absent_with_one_warning(
    error: Exception,
    torch_import: Any,
    without_torch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    finder = torch_import(error)
    without_torch.setattr(torch_backend, "driver_present", lambda: True)
    for _ in range(3):
        assert torch_backend.get_gpu_status() == NO_GPU | {"torch_version": None}
    without_torch.setattr("importlib.util.find_spec", lambda name: name)
    assert torch_backend.why_none() == "PyTorch is installed but cannot be imported"
    with pytest.raises(RuntimeError, match="cannot be imported"):
        torch_backend.memory_probe(Device("cuda"))
    with pytest.raises(RuntimeError, match="cuda:0 needs PyTorch, but"):
        torch_backend.backend_for("cuda:0")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "PyTorch cannot be imported" in record.getMessage()
    assert finder.attempts == 1


def test_why_none_names_the_first_thing_that_is_missing(
    without_torch: pytest.MonkeyPatch, fake_torch: Any
) -> None:
    without_torch.setattr("importlib.util.find_spec", lambda name: name)
    assert torch_backend.why_none() == "this host has no GPU driver"
    fake_torch()
    assert torch_backend.why_none() == "no CUDA or MPS device was detected"


def test_a_torch_that_is_loaded_is_asked_whatever_the_driver_check_says(
    fake_torch: Any, without_torch: pytest.MonkeyPatch
) -> None:
    fake_torch(gpus=1)
    without_torch.setattr(torch_backend, "driver_present", lambda: False)
    assert torch_backend.get_optimal_device() == "cuda:0"


def test_every_visible_gpu_is_listed(fake_torch: Any) -> None:
    fake_torch(gpus=2, mps=True)
    status = torch_backend.detect_devices()
    assert status.available
    assert status.device_count == 2
    assert status.torch_version == "9.9.9+fake"
    assert status.devices[1].model_dump() == {
        "device_type": DeviceType.CUDA,
        "device_index": 1,
        "name": "GPU 1",
        "total_memory_mb": 81_000.0,
    }
    assert torch_backend.list_devices() == (Device("cuda", 0), Device("cuda", 1))


def test_a_torch_without_devices_is_no_gpu(fake_torch: Any) -> None:
    fake_torch()
    assert torch_backend.get_gpu_status() == NO_GPU | {"torch_version": "9.9.9+fake"}
    assert torch_backend.get_optimal_device() == "cpu"


def test_mps_is_listed_where_there_is_no_cuda(fake_torch: Any) -> None:
    fake_torch(mps=True)
    assert torch_backend.get_optimal_device() == "mps"
    assert torch_backend.get_gpu_status()["devices"] == [
        {
            "device": "mps",
            "name": "Apple Silicon",
            "total_mb": 12_000.0,
            "used_mb": 2_000.0,
            "available_mb": 10_000.0,
        }
    ]
    assert torch_backend.memory_probe(Device("mps")) == (10_000_000_000, 12_000_000_000)


def test_figures_are_the_drivers_for_all_processes(fake_torch: Any) -> None:
    torch = fake_torch(gpus=2)
    torch.figures[1] = (1_000_000_000, 80_000_000_000)
    assert torch_backend.get_gpu_memory("cuda:1") == (79_000.0, 80_000.0)
    assert torch_backend.get_gpu_memory("cuda") == (10_000.0, 80_000.0)
    assert torch_backend.memory_probe(Device("cuda", 1)) == (1_000_000_000, 80_000_000_000)
    # The total is the driver's too, or used and available would not add up to it.
    assert torch_backend.get_gpu_status()["devices"][1] == {
        "device": "cuda:1",
        "name": "GPU 1",
        "total_mb": 80_000.0,
        "used_mb": 79_000.0,
        "available_mb": 1_000.0,
    }


@pytest.mark.parametrize("device", ["cpu", "auto", "cuda:9", "tpu", "cuda:x", ""])
def test_no_figures_for_what_is_not_there(device: str, fake_torch: Any) -> None:
    fake_torch(gpus=1)
    assert torch_backend.get_gpu_memory(device) is None


def test_a_gpu_whose_driver_does_not_answer_is_shown_without_figures(fake_torch: Any) -> None:
    fake_torch(gpus=1).figures.clear()
    (device,) = torch_backend.get_gpu_status()["devices"]
    assert device == {
        "device": "cuda:0",
        "name": "GPU 0",
        "total_mb": 81_000.0,
        "used_mb": None,
        "available_mb": None,
    }


def test_a_detection_that_raises_is_no_gpu_with_one_warning(
    fake_torch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def is_available() -> bool:
        raise RuntimeError("the driver is too old")

    fake_torch(gpus=1).cuda.is_available = is_available
    for _ in range(3):
        assert torch_backend.list_devices() == ()
    (record,) = caplog.records
    assert "the driver is too old" in record.getMessage()


@pytest.mark.parametrize(
    ("device", "emptied"),
    [
        (None, ["cuda.empty_cache", "mps.empty_cache"]),
        ("cuda:0", ["cuda.empty_cache"]),
        ("mps", ["mps.empty_cache"]),
        ("cpu", []),
    ],
)
def test_clearing_empties_the_cache_of_the_device(
    device: str | None, emptied: list[str], fake_torch: Any
) -> None:
    torch = fake_torch(gpus=1, mps=True)
    torch_backend.clear_gpu_cache(device)
    assert torch.calls == emptied


def test_clearing_leaves_devices_alone_that_are_not_there(fake_torch: Any) -> None:
    torch = fake_torch()
    torch_backend.clear_gpu_cache()
    assert torch.calls == []


def test_garbage_is_collected_before_the_cache_is_emptied(fake_torch: Any) -> None:
    class Tensor:
        pass

    torch = fake_torch(gpus=1)
    tensor = Tensor()
    tensor.cycle = tensor
    alive = weakref.ref(tensor)
    seen: list[object] = []
    torch.cuda.empty_cache = lambda: seen.append(alive())
    gc.disable()
    try:
        del tensor
        torch_backend.clear_gpu_cache()
    finally:
        gc.enable()
    assert seen == [None]


def test_a_cache_that_cannot_be_emptied_does_not_raise(
    fake_torch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def empty_cache() -> None:
        raise RuntimeError("the context is gone")

    fake_torch(gpus=1).cuda.empty_cache = empty_cache
    torch_backend.clear_gpu_cache("cuda:0")
    assert "could not be emptied" in caplog.text


def test_each_kind_of_device_has_its_backend(fake_torch: Any) -> None:
    torch = fake_torch(gpus=1, mps=True)
    assert isinstance(torch_backend.backend_for("cuda:0"), CudaStreams)
    assert type(torch_backend.backend_for("cpu")) is NoStreams
    mps = torch_backend.backend_for("mps")
    assert isinstance(mps, MpsStreams)
    mps.empty_cache("mps")
    torch_backend.backend_for("cuda:0").empty_cache("cuda:0")
    torch_backend.backend_for("cpu").empty_cache("cpu")
    assert torch.calls == ["mps.empty_cache", "cuda.empty_cache"]
