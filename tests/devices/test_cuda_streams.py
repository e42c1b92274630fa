from __future__ import annotations

import threading
from typing import Any

import pytest

from thalamus_lite.devices.torch_backend import backend_for


def test_with_sets_the_device_and_the_stream_and_restores_both(fake_torch: Any) -> None:
    torch = fake_torch(gpus=2)
    backend = backend_for("cuda:1")
    first, second = backend.stream("cuda:1"), backend.stream("cuda:0")
    assert torch.where() == (0, None)
    with first as entered:
        assert entered is first
        assert torch.where() == (1, first._stream)
        with second:
            assert torch.where() == (0, second._stream)
        with first:
            assert torch.where() == (1, first._stream)
        assert torch.where() == (1, first._stream)
    assert torch.where() == (0, None)


def test_with_restores_after_an_error_and_lets_it_through(fake_torch: Any) -> None:
    torch = fake_torch(gpus=1)
    stream = backend_for("cuda:0").stream("cuda:0")
    with pytest.raises(ValueError, match="bad input"), stream:
        raise ValueError("bad input")
    assert torch.where() == (0, None)


def test_two_threads_inside_one_stream_each_restore_their_own(fake_torch: Any) -> None:
    torch = fake_torch(gpus=2)
    backend = backend_for("cuda:1")
    stream, outer = backend.stream("cuda:1"), backend.stream("cuda:0")
    inside, leave = threading.Event(), threading.Event()
    seen: list[Any] = []

    def other() -> None:
        with stream:
            inside.set()
            assert leave.wait(10)
        seen.append(torch.where())

    thread = threading.Thread(target=other)
    with outer:
        with stream:
            thread.start()
            assert inside.wait(10)
        assert torch.where() == (0, outer._stream)
        leave.set()
        thread.join()
        assert torch.where() == (0, outer._stream)
    assert seen == [(0, None)]


def test_streams_are_not_shared(fake_torch: Any) -> None:
    fake_torch(gpus=1)
    backend = backend_for("cuda:0")
    assert backend.stream("cuda:0")._stream is not backend.stream("cuda:0")._stream


def test_an_event_blocks_instead_of_spinning_and_is_on_its_own_stream(fake_torch: Any) -> None:
    torch = fake_torch(gpus=1)
    backend = backend_for("cuda:0")
    stream, other = backend.stream("cuda:0"), backend.stream("cuda:0")
    with other:
        event = stream.record()
    assert event.options == {"blocking": True}
    assert event.stream is stream._stream
    assert torch.calls == []
    event.synchronize()
    assert torch.calls == ["synchronize"]


def test_an_event_is_never_recorded_again(fake_torch: Any) -> None:
    fake_torch(gpus=1)
    stream = backend_for("cuda:0").stream("cuda:0")
    assert stream.record() is not stream.record()


def test_wait_holds_the_stream_and_not_the_thread(fake_torch: Any) -> None:
    torch = fake_torch(gpus=1)
    backend = backend_for("cuda:0")
    loading, lane = backend.stream("cuda:0"), backend.stream("cuda:0")
    event = loading.record()
    lane.wait(event)
    assert lane._stream.waited is event
    assert torch.calls == ["wait_event"]


def test_the_backend_reads_torchs_errors(fake_torch: Any) -> None:
    torch = fake_torch(gpus=1)
    backend = backend_for("cuda:0")
    assert backend.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not backend.is_fatal(torch.OutOfMemoryError("CUDA out of memory"))
    lost = torch.AcceleratorError("CUDA error: device-side assert triggered")
    lost.error_code = 710
    assert backend.is_fatal(lost)
    assert not backend.is_out_of_memory(lost)
