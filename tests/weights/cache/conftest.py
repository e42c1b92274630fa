from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
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
def root(tmp_path: Path) -> Iterator[Path]:
    """Where a cache is to be made: in memory if possible, since each commit waits for the disk."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        yield tmp_path / "cache"
        return
    with tempfile.TemporaryDirectory(dir=shared, ignore_cleanup_errors=True) as folder:
        yield Path(folder) / "cache"


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


class Child:
    """A process that runs ``child.py``; its lines as they come."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("child.py")), json.dumps(told)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self) -> dict[str, Any]:
        """The next line; {} when there is none any more."""
        assert self.process.stdout is not None
        text = self.process.stdout.readline()
        return json.loads(text) if text else {}

    def lines(self) -> list[dict[str, Any]]:
        return list(iter(self.line, {}))

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.end()

    def end(self) -> int:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        return self.process.wait(60)


@pytest.fixture
def child(root: Path, origin: Any) -> Iterator[Any]:
    """``child(names=[["m"]], die_at="staged")`` starts a process on `root` and `origin`."""
    children = []

    def start(**told: Any) -> Child:
        children.append(Child({"root": str(root), "origin": str(origin.path), **told}))
        return children[-1]

    yield start
    for each in children:
        each.kill()
