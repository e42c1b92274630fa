"""Files that are brought at once end together: whole, or at the first that fails."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tests_weights_cache_fakes import Engine, Folder, audit, http

from thalamus_lite.errors import WeightNotFound
from thalamus_lite.weights.entries import crew
from thalamus_lite.weights.entries.crew import Stop, all_of
from thalamus_lite.weights.origin import DownloadCancelled, Downloaded


def test_everything_is_done_with_so_many_at_a_time() -> None:
    gate, done = threading.Barrier(3), []

    def work(item: int) -> None:
        gate.wait(30)
        done.append(item)

    all_of(work, range(6), Stop(threading.Event()), 3)
    assert sorted(done) == list(range(6))


def test_the_first_failure_stops_the_others_and_is_raised() -> None:
    stop = Stop(threading.Event())
    started = threading.Event()
    begun: list[str] = []

    def work(item: str) -> None:
        begun.append(item)
        if item == "bad":
            assert started.wait(30)
            raise IndexError("no such file")
        started.set()
        while not stop.is_set():
            time.sleep(0.001)

    with pytest.raises(IndexError, match="no such file"):
        all_of(work, ["slow", "bad", "never"], stop, 2)
    assert sorted(begun) == ["bad", "slow"]


def test_nobody_waits_long_for_who_does_not_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "_LEAVE_S", 0.01)
    leave = threading.Event()

    def work(item: str) -> None:
        if item == "bad":
            raise WeightNotFound("no such file")
        leave.wait(60)

    started = time.monotonic()
    with pytest.raises(WeightNotFound):
        all_of(work, ["deaf", "bad"], Stop(threading.Event()), 2)
    assert time.monotonic() - started < 30
    leave.set()


def test_who_gives_up_before_the_start_begins_nothing() -> None:
    cancel = threading.Event()
    cancel.set()
    begun: list[int] = []
    with pytest.raises(DownloadCancelled):
        all_of(begun.append, [1, 2], Stop(cancel), 2)
    assert begun == []


class Endless(Engine):
    """Brings ``bad`` once others are under way, and of others nothing until told to stop."""

    def __call__(self, origin: Any, file: Any, part: Any, **means: Any) -> Downloaded:
        if file.relpath == "bad":
            while not origin.notes("waiting"):
                time.sleep(0.001)
            raise WeightNotFound("no bad")
        origin.note("waiting")
        while not means["cancel"].is_set():
            time.sleep(0.001)
        raise DownloadCancelled("cancelled")


def test_a_file_that_fails_does_not_wait_for_the_others(
    make: Any, origin: Folder, root: Path
) -> None:
    for name in ("bad", "slow"):
        origin.put(name, b"x" * 100)
    cache = make(download=Endless())
    with pytest.raises(WeightNotFound, match="no bad"):
        cache.acquire(http("bad", "slow"))
    assert cache.snapshot().downloads == ()
    assert audit(root) == []


def test_who_gives_up_does_not_wait_for_the_files_under_way(make: Any, origin: Folder) -> None:
    for name in ("one", "two"):
        origin.put(name, b"x" * 100)
    cancel = threading.Event()

    def give_up() -> None:
        while not origin.notes("waiting"):
            time.sleep(0.001)
        cancel.set()

    thread = threading.Thread(target=give_up)
    thread.start()
    with pytest.raises(DownloadCancelled):
        make(download=Endless()).acquire(http("one", "two"), cancel=cancel)
    thread.join()


DEAF = """
import os, sys, threading
from pathlib import Path

sys.path.insert(0, sys.argv.pop())

from fakes import Engine, Folder, http, make_cache

class Deaf(Engine):
    def __call__(self, *args, **means):
        os.write(1, b"begun\\n")
        threading.Event().wait(60)

root, origin = map(Path, sys.argv[1:])
try:
    make_cache(root, Folder(origin), download=Deaf()).acquire(http("one", "two"))
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_ctrl_c_ends_the_wait_and_the_process_even_if_a_download_is_deaf(
    root: Path, origin: Folder
) -> None:
    for name in ("one", "two"):
        origin.put(name, b"x" * 100)
    process = subprocess.Popen(
        [sys.executable, "-c", DEAF, str(root), str(origin.path), str(Path(__file__).parent)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["begun\n"] * 2
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.stdout.read() == "interrupted\n"
    assert process.wait(30) == 0
    assert time.monotonic() - started < 30
    process.stdout.close()
