from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types import ModuleType

NAME = "lifecycle_kit"


def _load() -> ModuleType:
    if NAME not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            NAME, Path(__file__).parents[1] / "lifecycle" / "kit.py"
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[NAME] = module
        spec.loader.exec_module(module)
    return sys.modules[NAME]


_load()


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THALAMUS_API_KEY", _load().KEY)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A fake device behind every lane."""
    kit = _load()
    device = kit.FakeDevice()
    kit.use_backend(monkeypatch, device)
    return device
