"""The protocols say of a class what the decorator sees in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from thalamus_lite import ModelCapacity
from thalamus_lite.model import protocol
from thalamus_lite.model.inspection import hook_of, read_hooks

if TYPE_CHECKING:
    from pathlib import Path


class Bare:
    def predict(self, inputs: list[int]) -> list[int]:
        return inputs


class Full(Bare):
    def load(self, weights: dict[str, Path], device: str) -> None: ...

    def preprocess(self, inputs: list[int]) -> list[int]:
        return inputs

    def postprocess(self, outputs: list[int]) -> list[int]:
        return outputs

    def unload(self) -> None: ...

    @property
    def is_ready(self) -> bool:
        return True

    def capacity(self) -> ModelCapacity:
        return ModelCapacity(remaining_requests=1, ideal_batch_size=1, max_batch_size=1)


@pytest.mark.parametrize(
    ("kind", "hook"),
    [
        (protocol.SupportsLoad, "load"),
        (protocol.SupportsPreprocess, "preprocess"),
        (protocol.SupportsPostprocess, "postprocess"),
        (protocol.SupportsUnload, "unload"),
        (protocol.SupportsReady, "is_ready"),
        (protocol.SupportsCapacity, "capacity"),
    ],
)
def test_protocol_and_decorator_agree(kind: Any, hook: str) -> None:
    def seen(cls: type) -> bool:
        if hook == "is_ready":
            return read_hooks(cls, "m").ready
        return hook_of(cls(), hook) is not None

    assert isinstance(Full(), kind) is seen(Full) is True
    assert isinstance(Bare(), kind) is seen(Bare) is False
