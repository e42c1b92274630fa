"""Allocator and devices together: two simulated GPUs, loads that really take their memory."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from thalamus_lite.devices.allocator import DeviceAllocator, Usage
from thalamus_lite.devices.device import Device, DeviceRequest

_SPEC = importlib.util.spec_from_file_location(
    "placement_simulated", Path(__file__).with_name("simulated.py")
)
simulated = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = simulated
_SPEC.loader.exec_module(simulated)

AUTO = DeviceRequest("auto")
GPUS = (Device("cuda", 0), Device("cuda", 1))


class Host:
    def __init__(self, memory_bytes: int = 1000) -> None:
        self.cuda = simulated.SimulatedCuda(devices=2, memory_bytes=memory_bytes)
        self.allocator = DeviceAllocator(GPUS, self.cuda.probe)

    def load(self, values: int, *, fails_after: int | None = None) -> tuple[Any, list[Any]]:
        """Place a model of that many values and put its layers there, two of them."""
        size_bytes = values * simulated.BYTES_PER_VALUE
        reservation = self.allocator.place(AUTO, need_bytes=size_bytes)
        try:
            weights = []
            with self.cuda.stream(str(reservation.device)):
                for layer in range(2):
                    if layer == fails_after:
                        raise RuntimeError("a truncated file")
                    weights.append(self.cuda.empty(values // 2))
            reservation.commit()
        except BaseException:
            reservation.release()
            raise
        return reservation, weights

    def idle(self) -> bool:
        for gpu in GPUS:
            self.cuda.empty_cache(str(gpu))
        figures = [self.cuda.probe(gpu) for gpu in GPUS]
        return set(self.allocator.usage().values()) == {Usage(0, 0)} and all(
            free == total for free, total in figures
        )


def test_models_go_where_there_is_room_and_leave_nothing_behind() -> None:
    host = Host()
    models = [host.load(size) for size in (100, 60, 30, 40)]
    assert [str(reservation.device) for reservation, _ in models] == [
        "cuda:0",
        "cuda:1",
        "cuda:1",
        "cuda:1",
    ]
    while models:
        models.pop()[0].release()
    assert host.idle()


def test_another_process_sends_a_model_to_the_other_gpu() -> None:
    host = Host()
    host.cuda.others["cuda:0"] = 700
    assert host.load(10)[0].device == GPUS[1]


@pytest.mark.parametrize("fails_after", [0, 1])
def test_a_load_that_fails_gives_back_its_device(fails_after: int) -> None:
    host = Host()
    with pytest.raises(RuntimeError, match="truncated"):
        host.load(100, fails_after=fails_after)
    assert host.idle()


def test_a_load_that_does_not_fit_is_the_loads_own_error_and_gives_back_its_device() -> None:
    host = Host()
    with pytest.raises(simulated.OutOfMemory):
        host.load(600)
    assert host.idle()
