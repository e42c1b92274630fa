from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from benchmarks.answer import Answer
from benchmarks.environments import CannotInstall, Environments
from benchmarks.run import Run

from benchmarks import environments, peers

if TYPE_CHECKING:
    from pathlib import Path


class Pip:
    """Stands in for venv and pip."""

    def __init__(self, code: int = 0, stderr: str = "") -> None:
        self.code = code
        self.stderr = stderr
        self.installed: list[tuple[str, ...]] = []

    def create(self, home: Path, with_pip: bool) -> None:
        assert with_pip
        (home / "bin").mkdir(parents=True)

    def run(self, command: tuple[str, ...], **_: Any) -> subprocess.CompletedProcess[str]:
        self.installed.append(command[command.index("install") + 2 :])
        return subprocess.CompletedProcess(command, self.code, "", self.stderr)


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> Pip:
    fake = Pip()
    monkeypatch.setattr(environments.venv, "create", fake.create)
    monkeypatch.setattr(environments.subprocess, "run", fake.run)
    return fake


def test_environment_is_made_once(pip: Pip, tmp_path: Path) -> None:
    python = Environments(tmp_path).python(peers.MOSEC)
    assert python == tmp_path / "mosec" / "bin" / "python"
    assert Environments(tmp_path).python(peers.MOSEC) == python
    assert pip.installed == [peers.MOSEC.requirements]


def test_other_requirements_make_it_again(
    pip: Pip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Environments(tmp_path).python(peers.MOSEC)
    (tmp_path / "mosec" / "requirements.sha256").write_text("of last month")
    Environments(tmp_path).python(peers.MOSEC)
    assert len(pip.installed) == 2


def test_pips_refusal_is_told_and_not_tried_again(pip: Pip, tmp_path: Path) -> None:
    pip.code, pip.stderr = 1, "noise\nERROR: No matching distribution\n"
    made = Environments(tmp_path)
    for _ in range(2):
        with pytest.raises(CannotInstall, match="ERROR: No matching distribution"):
            made.python(peers.MOSEC)
    assert len(pip.installed) == 1


def test_environment_that_failed_is_tried_again_in_the_next_run(pip: Pip, tmp_path: Path) -> None:
    pip.code = 1
    with pytest.raises(CannotInstall, match="ended with 1"):
        Environments(tmp_path).python(peers.MOSEC)
    pip.code = 0
    assert Environments(tmp_path).python(peers.MOSEC)


def test_peer_that_cannot_be_installed_is_missing_from_the_answer(pip: Pip, tmp_path: Path) -> None:
    pip.code, pip.stderr = 1, "ERROR: no wheel"
    answer = Answer()
    run = Run(Environments(tmp_path))
    with run.reporting(answer, "mosec"), run.server(peers.MOSEC):
        raise AssertionError("it must not start")
    assert answer.missing == {"mosec": "ERROR: no wheel"}


def test_preparation_goes_on_after_a_failure(pip: Pip, tmp_path: Path) -> None:
    pip.code, pip.stderr = 1, "ERROR: no"
    said: list[str] = []
    Run(Environments(tmp_path), only=frozenset({"mosec"})).prepare(said.append)
    assert "mosec cannot be installed: ERROR: no" in said


def test_version_is_read_from_the_environment(tmp_path: Path) -> None:
    packages = tmp_path / "thalamus-lite" / "lib" / "python3.11" / "site-packages"
    (packages / "pydantic_core-2.50.4.dist-info").mkdir(parents=True)
    made = Environments(tmp_path)
    assert made.version(peers.OURS, "pydantic-core") == "2.50.4"
    assert made.version(peers.OURS, "uvicorn") is None
