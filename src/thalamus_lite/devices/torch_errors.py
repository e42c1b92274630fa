"""Reads torch's errors without importing torch: they can only come from a torch that is loaded.

What decides is the class and the code wherever torch gives them. The text is a last resort, and
then only its beginning: models echo their inputs in exceptions, and a client must not be able to
write the sentence that ends this process.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# cudaError_t, the same numbers in hipError_t.
MEMORY_ALLOCATION = 2

# "Sticky" in the CUDA runtime API: after these every later call on that context fails too.
FATAL_CODES = frozenset(
    {
        214,  # ECC uncorrectable
        220,  # NVLink uncorrectable
        700,  # illegal address
        702,  # launch timeout
        709,  # context is destroyed
        710,  # device-side assert
        714,  # hardware stack error
        715,  # illegal instruction
        716,  # misaligned address
        717,  # invalid address space
        718,  # invalid program counter
        719,  # launch failure
        999,  # unknown: a device in an unknown state is not one to serve from
    }
)

# For a torch before 2.8, which has no AcceleratorError and raises a plain RuntimeError.
_FATAL_SENTENCES = (
    "uncorrectable ECC error encountered",
    "uncorrectable NVLink error",
    "an illegal memory access was encountered",
    "the launch timed out and was terminated",
    "context is destroyed",
    "device-side assert triggered",
    "hardware stack error",
    "an illegal instruction was encountered",
    "misaligned address",
    "operation not supported on global/shared address space",
    "invalid program counter",
    "unspecified launch failure",
    "unspecified launch error",
    "unknown error",
)
_SPEAKERS = ("CUDA error: ", "HIP error: ")
_FATAL_TEXTS = tuple(speaker + text for speaker in _SPEAKERS for text in _FATAL_SENTENCES)
# Triton launches kernels on its own and has no class for what the driver answers.
_TRITON_FATAL_TEXTS = tuple("Triton Error [CUDA]: " + text for text in _FATAL_SENTENCES)

# Memory that ran out where torch raises a plain RuntimeError: libraries, the CPU, MPS. A smaller
# batch is all that these texts can bring about, so they may be believed.
_MEMORY_TEXTS = (
    "CUDA out of memory",
    "HIP out of memory",
    "CUDA error: out of memory",
    "HIP error: out of memory",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "MPS backend out of memory",
    "[enforce fail at alloc_cpu.cpp:",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the device or the host, somewhere down the chain of ``error``.

    Never of a fatal one: on a lost device no batch is small enough.
    """
    return any(_out_of_memory(link) for link in _chain(error)) and not is_fatal(error)


def is_fatal(error: BaseException) -> bool:
    """Whether the device's context is lost for good; the model may have wrapped the error."""
    return any(_fatal(link) for link in _chain(error))


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, _torch_class("OutOfMemoryError"))):
        return True
    if _code(error) == MEMORY_ALLOCATION:
        return True
    return isinstance(error, RuntimeError) and _text(error).startswith(_MEMORY_TEXTS)


def _fatal(error: BaseException) -> bool:
    code = _code(error)
    if code is not None:
        return code in FATAL_CODES
    if type(error) is RuntimeError:
        texts = _TRITON_FATAL_TEXTS
        if _torch_class("AcceleratorError") is _Never:
            texts += _FATAL_TEXTS
        return _text(error).startswith(texts)
    return isinstance(error, _torch_class("AcceleratorError")) and _text(error).startswith(
        _FATAL_TEXTS
    )


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        # A class of the user's, whose __str__ fails.
        return ""


def _code(error: BaseException) -> int | None:
    if not isinstance(error, _torch_class("AcceleratorError")):
        return None
    code = getattr(error, "error_code", None)
    return code if isinstance(code, int) else None


class _Never(BaseException):
    """Stands for a class that the torch at hand does not have."""


def _torch_class(name: str) -> type[BaseException]:
    torch = sys.modules.get("torch")
    found = getattr(torch, name, None)
    if found is None and name == "OutOfMemoryError":
        # Its only place before torch 2.5.
        found = getattr(getattr(torch, "cuda", None), name, None)
    return found if isinstance(found, type) and issubclass(found, BaseException) else _Never


def _chain(error: BaseException) -> Iterator[BaseException]:
    """``error`` and what it came from, as a traceback would show it; all of a group."""
    seen: set[int] = set()
    links: list[BaseException | None] = [error]
    while links:
        link = links.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        if link.__cause__ is None and not link.__suppress_context__:
            links.append(link.__context__)
        else:
            links.append(link.__cause__)
        if isinstance(link, BaseExceptionGroup):
            links += link.exceptions
