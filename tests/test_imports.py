"""What is said of a user's module that cannot be imported."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from thalamus_lite.errors import ConfigurationError
from thalamus_lite.imports import import_by_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MODEL = """
from thalamus_lite import S3Weight, Thalamus

app = Thalamus()

@app.model({options})
class Model:
    def predict(self, inputs: list[int]) -> list[int]:
        return inputs
"""


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """``said(text)``: the sentence of a module ``imported_one`` with that text."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write_and_import(text: str) -> str:
        (tmp_path / "imported_one.py").write_text(text)
        with pytest.raises(ConfigurationError) as caught:
            import_by_name("imported_one")
        return str(caught.value)

    return write_and_import


@pytest.mark.parametrize(
    ("text", "says", "line"),
    [
        (MODEL.format(options="weights={'w': S3Weight(bucket='b')}"), "Either 'key' or", 6),
        (MODEL.format(options="replicas='many'"), "replicas", 6),
        ("import json\n\njson.loads('{')\n", "JSONDecodeError", 3),
        ("from pydantic import BaseModel\n\nclass A(BaseModel):\n    a: object()\n", "", 3),
        ("def f():\n    raise OSError('a\\n  b\\n\\nc')\nf()\n", "OSError: a b c (", 2),
        ("exec('1 / 0')", "ZeroDivisionError", 1),
    ],
)
def test_line_is_the_last_of_the_users_own(
    text: str, says: str, line: int, said: Callable[[str], str], tmp_path: Path
) -> None:
    sentence = said(text)
    assert says in sentence
    assert sentence.endswith(f" ({tmp_path / 'imported_one.py'}, line {line})")
    assert len(sentence.splitlines()) == 1


@pytest.mark.parametrize("library", ["site-packages", "dist-packages"])
def test_module_that_is_installed_is_named_itself(
    library: str, said: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / library
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    (folder / "imported_other.py").write_text("def fail():\n    raise OSError('deep')\n")
    monkeypatch.delitem(sys.modules, "imported_other", raising=False)
    calls = "import imported_other\nimported_other.fail()\n"
    assert said(calls).endswith("imported_one.py, line 2)")
    # With nothing on the way but what is installed, it is the module that was asked for.
    (folder / "imported_installed.py").write_text(calls)
    with pytest.raises(ConfigurationError, match=r"imported_installed\.py, line 2\)$"):
        import_by_name("imported_installed")
