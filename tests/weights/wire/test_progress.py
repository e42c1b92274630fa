from __future__ import annotations

import io
import logging
import sys
import threading

import pytest

from thalamus_lite.weights.transfer.progress import DownloadProgress, human_bytes


class Ticks:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def ticks():
    return Ticks()


@pytest.fixture
def progress(ticks, caplog):
    caplog.set_level(logging.INFO, "thalamus_lite")
    return DownloadProgress("bert", 10_000_000, terminal=False, clock=ticks)


def test_numbers_tell_what_is_in_place_and_what_came(progress):
    progress.resumed(100)
    progress.received(50)
    progress.retried()
    progress.restarted(150)
    progress.received(10)
    assert (progress.done_bytes, progress.received_bytes) == (10, 60)
    assert (progress.resumed_bytes, progress.retries) == (100, 1)


def test_no_step_is_lost_between_threads(progress):
    def many():
        for _ in range(2_000):
            progress.received(1)
            progress.retried()

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (progress.received_bytes, progress.retries) == (8_000, 8_000)


def test_a_line_is_logged_every_ten_seconds(progress, ticks, caplog):
    for second in range(1, 31):
        ticks.now = float(second)
        progress.received(100_000)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "downloading bert: 1.0 MB of 10.0 MB (10 %), 100.0 kB/s",
        "downloading bert: 2.0 MB of 10.0 MB (20 %), 100.0 kB/s",
        "downloading bert: 3.0 MB of 10.0 MB (30 %), 100.0 kB/s",
    ]


def test_unknown_total_is_left_out(progress, ticks, caplog):
    progress.total_bytes = None
    ticks.now = 10.0
    progress.received(2_500)
    assert "bert: 2.5 kB, 250 B/s" in caplog.text


def test_the_end_is_logged_once(progress, ticks, caplog):
    progress.resumed(7_000_000)
    progress.received(3_000_000)
    ticks.now = 2.0
    progress.close()
    progress.close()
    ticks.now = 20.0
    progress.received(1)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["downloaded bert: 3.0 MB in 2.0 s, 1.5 MB/s"]


def test_an_end_before_the_end_is_not_called_a_download(progress, ticks, caplog):
    progress.received(3_000_000)
    ticks.now = 2.0
    progress.close()
    assert caplog.messages == ["stopped downloading bert: 3.0 MB in 2.0 s, 1.5 MB/s"]


def test_an_end_of_who_knows_how_much_is_called_neither(progress, ticks, caplog):
    progress.total_bytes = None
    progress.received(3_000_000)
    ticks.now = 2.0
    progress.close()
    assert caplog.messages == ["received bert: 3.0 MB in 2.0 s, 1.5 MB/s"]


def test_a_download_of_nothing_is_not_logged(progress, caplog):
    progress.resumed(5)
    progress.close()
    assert caplog.text == ""


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_a_bar(monkeypatch, caplog):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    before = set(threading.enumerate())
    progress = DownloadProgress("bert", None)
    progress.total_bytes = 1_000
    progress.received(400)
    progress._bar.refresh()
    progress.restarted(300)
    progress._bar.refresh()
    progress.close()
    assert "bert" in terminal.getvalue()
    assert "400/1.00k" in terminal.getvalue()
    assert "100/1.00k" in terminal.getvalue()
    assert caplog.text == ""
    # Threads of earlier tests may end meanwhile; the bar leaves none of its own.
    assert set(threading.enumerate()) <= before


def test_no_stderr_is_no_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    progress = DownloadProgress("bert")
    progress.received(1)
    progress.close()


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_500, "1.5 kB"),
        (2e6, "2.0 MB"),
        (3e9, "3.0 GB"),
        (4e12, "4.0 TB"),
        (5e15, "5000.0 TB"),
    ],
)
def test_bytes_are_told_in_powers_of_1000(n, text):
    assert human_bytes(n) == text
