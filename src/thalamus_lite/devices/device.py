"""What a model may run on: the names that users write, and the types they are told."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, Protocol

from pydantic import BaseModel

Kind = Literal["cpu", "cuda", "mps"]

# As strict as torch.device (no blanks, no upper case, no leading zeros): what is accepted here is
# what load() may hand on to torch.
_REQUEST = re.compile(r"(auto|cpu|mps|cuda)(?::(0|[1-9][0-9]{0,3}))?", re.ASCII)


class GPURequirementError(RuntimeError):
    """A model declared ``require_gpu=True`` and no GPU can take it."""


class DeviceType(Enum):
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


class DeviceInfo(BaseModel, frozen=True):
    """One accelerator; ``total_memory_mb`` is in MB of 10**6 bytes."""

    device_type: DeviceType
    device_index: int
    name: str
    total_memory_mb: float


class GPUStatus(BaseModel, frozen=True):
    """``torch_version`` is ``None`` where PyTorch is not installed."""

    available: bool
    device_count: int
    devices: tuple[DeviceInfo, ...]
    torch_version: str | None


@dataclass(frozen=True, slots=True, order=True)
class Device:
    """One that exists. ``str()`` is what ``load()`` gets: ``"cpu"``, ``"cuda:0"``, ``"mps"``."""

    kind: Kind
    index: int = 0

    def __str__(self) -> str:
        return f"cuda:{self.index}" if self.kind == "cuda" else self.kind


CPU = Device("cpu")


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """The preference of a model. ``index`` is set only by ``"cuda:N"``."""

    kind: Literal["auto", "cpu", "cuda", "mps"]
    index: int | None = None

    @classmethod
    def parse(cls, text: str) -> DeviceRequest:
        """Read ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:N"`` or ``"mps"``.

        Raises:
            ValueError: it is none of them.
        """
        match = _REQUEST.fullmatch(text) if isinstance(text, str) else None
        if match is None or (match[2] is not None and match[1] != "cuda"):
            raise ValueError(
                f'device must be "auto", "cpu", "cuda", "cuda:N" or "mps", got {text!r:.60}'
            )
        return cls(match[1], None if match[2] is None else int(match[2]))  # type: ignore[arg-type]

    def __str__(self) -> str:
        return self.kind if self.index is None else f"{self.kind}:{self.index}"


class Ledger(Protocol):
    """Who gave a reservation out, and is told what became of it."""

    def commit(self, reservation: Reservation) -> None: ...

    def release(self, reservation: Reservation) -> None: ...


# Compared by identity: two models of one size on one device are still two reservations.
@dataclass(frozen=True, slots=True, eq=False)
class Reservation:
    """A model's place on a device, from before its load until after its unload.

    Until ``commit()`` its ``need_bytes`` count against the device; from then on the driver's own
    figures show what it really takes. Both calls may come from any thread, any number of times, in
    any order.
    """

    device: Device
    need_bytes: int
    ledger: Ledger = field(repr=False)

    def commit(self) -> None:
        """The load is done. After ``release()`` it does nothing."""
        self.ledger.commit(self)

    def release(self) -> None:
        """The model is gone, or never came."""
        self.ledger.release(self)
