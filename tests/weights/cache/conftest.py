from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType


def _load(name: str) -> ModuleType:
    full = f"tests_weights_cache_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[full] = module
        spec.loader.exec_module(module)
    return sys.modules[full]


# Tests write `from tests_weights_cache_fakes import ...`: there is no package to import from.
_load("fakes")


@pytest.fixture
def origin(tmp_path: Path) -> Any:
    from tests_weights_cache_fakes import Folder

    folder = tmp_path / "origin"
    folder.mkdir()
    return Folder(folder)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def make(root: Path, origin: Any) -> Iterator[Any]:
    """Caches on `root` of `origin`, closed at the end: ``make(max_bytes=100, flock=no_flock)``."""
    from tests_weights_cache_fakes import make_cache

    made = []

    def build(**choice: Any) -> Any:
        made.append(make_cache(choice.pop("root", root), choice.pop("origin", origin), **choice))
        return made[-1]

    yield build
    for cache in made:
        cache.close()
