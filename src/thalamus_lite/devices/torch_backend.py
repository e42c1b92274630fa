"""The only importer of torch, and only at use, where there is a driver that it could speak to.

Public figures are in MB of 10**6 bytes; probes are in bytes. Detection and figures never raise
because torch is absent, broken or without a device: the answer then is "no GPU".
"""

from __future__ import annotations

import ctypes
import functools
import gc
import logging
import os
import platform
import sys
from importlib import metadata, util
from typing import TYPE_CHECKING, Any, cast

from thalamus_lite.devices.cuda_streams import CudaStreams
from thalamus_lite.devices.device import Device, DeviceInfo, DeviceRequest, DeviceType, GPUStatus
from thalamus_lite.devices.streams import NoStreams

if TYPE_CHECKING:
    from collections.abc import Callable

    from thalamus_lite.devices.streams import StreamBackend

logger = logging.getLogger("thalamus_lite")

NVIDIA = "/dev/nvidiactl", "/proc/driver/nvidia/version"
JETSON = "/dev/nvmap", "/dev/nvhost-gpu"
WSL = ("/dev/dxg",)
ROCM = ("/dev/kfd",)
# A headless host makes its device nodes at the first use, so their absence proves nothing: then the
# loader is asked. ctypes.util.find_library is not: it starts ldconfig and gcc.
_DRIVER_LIBRARY = {"linux": "libcuda.so.1", "win32": "nvcuda.dll"}


def driver_present(
    exists: Callable[[str], bool] = os.path.exists,
    load: Callable[[str], object] = ctypes.CDLL,
) -> bool:
    """Whether this host has a GPU driver, told without torch and in well under a millisecond."""
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    if any(exists(node) for node in (*NVIDIA, *JETSON, *WSL, *ROCM)):
        return True
    library = _DRIVER_LIBRARY.get(sys.platform)
    if library is None:
        return False
    try:
        load(library)
    except OSError:
        return False
    return True


def detect_devices() -> GPUStatus:
    """The accelerators that torch can use here, in the order of ``CUDA_VISIBLE_DEVICES``."""
    torch = _torch()
    devices: tuple[DeviceInfo, ...] = ()
    if torch is not None:
        try:
            devices = _cuda_devices(torch) or _mps_devices(torch)
        except Exception as error:
            _warn_once(f"no GPU is used: PyTorch cannot list the devices ({error!r:.200})")
    return GPUStatus(
        available=bool(devices),
        device_count=len(devices),
        devices=devices,
        torch_version=_version(torch),
    )


def list_devices() -> tuple[Device, ...]:
    """What ``DeviceAllocator`` takes for its ``devices``."""
    return tuple(_device(info) for info in detect_devices().devices)


def why_none() -> str:
    """Why ``list_devices()`` is empty, to end the sentence "it requires a GPU but ..."."""
    if "torch" not in sys.modules:
        if util.find_spec("torch") is None:
            return 'PyTorch is not installed (pip install "thalamus-lite[gpu]")'
        if not driver_present():
            return "this host has no GPU driver"
    if _torch() is None:
        return "PyTorch is installed but cannot be imported"
    return "no CUDA or MPS device was detected"


def memory_probe(device: Device) -> tuple[int, int]:
    """(free, total) in bytes; for CUDA the driver's own account of all processes.

    The driver needs a context to answer, so the first call takes a few hundred MB of the device.

    Raises:
        Exception: whatever torch raises where the device or its driver is not well.
    """
    torch = _torch()
    if torch is None:
        raise RuntimeError(why_none())
    if device.kind == "cuda":
        free, total = torch.cuda.mem_get_info(device.index)
        return int(free), int(total)
    total = int(torch.mps.recommended_max_memory())
    return max(total - int(torch.mps.driver_allocated_memory()), 0), total


def get_gpu_memory(device: str) -> tuple[float, float] | None:
    """(used, total) in MB by the driver's figures; ``None`` for the CPU and what is not there."""
    try:
        request = DeviceRequest.parse(device)
        if request.kind not in ("cuda", "mps") or _torch() is None:
            return None
        free, total = memory_probe(Device(cast("Any", request.kind), request.index or 0))
    except Exception:
        return None
    return _mb(total - free), _mb(total)


def clear_gpu_cache(device: str | None = None) -> None:
    """Give memory that is cached but unused back to the device, or to all of them; never raises."""
    # Before the cache, not after it: what the collector frees goes to the cache.
    gc.collect()
    # A torch that nobody imported has cached nothing.
    torch = _torch() if "torch" in sys.modules else None
    if torch is None:
        return
    try:
        if (device is None or device.startswith("cuda")) and torch.cuda.is_available():
            torch.cuda.empty_cache()
        if device in (None, "mps") and torch.backends.mps.is_available():
            torch.mps.empty_cache()
    except Exception as error:
        logger.warning("the GPU cache could not be emptied: %r", error)


def get_optimal_device() -> str:
    """``"cuda:0"``, ``"mps"`` or ``"cpu"``, the first of them that is there."""
    return next((str(device) for device in list_devices()), "cpu")


def get_gpu_status() -> dict[str, Any]:
    """``available``, ``device_count``, ``torch_version`` and ``devices``.

    Each device has ``device``, ``name``, ``total_mb``, ``used_mb`` and ``available_mb``, the last
    two ``None`` where the driver does not say.
    """
    status = detect_devices()
    return {
        "available": status.available,
        "device_count": status.device_count,
        "torch_version": status.torch_version,
        "devices": [_figures(info) for info in status.devices],
    }


def backend_for(device: str) -> StreamBackend:
    """The streams of ``device``, a ``str(Device)``.

    Raises:
        RuntimeError: a CUDA device where torch cannot be had.
    """
    if device.startswith("cuda"):
        torch = _torch()
        if torch is None:
            raise RuntimeError(f"{device} needs PyTorch, but {why_none()}")
        return CudaStreams(torch, clear_gpu_cache)
    return MpsStreams() if device == "mps" else NoStreams()


class MpsStreams(NoStreams):
    """MPS has one queue for the whole process: there is nothing to order, only a cache to empty."""

    def empty_cache(self, device: str) -> None:
        clear_gpu_cache(device)


def _torch() -> Any | None:
    # One that is loaded costs nothing to ask, and may know a device that we did not look for.
    if "torch" not in sys.modules and not driver_present():
        return None
    return _import_torch()


# Cached for the failures: a broken torch takes its time to fail, and says so once.
@functools.cache
def _import_torch() -> Any | None:
    try:
        import torch
    except Exception as error:
        if not (isinstance(error, ModuleNotFoundError) and error.name == "torch"):
            _warn_once(f"no GPU is used: PyTorch cannot be imported ({error!r:.200})")
        return None
    return torch


@functools.lru_cache(maxsize=16)
def _warn_once(sentence: str) -> None:
    logger.warning("%s", sentence)


def _version(torch: Any | None) -> str | None:
    if torch is not None:
        return str(torch.__version__)
    if driver_present():
        return None
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None


def _cuda_devices(torch: Any) -> tuple[DeviceInfo, ...]:
    if not torch.cuda.is_available():
        return ()
    found = enumerate(
        torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())
    )
    return tuple(
        DeviceInfo(
            device_type=DeviceType.CUDA,
            device_index=index,
            name=properties.name,
            total_memory_mb=_mb(properties.total_memory),
        )
        for index, properties in found
    )


def _mps_devices(torch: Any) -> tuple[DeviceInfo, ...]:
    if not torch.backends.mps.is_available():
        return ()
    return (
        DeviceInfo(
            device_type=DeviceType.MPS,
            device_index=0,
            name="Apple Silicon",
            total_memory_mb=_mb(torch.mps.recommended_max_memory()),
        ),
    )


def _device(info: DeviceInfo) -> Device:
    return Device(cast("Any", info.device_type.value), info.device_index)


def _figures(info: DeviceInfo) -> dict[str, Any]:
    device = str(_device(info))
    memory = get_gpu_memory(device)
    # The driver keeps some of the card to itself: its total is the one that its used figure fits.
    used, total = memory or (None, info.total_memory_mb)
    return {
        "device": device,
        "name": info.name,
        "total_mb": total,
        "used_mb": used,
        "available_mb": None if used is None else round(total - used, 2),
    }


def _mb(size_bytes: float) -> float:
    return round(size_bytes / 1e6, 2)
