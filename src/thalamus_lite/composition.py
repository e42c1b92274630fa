"""The composition root: reads the environment and wires the wings of the house together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thalamus_lite.devices import torch_backend
from thalamus_lite.devices.allocator import DeviceAllocator
from thalamus_lite.engine import Engine, Parts
from thalamus_lite.settings import Settings
from thalamus_lite.weights.options import CacheOptions
from thalamus_lite.weights.storage import cache_of

if TYPE_CHECKING:
    from thalamus_lite.model.registry import Registry


def compose(name: str, load_mode: str, registry: Registry) -> Engine:
    """An engine for the running event loop, by the environment as it is now.

    Raises:
        ConfigurationError: a variable cannot be read.
    """
    settings = Settings.from_env()
    return Engine(
        Parts(
            name=name,
            load_mode=load_mode,
            registry=registry,
            settings=settings,
            cache=cache_of(CacheOptions.from_settings(settings)),
            allocator=allocator_of(),
            backend_for=torch_backend.backend_for,
            gpu_status=torch_backend.get_gpu_status,
        )
    )


def allocator_of() -> DeviceAllocator:
    """An allocator for the devices of this host, which are looked for when first needed."""
    return DeviceAllocator(
        torch_backend.list_devices, torch_backend.memory_probe, why_none=torch_backend.why_none
    )
