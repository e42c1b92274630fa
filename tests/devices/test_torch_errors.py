from __future__ import annotations

from typing import Any

import pytest

from thalamus_lite.devices import torch_errors
from thalamus_lite.devices.torch_errors import is_fatal, is_out_of_memory

FATAL_TEXTS = {
    700: "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be",
    710: "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously",
    719: "CUDA error: unspecified launch failure",
    214: "CUDA error: uncorrectable ECC error encountered",
    702: "HIP error: the launch timed out and was terminated",
}
ORDINARY_TEXTS = {
    1: "CUDA error: invalid argument",
    98: "CUDA error: invalid device function",
    209: "CUDA error: no kernel image is available for execution on the device",
}


def caused(error: BaseException, *, hidden: bool = False) -> BaseException:
    """A model's own error, raised while it handled ``error``."""
    try:
        try:
            raise error
        except BaseException:
            if hidden:
                raise ValueError("the model's own words") from None
            raise ValueError("the model's own words")  # noqa: B904 - the implicit link is the test
    except ValueError as wrapped:
        return wrapped


@pytest.mark.parametrize("place", ["torch", "torch.cuda"])
def test_torchs_out_of_memory_class_is_known_in_both_its_places(
    place: str, fake_torch: Any
) -> None:
    torch = fake_torch()
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    if place == "torch.cuda":
        del torch.OutOfMemoryError
    else:
        del torch.cuda.OutOfMemoryError
    assert is_out_of_memory(error)
    assert not is_fatal(error)


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "MPS backend out of memory (MPS allocated: 17.62 GB)",
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory",
    ],
)
def test_memory_that_runs_out_without_a_class_of_its_own_is_known_by_its_text(
    text: str, without_torch: Any
) -> None:
    assert is_out_of_memory(RuntimeError(text))
    assert not is_out_of_memory(ValueError(text))
    assert not is_out_of_memory(RuntimeError(f"the client said: {text}"))
    assert not is_fatal(RuntimeError(text))


@pytest.mark.parametrize(("code", "text"), FATAL_TEXTS.items())
def test_sticky_codes_are_fatal(code: int, text: str, fake_torch: Any) -> None:
    error = fake_torch().AcceleratorError(text)
    error.error_code = code
    assert is_fatal(error)
    assert not is_out_of_memory(error)


@pytest.mark.parametrize(("code", "text"), ORDINARY_TEXTS.items())
def test_errors_that_do_not_stick_are_not_fatal(code: int, text: str, fake_torch: Any) -> None:
    torch = fake_torch()
    error = torch.AcceleratorError(text)
    assert not is_fatal(error)
    error.error_code = code
    assert not is_fatal(error)
    del torch.AcceleratorError
    assert not is_fatal(RuntimeError(text))


def test_the_code_is_believed_over_the_text(fake_torch: Any) -> None:
    error = fake_torch().AcceleratorError(FATAL_TEXTS[700])
    error.error_code = 1
    assert not is_fatal(error)
    error.error_code = torch_errors.MEMORY_ALLOCATION
    assert is_out_of_memory(error)


@pytest.mark.parametrize("text", FATAL_TEXTS.values())
def test_where_torch_gives_no_code_the_text_decides(text: str, fake_torch: Any) -> None:
    torch = fake_torch()
    assert is_fatal(torch.AcceleratorError(text))
    del torch.AcceleratorError
    assert is_fatal(RuntimeError(text))


@pytest.mark.parametrize("text", FATAL_TEXTS.values())
def test_a_text_that_a_client_sent_is_never_fatal(text: str, fake_torch: Any) -> None:
    torch = fake_torch()
    assert not is_fatal(RuntimeError(text))
    assert not is_fatal(ValueError(text))
    del torch.AcceleratorError
    assert not is_fatal(ValueError(text))
    assert not is_fatal(RuntimeError(f"cannot parse {text!r}"))


def test_tritons_own_launches_are_known_by_text(fake_torch: Any) -> None:
    fake_torch()
    assert is_fatal(RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"))
    assert not is_fatal(RuntimeError("Triton Error [CUDA]: out of memory"))


def test_an_error_that_the_model_wrapped_is_still_what_it_is(fake_torch: Any) -> None:
    torch = fake_torch()
    lost = torch.AcceleratorError("CUDA error")
    lost.error_code = 700
    assert is_fatal(caused(lost))
    assert is_fatal(caused(caused(lost)))
    assert is_out_of_memory(caused(torch.OutOfMemoryError()))
    assert not is_fatal(caused(lost, hidden=True))
    explicit = ValueError("wrapped")
    explicit.__cause__ = lost
    explicit.__context__ = KeyError("another")
    assert is_fatal(explicit)


def test_a_device_that_is_lost_while_memory_runs_out_is_lost(fake_torch: Any) -> None:
    torch = fake_torch()
    lost = torch.AcceleratorError("CUDA error")
    lost.error_code = 700
    lost.__context__ = torch.OutOfMemoryError("CUDA out of memory")
    assert is_fatal(lost)
    assert not is_out_of_memory(lost)


def test_a_chain_that_bites_its_tail_ends() -> None:
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    assert not is_fatal(first)
    assert not is_out_of_memory(first)


def test_a_torch_that_is_only_half_imported_is_no_trouble(fake_torch: Any) -> None:
    torch = fake_torch()
    for name in ("OutOfMemoryError", "AcceleratorError", "cuda"):
        delattr(torch, name)
    assert not is_out_of_memory(RuntimeError("x"))
    assert not is_fatal(RuntimeError("x"))


def test_the_real_torch_has_the_classes_that_are_looked_for() -> None:
    torch = pytest.importorskip("torch")
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory"))
    error = torch.AcceleratorError("CUDA error: device-side assert triggered")
    assert is_fatal(error)


def test_the_real_torch_running_out_of_host_memory_is_known() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)


def test_group_is_what_is_in_it(fake_torch: Any) -> None:
    torch = fake_torch()
    lost = torch.AcceleratorError("CUDA error: device-side assert triggered")
    lost.error_code = 710
    assert is_fatal(ExceptionGroup("of tasks", [ValueError(), lost]))
    full = caused(ExceptionGroup("of tasks", [torch.OutOfMemoryError("CUDA out of memory.")]))
    assert is_out_of_memory(full)
    assert not is_fatal(full)


def test_error_without_words_is_an_ordinary_one() -> None:
    class Wordless(RuntimeError):
        def __str__(self) -> str:
            return self.args[1]  # type: ignore[no-any-return]

    assert not is_fatal(Wordless())
    assert not is_out_of_memory(Wordless())
