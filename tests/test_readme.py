"""The README's blocks of Python, run as a reader would run them."""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

import pytest

import thalamus_lite
from thalamus_lite.testing import Client

README = Path(__file__).parents[1] / "README.md"
BLOCKS = [
    textwrap.dedent(block)
    for block in re.findall(r"^ *```python\n(.*?)^ *```", README.read_text("utf-8"), re.M | re.S)
]


def block_with(text: str) -> str:
    (found,) = [block for block in BLOCKS if text in block]
    return found


@pytest.fixture
def _my_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``my_app.py`` and its words, and the wrapping below "In production" at its end."""
    code = block_with("# my_app.py") + block_with("CORSMiddleware")
    (tmp_path / "my_app.py").write_text(code)
    (tmp_path / "words.txt").write_text("great lovely fine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_app", raising=False)


@pytest.mark.usefixtures("_my_app")
def test_the_app_passes_the_test_that_is_shown() -> None:
    names: dict[str, object] = {}
    exec(block_with("def test_sentiment"), names)
    names["test_sentiment"]()  # type: ignore[operator]


@pytest.mark.usefixtures("_my_app")
def test_a_browser_may_send_the_key_to_the_wrapped_app() -> None:
    from my_app import served  # type: ignore[import-not-found]

    asks = {
        "Origin": "https://example.com",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type,x-api-key",
    }
    with Client(served) as client:
        assert client.request("OPTIONS", "/predict", headers=asks).status == 200
        inputs = {"inputs": [{"text": "great"}]}
        answer = client.post("/predict", json=inputs, headers={"Origin": asks["Origin"]})
    assert answer.json()["outputs"] == [{"label": "good", "score": 1.0}]
    assert answer.headers["access-control-allow-origin"] == asks["Origin"]


def test_the_weights_can_be_written_so() -> None:
    exec(block_with("S3Weight(").replace("…", "ab" * 32), dict(vars(thalamus_lite)))
