"""What holds for every example."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir())


def test_every_example_has_a_test() -> None:
    tested = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    assert set(NAMES) == tested - {"readmes"}


@pytest.mark.parametrize("name", NAMES)
def test_the_readme_says_how_to_install_run_and_ask(name: str) -> None:
    readme = (EXAMPLES / name / "README.md").read_text(encoding="utf-8")
    assert "export THALAMUS_API_KEY=" in readme
    assert "\ncurl localhost:8000/" in readme
    if (EXAMPLES / name / "requirements.txt").exists():
        assert "pip install ../.. -r requirements.txt\n" in readme
        assert "\nuvicorn app:app\n" in readme


@pytest.mark.parametrize("name", NAMES)
def test_the_files_that_the_readme_lists_exist(name: str) -> None:
    readme = (EXAMPLES / name / "README.md").read_text(encoding="utf-8")
    for listed in re.findall(r"^\| `([^`]+)` \|", readme, re.MULTILINE):
        assert (EXAMPLES / name / listed).is_file(), listed


@pytest.mark.parametrize("name", NAMES)
def test_no_example_unpickles_anything(name: str) -> None:
    for path in (EXAMPLES / name).glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {
            module.split(".")[0]
            for node in ast.walk(tree)
            for module in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        assert not imported & {"pickle", "joblib", "cloudpickle", "dill"}, path.name
        assert "torch.load" not in ast.unparse(tree), path.name
