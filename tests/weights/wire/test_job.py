"""The workers of a download: none of them writes once the download has ended."""

from __future__ import annotations

import threading
import time

import pytest

from thalamus_lite.errors import CacheUnusable
from thalamus_lite.weights.origin import DownloadCancelled, PartFile, RemoteFile
from thalamus_lite.weights.put import NoProgress
from thalamus_lite.weights.transfer.download import Transfer
from thalamus_lite.weights.transfer.part import PartWriter
from thalamus_lite.weights.transfer.tuning import Clock, MiB, TransferOptions

SIZE = 64 * MiB


class Drip:
    """A body that comes in small pieces, and does not end in this test's time."""

    status, validator, total = 206, '"e"', SIZE

    def __init__(self, start):
        self.start = start

    def read(self, n):
        time.sleep(0.002)
        return b"W" * min(n, 1024)

    def close(self):
        pass


class Stubborn(Drip):
    def abort(self):
        raise AttributeError("shutdown")


class Drips:
    def __init__(self, body=Drip):
        self.body = body

    def open(self, file, start=0, stop=None):
        return self.body(start)


class Slow:
    """A byte every 20 s, by the clock that it turns itself."""

    status, start, validator, total = 200, 0, "", 8

    def __init__(self):
        self.now = 0.0
        self.aborted = False

    def open(self, file, start=0, stop=None):
        return self

    def read(self, n):
        self.now += 20.0
        # So that the thread that looks on does.
        time.sleep(0.03)
        return b"W"

    def abort(self):
        self.aborted = True

    def close(self):
        pass


def bring(path, origin, cancel):
    file = RemoteFile("model", "model", SIZE, '"e"', {})
    part = PartFile(path, SIZE, file.validator, (), lambda extents: None)
    options = TransferOptions(parallel_from=1, range_bytes=MiB)
    return Transfer(options)(origin, file, part, progress=NoProgress("model"), cancel=cancel)


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), KeyboardInterrupt()])
def test_a_worker_that_does_not_start_ends_those_that_did(tmp_path, monkeypatch, error):
    start = threading.Thread.start
    started = []

    def fail_the_fourth(thread):
        if thread.name == "thalamus-weights-3":
            time.sleep(0.02)
            raise error
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fail_the_fourth)
    with pytest.raises(type(error)):
        bring(tmp_path / "part", Drips(), threading.Event())
    # It gets the descriptor that the part file had.
    with (tmp_path / "precious").open("wb+") as precious:
        for thread in started:
            thread.join(10)
            assert not thread.is_alive()
        assert precious.read() == b""


def test_a_body_that_cannot_be_aborted_is_waited_for(tmp_path):
    cancel = threading.Event()
    threading.Timer(0.05, cancel.set).start()
    with pytest.raises(DownloadCancelled):
        bring(tmp_path / "part", Drips(Stubborn), cancel)
    written = (tmp_path / "part").stat().st_mtime_ns
    time.sleep(0.02)
    assert (tmp_path / "part").stat().st_mtime_ns == written


def test_a_part_that_is_closed_is_not_written_to(tmp_path):
    writer = PartWriter(PartFile(tmp_path / "part", 10, "", (), lambda extents: None), {})
    writer.write(0, b"12345")
    writer.close()
    with (tmp_path / "precious").open("wb+") as precious, pytest.raises(CacheUnusable):
        writer.write(5, b"67890")
    assert precious.closed
    assert (tmp_path / "precious").read_bytes() == b""


def test_slow_answer_is_kept_where_a_new_one_would_begin_at_0(tmp_path):
    slow = Slow()
    file = RemoteFile("model", "model", slow.total, "", {})
    part = PartFile(tmp_path / "part", file.size, "", (), lambda extents: None)
    engine = Transfer(TransferOptions(clock=Clock(now=lambda: slow.now)))
    engine(slow, file, part, progress=NoProgress("model"), cancel=threading.Event())
    assert not slow.aborted
