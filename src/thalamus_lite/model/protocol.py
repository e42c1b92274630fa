"""What a user's class may offer.

Only ``predict`` is required; what else there is, is looked for by name (inspection.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pathlib import Path

    from thalamus_lite.schemas.api import ModelCapacity


class Model(Protocol):
    """``predict`` takes ``list[Input]``, or what ``preprocess`` made of it, and returns as many
    outputs.

    It may be ``async def``, and it may yield its outputs, which makes the model a streaming one.
    """

    def predict(self, inputs: Any) -> Any: ...


@runtime_checkable
class SupportsLoad(Protocol):
    def load(self, weights: dict[str, Path], device: str) -> None:
        """``weights`` are local paths by name; ``device`` is ``"cpu"``, ``"cuda:0"``, ``"mps"``."""


@runtime_checkable
class SupportsPreprocess(Protocol):
    def preprocess(self, inputs: list[Any]) -> Any: ...


@runtime_checkable
class SupportsPostprocess(Protocol):
    def postprocess(self, outputs: Any) -> list[Any]: ...


@runtime_checkable
class SupportsUnload(Protocol):
    def unload(self) -> None: ...


@runtime_checkable
class SupportsReady(Protocol):
    @property
    def is_ready(self) -> bool: ...


@runtime_checkable
class SupportsCapacity(Protocol):
    def capacity(self) -> ModelCapacity: ...
