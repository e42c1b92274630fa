from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from benchmarks.load import __main__ as command
from benchmarks.load.outcome import Outcome

if TYPE_CHECKING:
    from pathlib import Path


def test_any_url_can_be_asked(
    ok_server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = tmp_path / "body.json"
    body.write_bytes(b'{"a":1}')
    url = f"http://127.0.0.1:{ok_server.port}/predict"
    options = ["--rate", "100", "--seconds", "0.2", "--body", str(body), "--header", "X-Key: k"]
    assert command.main([url, *options]) in (0, 2)
    summary = json.loads(capsys.readouterr().out)
    assert summary["answered_200"] == summary["requests"] == len(ok_server.requests)
    request = ok_server.requests[0]
    assert request.startswith(b"POST /predict HTTP/1.1\r\n")
    assert b"X-Key: k\r\n" in request
    assert b"Content-Type: application/json\r\n" in request
    assert request.endswith(b'{"a":1}')


@pytest.mark.parametrize(("busy", "code"), [(0.1, 0), (0.99, 2)])
def test_void_run_ends_with_2(
    busy: float,
    code: int,
    ok_server: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    outcome = Outcome([0.0], [0], [0.1], [200], [0.0], busy, 1)
    monkeypatch.setattr(command.Generator, "run", lambda *_: outcome)
    assert command.main([f"http://127.0.0.1:{ok_server.port}/"]) == code
    assert (json.loads(capsys.readouterr().out)["void"] is None) == (code == 0)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["https://example.org/"], "expected a URL"),
        (["http://127.0.0.1:1/", "--header", "nonsense"], "a header is 'Name: value'"),
    ],
)
def test_what_cannot_be_asked_is_told(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(argv) == 1
    assert said in capsys.readouterr().err
