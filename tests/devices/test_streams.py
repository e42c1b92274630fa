from __future__ import annotations

from typing import Any

import pytest

from thalamus_lite.devices.streams import NoStreams
from thalamus_lite.devices.torch_backend import MpsStreams


@pytest.mark.parametrize("backend", [NoStreams(), MpsStreams()])
def test_a_device_without_streams_orders_nothing_and_hides_no_error(backend: NoStreams) -> None:
    stream = backend.stream("cpu")
    with stream as entered:
        assert entered is stream
        event = stream.record()
    stream.wait(event)
    event.synchronize()
    with pytest.raises(KeyError), stream:
        raise KeyError("kept")


def test_the_host_running_out_of_memory_is_known_without_torch(without_torch: Any) -> None:
    assert NoStreams().is_out_of_memory(MemoryError())
    assert not NoStreams().is_out_of_memory(ValueError("CUDA out of memory"))
    assert not NoStreams().is_fatal(MemoryError())


def test_torchs_error_is_known_once_torch_is_loaded(fake_torch: Any) -> None:
    torch = fake_torch()
    assert NoStreams().is_out_of_memory(torch.OutOfMemoryError())
