"""Gauges of workers that were killed: removed at the start of the next one."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from prometheus_client import multiprocess

from thalamus_lite.observability import metrics

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def dead() -> int:
    """The id of a process that has been."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_only_live_gauges_of_the_dead_go(
    dead: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    gone = {f"gauge_livesum_{dead}.db", f"gauge_livemostrecent_{dead}.db"}
    kept = {
        f"gauge_livesum_{os.getpid()}.db", f"gauge_livemax_{os.getppid()}.db", "gauge_livesum_x.db",
        f"counter_{dead}.db", f"histogram_{dead}.db", f"gauge_all_{dead}.db", "else.txt",
    }  # fmt: skip
    for name in gone | kept:
        (tmp_path / name).write_bytes(b"")
    metrics._forget_the_dead()
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_folder_that_is_not_there_stops_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "missing"))
    with pytest.raises(ValueError, match="PROMETHEUS_MULTIPROC_DIR is not set or not a directory"):
        metrics._forget_the_dead()


def test_process_of_somebody_else_is_alive(monkeypatch: pytest.MonkeyPatch, dead: int) -> None:
    assert metrics._is_alive(os.getpid())
    assert not metrics._is_alive(dead)

    def refuse(pid: int, signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert metrics._is_alive(1)


def test_collector_still_says_which_folder_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one name of prometheus_client's that is not public and that is relied on."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    assert multiprocess.MultiProcessCollector(None)._path == str(tmp_path)
