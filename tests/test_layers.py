"""The floors of the house: imports run downward only."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

import thalamus_lite

SOURCE = Path(thalamus_lite.__file__).parent
PACKAGE = "thalamus_lite"

FLOORS = {
    "_version": 0,
    "errors": 0,
    "imports": 1,
    "settings": 1,
    "schemas": 1,
    "observability": 1,
    "model": 2,
    "http": 2,
    "weights": 2,
    "devices": 2,
    "batching": 3,
    "serving": 4,
    "api": 5,
    "engine": 6,
    "composition": 7,
    "server": 7,
    "starts": 7,
    "thalamus": 8,
    "demo": 9,
    "default": 10,
    "checks": 10,
    "cli": 11,
    "__main__": 12,
    # The package itself is its public names; nothing inside imports them from there.
    "__init__": 13,
    # For users' tests, above all.
    "testing": 13,
}

# Inside ``weights``; what is not named here stands on all of these.
WEIGHTS_FLOORS = {
    "forks": 0,
    "lease": 0,
    "manifest": 0,
    "mounts": 0,
    "names": 0,
    "origin": 0,
    "sources": 0,
    "options": 1,
    "index": 1,
    "transfer": 1,
    "entries": 2,
    "origins": 2,
}
WEIGHTS_TOP = 3

# Between packages of one floor: a model is declared with its weights and its device.
SAME_FLOOR = {("model", "weights.sources"), ("model", "devices.device")}

# The launcher names the type that it is given; at run time it only reads an attribute of it.
UPWARD_FOR_TYPES = {("server", "thalamus")}

FILES = sorted(SOURCE.rglob("*.py"))
MAX_LINES = 300


def module_of(path: Path) -> str:
    """``http.codec`` for ``http/codec.py``, ``http`` for ``http/__init__.py``."""
    parts = list(path.relative_to(SOURCE).with_suffix("").parts)
    if parts[-1] == "__init__" and len(parts) > 1:
        parts.pop()
    return ".".join(parts)


MODULES = {module_of(path): path for path in FILES}


def floor(module: str) -> int:
    return FLOORS[module.partition(".")[0]]


class _Imports(ast.NodeVisitor):
    """Names of imported modules, ours without the package's name; and whether only for types."""

    def __init__(self) -> None:
        self.ours: list[tuple[str, bool]] = []
        self.others: set[str] = set()
        self.at_import: set[str] = set()
        self._for_types = False
        self._deferred = False

    def visit_If(self, node: ast.If) -> None:
        before = self._for_types
        self._for_types = before or "TYPE_CHECKING" in ast.unparse(node.test)
        for child in node.body:
            self.visit(child)
        self._for_types = before
        for child in node.orelse:
            self.visit(child)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        before, self._deferred = self._deferred, True
        self.generic_visit(node)
        self._deferred = before

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert node.level == 0, "relative imports hide where a name comes from"
        assert node.module is not None
        for alias in node.names:
            below = f"{node.module}.{alias.name}".removeprefix(f"{PACKAGE}.")
            self._add(f"{PACKAGE}.{below}" if below in MODULES else node.module)

    def _add(self, name: str) -> None:
        if name == PACKAGE:
            self.ours.append(("__init__", self._for_types))
        elif name.startswith(f"{PACKAGE}."):
            module = name.removeprefix(f"{PACKAGE}.")
            self.ours.append((module, self._for_types))
            if not self._for_types and not self._deferred:
                self.at_import.add(module)
        else:
            self.others.add(name.partition(".")[0])


@cache
def imports_of(module: str) -> _Imports:
    found = _Imports()
    found.visit(ast.parse(MODULES[module].read_text()))
    return found


def is_allowed(module: str, imported: str, for_types: bool) -> bool:
    here, there = module.partition(".")[0], imported.partition(".")[0]
    if here == there == "weights":
        return _is_allowed_in_weights(module, imported)
    if here == there:
        return True
    if floor(there) < floor(here):
        return True
    if for_types and (here, there) in UPWARD_FOR_TYPES:
        return True
    return (here, imported) in SAME_FLOOR


def _is_allowed_in_weights(module: str, imported: str) -> bool:
    here, there = (name.split(".")[1] for name in (module, imported))
    below = WEIGHTS_FLOORS.get(there, WEIGHTS_TOP)
    above = WEIGHTS_FLOORS.get(here, WEIGHTS_TOP)
    # The lowest and the highest are single files, which know each other.
    return here == there or below < above or below == above in (0, WEIGHTS_TOP)


def test_every_module_has_a_floor() -> None:
    assert {module.partition(".")[0] for module in MODULES} <= FLOORS.keys()


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downward(module: str) -> None:
    wrong = [
        imported
        for imported, for_types in imports_of(module).ours
        if not is_allowed(module, imported, for_types)
    ]
    assert wrong == []


def test_rule_refuses_what_the_house_forbids() -> None:
    assert not is_allowed("http.gate", "weights.cache", False)
    assert not is_allowed("model.spec", "weights.cache", True)
    assert not is_allowed("batching.queue", "serving.runtime", True)
    assert not is_allowed("settings", "observability.logs", False)
    assert not is_allowed("server", "thalamus", False)
    assert not is_allowed("weights.entries.fill", "weights.origins.http_origin", False)
    assert not is_allowed("weights.index.database", "weights.entries.store", True)
    assert not is_allowed("weights.origin", "weights.origins.choice", False)
    assert is_allowed("weights.asking", "weights.entries.fill", False)
    assert is_allowed("model.spec", "weights.sources", False)


@pytest.mark.parametrize(
    ("library", "importers"),
    [
        ("orjson", {"http.codec"}),
        ("torch", {"devices"}),
        ("prometheus_client", {"observability"}),
        ("uvicorn", {"server", "cli"}),
        ("botocore", {"weights"}),
        ("huggingface_hub", {"weights"}),
        ("urllib3", {"weights"}),
        ("sqlite3", {"weights"}),
        ("numpy", set()),
        ("httpx", set()),
        ("starlette", set()),
        ("fastapi", set()),
        ("structlog", set()),
    ],
)
def test_heavy_library_has_one_home(library: str, importers: set[str]) -> None:
    found = {module for module in MODULES if library in imports_of(module).others}
    strangers = {m for m in found if m not in importers and m.partition(".")[0] not in importers}
    assert strangers == set()


def test_only_settings_reads_the_environment() -> None:
    found = set()
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv"):
                found.add(module)
    # The test client sets a key while an app runs in it.
    assert found == {"settings", "testing.client"}


def _reaches(start: str, graph: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    stack = list(graph[start])
    while stack:
        module = stack.pop()
        if module not in seen:
            seen.add(module)
            stack.extend(graph.get(module, ()))
    return seen


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {module: imports_of(module).at_import for module in MODULES}
    circles = sorted(module for module in graph if module in _reaches(module, graph))
    assert circles == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: module_of(path))
def test_file_has_one_subject(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_LINES, f"{lines} lines: does another subject live here?"


def test_no_module_takes_the_place_of_the_default_app() -> None:
    assert "app" not in MODULES
