from __future__ import annotations

import pytest
from pydantic import ValidationError

from thalamus_lite.devices.device import (
    CPU,
    Device,
    DeviceInfo,
    DeviceRequest,
    DeviceType,
    GPURequirementError,
    GPUStatus,
)


@pytest.mark.parametrize("text", ["auto", "cpu", "cuda", "cuda:0", "cuda:17", "mps"])
def test_a_request_reads_back_as_it_was_written(text: str) -> None:
    assert str(DeviceRequest.parse(text)) == text


def test_only_cuda_with_a_number_asks_for_one_device() -> None:
    assert DeviceRequest.parse("cuda:3") == DeviceRequest("cuda", 3)
    assert DeviceRequest.parse("cuda") == DeviceRequest("cuda", None)


@pytest.mark.parametrize(
    "text",
    [
        *("", "auto:1", "cpu:0", "mps:0", "gpu", "tpu", None, 0),
        *(
            "CUDA",
            " cuda",
            "cuda:",
            "cuda:-1",
            "cuda:01",
            "cuda:x",
            "cuda:٣",
            "cuda:99999",
            "cuda:0\n",
        ),
    ],
)
def test_any_other_request_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match='device must be "auto", "cpu", "cuda", "cuda:N" or "mps"'):
        DeviceRequest.parse(text)


def test_a_refused_request_is_not_echoed_at_length() -> None:
    with pytest.raises(ValueError, match="device must be") as raised:
        DeviceRequest.parse("x" * 10_000)
    assert len(str(raised.value)) < 200


def test_devices_are_named_as_torch_names_them() -> None:
    assert [str(device) for device in (CPU, Device("cuda"), Device("cuda", 2), Device("mps"))] == [
        "cpu",
        "cuda:0",
        "cuda:2",
        "mps",
    ]


def test_status_types_have_the_fields_of_thalamus_serve() -> None:
    info = DeviceInfo(device_type="cuda", device_index=1, name="A", total_memory_mb=2)
    assert info.device_type is DeviceType.CUDA
    assert set(GPUStatus.model_fields) == {"available", "device_count", "devices", "torch_version"}
    assert [kind.value for kind in DeviceType] == ["cpu", "cuda", "mps"]
    with pytest.raises(ValidationError, match="frozen"):
        info.name = "B"


def test_a_missing_gpu_is_a_runtime_error() -> None:
    assert issubclass(GPURequirementError, RuntimeError)
