from __future__ import annotations

import errno
import hashlib
import os
import threading
from dataclasses import replace

import pytest

from thalamus_lite.errors import (
    CacheUnusable,
    DiskFull,
    WeightAccessDenied,
    WeightChanged,
    WeightCorrupt,
    WeightNotFound,
    WeightSourceInvalid,
    WeightUnreachable,
)
from thalamus_lite.weights.origin import DownloadCancelled, OriginOptions, PartFile
from thalamus_lite.weights.origins.http_origin import HTTPOrigin
from thalamus_lite.weights.transfer.download import download
from thalamus_lite.weights.transfer.retry import RetryPolicy
from thalamus_lite.weights.transfer.tuning import Clock, MiB, TransferOptions

SIZE = 200_000


@pytest.fixture
def server(fault_server, make_content):
    fault_server.content = make_content(SIZE)
    return fault_server


@pytest.fixture
def small(fault_server, make_content):
    fault_server.content = make_content(50_000)
    return fault_server


def test_small_file_comes_in_one_stream(small, fetch, bench):
    fetch(small.url + "/model.pt")
    assert bench.bytes() == small.content
    assert [request.headers.get("range") for request in small.gets()] == [None]


def test_large_file_comes_in_ranges(server, fetch, bench):
    fetch(server.url + "/model.pt")
    assert bench.bytes() == server.content
    ranges = {request.headers["range"] for request in server.gets()}
    assert ranges == {f"bytes={i}-{min(i + 16384, SIZE) - 1}" for i in range(0, SIZE, 16384)}
    assert {request.headers["if-range"] for request in server.gets()} == {'"v1"'}


def test_ranges_share_connections(server, fetch):
    fetch(server.url + "/model.pt")
    assert len(server._threads) <= 5


def test_the_default_engine_is_the_documented_one(small, http, bench, fetch):
    (file,) = fetch.list(small.url + "/model.pt").files
    done = download(http, file, bench.part(file), progress=bench.progress, cancel=bench.cancel)
    assert done.sha256 == hashlib.sha256(small.content).hexdigest()
    assert bench.options.retry != RetryPolicy()


def test_empty_file_needs_no_bytes(fault_server, fetch, bench):
    assert fetch(fault_server.url + "/empty").size == 0
    assert bench.bytes() == b""


def test_truncated_stream_is_resumed_where_it_ended(small, fetch, bench, act):
    small.script.append(act(cut=20_000))
    fetch(small.url + "/model.pt")
    assert bench.bytes() == small.content
    assert small.gets()[1].headers["range"] == "bytes=20000-49999"
    assert bench.progress.retries == 1
    assert bench.progress.received_bytes == len(small.content)


def test_reset_connection_is_resumed(small, fetch, bench, act):
    small.script.append(act(cut=20_000, reset=True))
    fetch(small.url + "/model.pt")
    assert bench.bytes() == small.content


def test_file_without_validator_starts_over(small, fetch, bench, act):
    small.etag = None
    small.script.append(act(cut=20_000))
    fetch(small.url + "/model.pt")
    assert bench.bytes() == small.content
    assert "range" not in small.gets()[-1].headers
    assert bench.progress.done_bytes == len(small.content)
    assert bench.progress.received_bytes == len(small.content) + 20_000


def test_large_file_without_validator_is_one_stream(server, fetch, bench):
    server.etag = None
    fetch(server.url + "/model.pt")
    assert bench.bytes() == server.content
    assert len([request for request in server.gets() if "range" not in request.headers]) == 1


def test_weak_etag_is_no_validator(small, fetch, bench, act):
    small.etag = 'W/"v1"'
    small.script.append(act(cut=20_000))
    fetch(small.url + "/model.pt")
    assert bench.bytes() == small.content
    assert "if-range" not in small.gets()[-1].headers


def test_whole_file_as_answer_to_a_range_ends_in_one_stream(server, fetch, bench, act):
    server.script.append(act(ignore_range=True))
    fetch(server.url + "/model.pt")
    assert bench.bytes() == server.content
    assert bench.progress.done_bytes == SIZE


def test_server_that_never_does_ranges_still_serves(server, fetch, bench, act):
    server.paths["/model.pt"] = act(ignore_range=True)
    fetch(server.url + "/model.pt")
    assert bench.bytes() == server.content


@pytest.mark.parametrize(
    "wrong",
    [
        *(None, "0-9", "pages 1-2/3", "bytes */200000"),
        *("bytes 5-9/200000", "bytes 0-0/*", "bytes 9-1/200000"),
    ],
)
def test_range_that_does_not_say_what_it_is_is_not_used(server, fetch, bench, act, wrong):
    server.script.append(act(headers={"Content-Range": wrong}))
    fetch(server.url + "/model.pt")
    assert bench.bytes() == server.content


@pytest.mark.parametrize("shift", [-1, 1])
def test_shifted_range_is_not_used(fault_server, make_content, fetch, bench, act, shift):
    fault_server.content = make_content(50_000)
    fault_server.script.extend([act(cut=20_000), act(shift=shift)])
    fetch(fault_server.url + "/model.pt")
    assert bench.bytes() == fault_server.content
    assert "range" not in fault_server.gets()[-1].headers


def test_range_with_a_length_that_contradicts_it_is_not_used(server, fetch, bench, act):
    server.script.append(act(body=b"x" * 100))
    fetch(server.url + "/model.pt")
    assert bench.bytes() == server.content


def test_range_without_etag_is_not_used(server, fetch, bench, act):
    server.script.append(act(headers={"ETag": None}))
    fetch(server.url + "/model.pt")
    assert bench.bytes() == server.content
    # A worker that was still connecting may ask for its range after the whole file was asked for.
    assert any("range" not in request.headers for request in server.gets())


def test_shorter_range_than_asked_for_is_taken_and_gone_on_from(small, fetch, bench, act):
    less = act(
        body=small.content[20_000:26_000], headers={"Content-Range": "bytes 20000-25999/50000"}
    )
    small.script.extend([act(cut=20_000), less])
    fetch(small.url + "/model.pt")
    assert bench.bytes() == small.content
    assert small.gets()[2].headers["range"] == "bytes=26000-49999"


def test_connection_that_closes_early_without_a_length_is_noticed(small, fetch, bench, act):
    small.script.append(act(headers={"Content-Length": None}, cut=20_000))
    fetch(small.url + "/model.pt")
    assert bench.bytes() == small.content
    assert small.gets()[1].headers["range"] == "bytes=20000-49999"


def test_whole_answer_without_the_listed_etag_needs_a_digest(small, fetch, bench, act):
    small.paths["/nameless"] = act(headers={"ETag": None})
    (file,) = fetch.list(small.url + "/model.pt").files
    file = replace(file, locator=small.url + "/nameless")
    with pytest.raises(WeightChanged, match="sha256 in an HTTPWeight"):
        bench.run(fetch.origin, file)
    digest = hashlib.sha256(small.content).hexdigest()
    bench.run(fetch.origin, replace(file, digests={"sha256": digest}))
    assert bench.bytes() == small.content


@pytest.mark.parametrize("size", [50_000, SIZE])
def test_etag_changed_between_ranges_is_never_mixed(fault_server, make_content, fetch, act, size):
    fault_server.content = make_content(size)
    other = act(content=make_content(size, seed=1), etag='"v2"')
    fault_server.script.extend([act(cut=5_000), *[other] * 20])
    with pytest.raises(WeightChanged, match="changed on the server"):
        fetch(fault_server.url + "/model.pt")


def test_another_length_under_the_same_etag_is_another_object(small, fetch, make_content, act):
    small.script.append(act(content=make_content(50_001)))
    with pytest.raises(WeightChanged, match="50001 bytes"):
        fetch(small.url + "/model.pt")


def test_object_that_shrank_is_another_object(small, fetch, act, make_content):
    small.script.extend([act(cut=20_000), act(content=make_content(10), etag=small.etag)])
    with pytest.raises(WeightChanged):
        fetch(small.url + "/model.pt")


def test_chunked_answer_of_known_size_is_held_to_it(small, fetch, bench, act, make_content):
    small.etag = None
    small.script.append(act(chunked=True))
    fetch(small.url + "/model.pt")
    assert bench.bytes() == small.content
    small.script.append(act(chunked=True, content=small.content + b"more"))
    with pytest.raises(WeightChanged, match="longer"):
        fetch(small.url + "/model.pt")


def test_chunked_answer_of_unknown_size_is_whole(small, fetch, bench, act):
    small.paths["/model.pt"] = act(chunked=True, ignore_range=True)
    small.head_script.append(act(headers={"Content-Length": None}))
    (file,) = fetch.list(small.url + "/model.pt").files
    assert file.size is None
    done = bench.run(fetch.origin, file)
    assert (done.size, bench.bytes()) == (50_000, small.content)


def test_truncated_chunks_are_noticed(small, fetch, bench, act):
    small.head_script.append(act(headers={"Content-Length": None}))
    small.script.extend([act(chunked=True, ignore_range=True), act(chunked=True, cut=30_000)])
    (file,) = fetch.list(small.url + "/model.pt").files
    assert file.size is None
    bench.run(fetch.origin, file)
    assert bench.bytes() == small.content
    assert bench.progress.retries == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Length": "abc"},
        {"Content-Length": "-5"},
        {"Content-Length": "1_0"},
        {"Content-Length": None, "Transfer-Encoding": "identity"},
    ],
)
def test_a_length_that_is_none_does_not_make_a_broken_answer_whole(small, fetch, act, headers):
    small.paths["/model.pt"] = act(headers=headers, ignore_range=True, cut=30_000)
    with pytest.raises(WeightSourceInvalid, match="neither a length nor a checksum"):
        fetch(small.url + "/model.pt")


def test_a_body_that_is_compressed_on_the_way_is_refused(small, fetch, bench, act):
    (file,) = fetch.list(small.url + "/model.pt").files
    coded = {"Transfer-Encoding": "gzip, chunked", "Content-Length": None}
    small.paths["/model.pt"] = act(headers=coded)
    for ask in (lambda: fetch.list(small.url + "/model.pt"), lambda: bench.run(fetch.origin, file)):
        with pytest.raises(WeightSourceInvalid, match="Transfer-Encoding 'gzip, chunked'"):
            ask()


def test_answer_without_any_length_is_refused_unless_a_digest_tells(small, fetch, bench, act):
    endless = act(headers={"Content-Length": None}, ignore_range=True)
    small.paths["/model.pt"] = endless
    (file,) = fetch.list(small.url + "/model.pt").files
    with pytest.raises(WeightSourceInvalid, match="neither a length nor a checksum"):
        bench.run(fetch.origin, file)
    digest = hashlib.sha256(small.content).hexdigest()
    bench.run(fetch.origin, replace(file, digests={"sha256": digest}))
    assert bench.bytes() == small.content


def test_flipped_bit_is_fetched_again(server, fetch, bench, act):
    digest = hashlib.sha256(server.content).hexdigest()
    # Whichever range comes first, it is damaged.
    server.script.append(act(content=bytes(byte ^ 1 for byte in server.content)))
    fetch(server.url + "/model.pt", sha256=digest)
    assert bench.bytes() == server.content
    assert bench.progress.done_bytes == SIZE
    assert () in bench.saved


def test_wrong_digest_is_corrupt_after_two_downloads(small, fetch, bench):
    with pytest.raises(WeightCorrupt, match="do not match their sha256, twice"):
        fetch(small.url + "/model.pt", sha256="0" * 64)
    assert len(small.gets()) == 2
    assert bench.saved[-1] == ()


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_server_trouble_is_retried(small, fetch, bench, act, status):
    small.script.extend([act(status=status)] * 3)
    fetch(small.url + "/model.pt")
    assert bench.bytes() == small.content
    assert bench.progress.retries == 3


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, WeightSourceInvalid),
        (401, WeightAccessDenied),
        (403, WeightAccessDenied),
        (404, WeightNotFound),
        (410, WeightNotFound),
        (412, WeightChanged),
        (416, WeightChanged),
        (418, WeightUnreachable),
        (204, WeightUnreachable),
    ],
)
def test_refusals_are_not_retried(small, fetch, bench, act, status, kind):
    small.script.append(act(status=status))
    with pytest.raises(kind, match=str(status)) as caught:
        fetch(small.url + "/model.pt?token=canary")
    assert "canary" not in str(caught.value)
    assert len(small.gets()) == 1
    assert bench.delays == []


def test_retry_after_is_honoured_up_to_two_minutes(small, fetch, bench, act):
    small.script.append(act(status=429, headers={"Retry-After": "7"}))
    small.script.append(act(status=503, headers={"Retry-After": "86400"}))
    fetch(small.url + "/model.pt")
    assert bench.delays == [7.0, 120.0]


def test_attempts_without_progress_end(small, fetch, bench, act):
    small.paths["/model.pt"] = act(status=503)
    (file,) = fetch.list(small.url + "/other").files
    with pytest.raises(WeightUnreachable, match="4 attempts without progress"):
        bench.run(fetch.origin, replace(file, locator=small.url + "/model.pt"))
    assert len(small.gets()) == 4


def test_progress_starts_the_count_again(small, fetch, bench, act):
    small.script.extend([act(cut=5_000)] * 9)
    fetch(small.url + "/model.pt")
    assert bench.bytes() == small.content


def test_a_byte_at_a_time_is_no_progress(small, fetch, act):
    small.script.extend([act(cut=1)] * 9)
    with pytest.raises(WeightUnreachable, match="without progress"):
        fetch(small.url + "/model.pt")


def test_stalled_connection_is_given_up(small, fetch, bench, act):
    small.script.append(act(cut=10_000, stall=True))
    bench.options = replace(bench.options, slow_window_s=0.2)
    fetch(small.url + "/model.pt")
    assert bench.bytes() == small.content
    assert small.gets()[1].headers["range"] == "bytes=10000-49999"


def test_server_that_never_answers_is_given_up(small, fetch, bench, act):
    small.script.append(act(raw=b"HTTP/1.1 200 OK\r\n", stall=True))
    fetch.origin = HTTPOrigin(OriginOptions(timeout_s=0.2))
    fetch(small.url + "/model.pt")
    assert bench.bytes() == small.content


def test_slow_connection_is_given_up_for_a_new_one(small, fetch, bench, act):
    small.script.append(act(pause_s=0.02))
    bench.options = replace(bench.options, slow_bytes_per_s=50_000, slow_window_s=0.2)
    fetch(small.url + "/model.pt")
    assert bench.bytes() == small.content
    assert bench.progress.retries >= 1
    assert int(small.gets()[1].headers["range"].split("=")[1].split("-")[0]) > 0


def test_stalled_connection_is_given_up_where_a_new_one_begins_at_0(small, fetch, bench, act):
    small.etag = None
    small.script.append(act(cut=10_000, stall=True))
    bench.options = replace(bench.options, slow_window_s=0.2)
    fetch(small.url + "/model.pt")
    assert bench.bytes() == small.content
    assert len(small.gets()) >= 2


def test_garbage_is_a_broken_connection(small, fetch, bench, act):
    small.script.append(act(raw=b"SSH-2.0-OpenSSH_9.2\r\n"))
    fetch(small.url + "/model.pt")
    assert bench.bytes() == small.content


def test_download_goes_on_from_saved_extents(server, http, fetch, bench):
    (file,) = fetch.list(server.url + "/model.pt").files
    extents = ((0, 100_000), (120_000, 180_000))
    content = server.content
    bench.path.write_bytes(content[:100_000] + bytes(20_000) + content[120_000:180_000])
    done = bench.run(http, file, bench.part(file, extents))
    assert bench.bytes() == server.content
    assert done.sha256 == hashlib.sha256(server.content).hexdigest()
    assert bench.progress.resumed_bytes == 160_000
    assert bench.progress.received_bytes == 40_000
    assert bench.progress.done_bytes == SIZE


def test_extents_of_another_object_are_not_used(server, http, fetch, bench):
    (file,) = fetch.list(server.url + "/model.pt").files
    bench.path.write_bytes(bytes(SIZE + 10))
    part = replace(bench.part(file, ((0, 100_000),)), validator='"v0"')
    bench.run(http, file, part)
    assert bench.bytes() == server.content
    assert bench.saved[0] == ()
    assert bench.progress.resumed_bytes == 0


def test_extents_beyond_the_file_are_not_believed(server, http, fetch, bench):
    (file,) = fetch.list(server.url + "/model.pt").files
    bench.path.write_bytes(server.content[:50_000])
    bench.run(http, file, bench.part(file, ((0, 100_000),)))
    assert bench.bytes() == server.content


def test_damaged_extents_are_fetched_again(server, http, fetch, bench):
    (file,) = fetch.list(server.url + "/model.pt").files
    file = replace(file, digests={"sha256": hashlib.sha256(server.content).hexdigest()})
    bench.path.write_bytes(bytes(100_000))
    bench.run(http, file, bench.part(file, ((0, 100_000),)))
    assert bench.bytes() == server.content


def test_finished_part_asks_for_nothing(server, http, fetch, bench):
    (file,) = fetch.list(server.url + "/model.pt").files
    bench.path.write_bytes(server.content)
    server.requests.clear()
    bench.run(http, file, bench.part(file, ((0, SIZE),)))
    assert server.requests == []


def test_extents_are_saved_in_the_calling_thread_and_never_ahead_of_the_data(
    server, fetch, bench, act
):
    threads = set()

    def on_extents(extents):
        threads.add(threading.current_thread())
        written = bench.path.read_bytes()
        for start, stop in extents:
            assert written[start:stop] == server.content[start:stop]

    bench.on_extents = on_extents
    bench.options = replace(bench.options, connections=1, range_bytes=4096, save_bytes=1)
    server.script.extend([act(cut=2_000)] * 30)
    bench.clock = Clock(wait=lambda event, s: event.wait(0.01))
    fetch(server.url + "/model.pt")
    assert threads == {threading.current_thread()}
    assert bench.saved


@pytest.mark.parametrize(
    ("size", "every"),
    [(None, 4), (64 * MiB, 4), (1024 * MiB, 1024 / 100), (10_240 * MiB, 64)],
)
def test_a_crash_costs_a_hundredth_of_a_large_file_and_at_most_64_mib(size, every):
    assert TransferOptions().save_every(size) == int(every * MiB)


def test_cancel_stops_a_stalled_download_and_keeps_what_came(server, fetch, bench, act):
    server.script.extend([act(cut=5_000, stall=True)] * 4)
    bench.on_extents = lambda extents: bench.cancel.set()
    with pytest.raises(DownloadCancelled):
        fetch(server.url + "/model.pt")
    (*_, last) = bench.saved
    assert sum(stop - start for start, stop in last) > 0
    written = bench.bytes()
    assert all(written[a:b] == server.content[a:b] for a, b in last)


def test_cancelled_before_it_began_asks_for_nothing(server, fetch, bench):
    (file,) = fetch.list(server.url + "/model.pt").files
    server.requests.clear()
    bench.cancel.set()
    with pytest.raises(DownloadCancelled):
        bench.run(fetch.origin, file)
    assert server.requests == []


def test_error_of_the_keeper_of_extents_passes_through(server, fetch, bench):
    def full(extents):
        raise DiskFull("no room for the index")

    bench.on_extents = full
    bench.options = replace(bench.options, save_bytes=1)
    server.script.clear()
    with pytest.raises(DiskFull, match="no room for the index"):
        _slowly(server, fetch, bench)


def _slowly(server, fetch, bench):
    """A download whose last range waits until extents were saved at least once."""
    gate = threading.Event()
    inner = bench.on_extents

    def on_extents(extents):
        gate.set()
        inner(extents)

    bench.on_extents = on_extents
    opened = fetch.origin.open

    class Gated:
        def open(self, file, start=0, stop=None):
            if start >= 16384 * 8:
                gate.wait(10)
            return opened(file, start, stop)

    (file,) = fetch.list(server.url + "/model.pt").files
    return bench.run(Gated(), file)


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, DiskFull), (errno.EDQUOT, DiskFull), (errno.EIO, CacheUnusable)],
)
def test_disk_trouble_is_told_as_such(small, fetch, monkeypatch, number, kind):
    def broken(fd, data, offset):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("thalamus_lite.weights.transfer.part.os.pwrite", broken)
    with pytest.raises(kind, match=os.strerror(number)):
        fetch(small.url + "/model.pt")


def test_short_writes_are_completed(small, fetch, bench, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr(
        "thalamus_lite.weights.transfer.part.os.pwrite",
        lambda fd, data, at: real(fd, data[:1000], at),
    )
    fetch(small.url + "/model.pt")
    assert bench.bytes() == small.content


@pytest.mark.parametrize("size", [50_000, SIZE])
def test_part_that_cannot_be_read_back_is_told(server, fetch, monkeypatch, size):
    def broken(fd, n, offset):
        raise OSError(errno.EIO, "input/output error")

    server.content = server.content[:size]
    monkeypatch.setattr("thalamus_lite.weights.transfer.part.os.pread", broken)
    with pytest.raises(CacheUnusable):
        fetch(server.url + "/model.pt")


def test_part_in_a_folder_that_is_gone_is_told(small, fetch, bench):
    bench.folder = bench.folder / "missing"
    with pytest.raises(CacheUnusable, match="THALAMUS_CACHE_DIR"):
        fetch(small.url + "/model.pt")


def test_link_in_the_place_of_the_part_is_not_followed(small, fetch, bench, tmp_path):
    bench.path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CacheUnusable):
        fetch(small.url + "/model.pt")
    assert not (tmp_path / "elsewhere").exists()


def test_no_thread_and_no_descriptor_stays(server, fetch):
    fetch(server.url + "/model.pt")
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("thalamus-weights")]


def test_origin_that_knows_digests_is_asked_for_them(small, fetch, bench):
    class Knows:
        def __init__(self, digests):
            self.known = digests

        def digests(self, file):
            return self.known

        def open(self, file, start=0, stop=None):
            return fetch.origin.open(file, start, stop)

    (file,) = fetch.list(small.url + "/model.pt").files
    bench.run(Knows({"md5": hashlib.md5(small.content).hexdigest()}), file)
    with pytest.raises(WeightCorrupt, match="md5"):
        bench.run(Knows({"md5": "0" * 32}), file)
    sha256 = {"sha256": hashlib.sha256(small.content).hexdigest()}
    bench.run(Knows({"sha256": "0" * 64}), replace(file, digests=sha256))


class Blocking:
    """An origin of which one request hangs while it connects, and another fails."""

    def __init__(self, origin, error):
        self.origin = origin
        self.error = error
        self.release = threading.Event()
        self.hanging = threading.Event()
        self.late = threading.Event()
        self.closed = threading.Event()

    def open(self, file, start=0, stop=None):
        if start == 0:
            # The answer is there, and only hands itself over late.
            body = self.origin.open(file, start, stop)
            self.hanging.set()
            self.release.wait(10)
            return self._watched(body)
        if start == 16384:
            self.hanging.wait(10)
            raise self.error
        return self.origin.open(file, start, stop)

    def _watched(self, body):
        close = body.close

        def closed():
            close()
            self.closed.set()

        body.close = closed
        return body


def test_failure_does_not_wait_for_a_worker_that_is_connecting(server, http, fetch, bench):
    (file,) = fetch.list(server.url + "/model.pt").files
    origin = Blocking(http, WeightNotFound("gone"))
    with pytest.raises(WeightNotFound, match="gone"):
        bench.run(origin, file)
    written = bench.bytes()
    origin.release.set()
    assert origin.closed.wait(10)
    assert bench.bytes() == written


def test_late_failure_of_a_stopped_worker_changes_nothing(server, http, fetch, bench):
    (file,) = fetch.list(server.url + "/model.pt").files
    origin = Blocking(http, WeightNotFound("gone"))
    ended = threading.Event()

    def fails(*args):
        ended.set()
        raise WeightUnreachable("late")

    origin._watched = fails
    with pytest.raises(WeightNotFound, match="gone"):
        bench.run(origin, file)
    done = bench.progress.done_bytes
    origin.release.set()
    assert ended.wait(10)
    assert bench.progress.done_bytes == done


def test_cancel_ends_a_pause_between_attempts(small, fetch, bench, act):
    paused = threading.Event()

    def wait(event, delay):
        paused.set()
        event.wait(10)

    bench.clock = Clock(wait=wait)
    small.script.append(act(status=503, headers={"Retry-After": "100"}))
    canceller = threading.Thread(target=lambda: (paused.wait(10), bench.cancel.set()))
    canceller.start()
    with pytest.raises(DownloadCancelled):
        fetch(small.url + "/model.pt")
    canceller.join()


def test_error_outside_the_tree_is_raised_in_the_callers_thread(server, fetch, bench):
    class Broken:
        def open(self, file, start=0, stop=None):
            raise RuntimeError("a bug")

    (file,) = fetch.list(server.url + "/model.pt").files
    with pytest.raises(RuntimeError, match="a bug"):
        bench.run(Broken(), file)


def test_body_without_abort_is_read_to_its_end(server, fetch, bench, act):
    class Plain:
        def __init__(self, body):
            self.body = body
            self.status, self.start = body.status, body.start
            self.total, self.validator = body.total, body.validator

        def read(self, n):
            return self.body.read(n)

        def close(self):
            self.body.close()

    class Wrapped:
        def open(self, file, start=0, stop=None):
            return Plain(fetch.origin.open(file, start, stop))

    (file,) = fetch.list(server.url + "/model.pt").files
    bench.run(Wrapped(), file)
    assert bench.bytes() == server.content
    server.script.append(act(status=404))
    bench.path.unlink()
    with pytest.raises(WeightNotFound):
        bench.run(Wrapped(), file)


def test_part_that_became_shorter_meanwhile_is_told(small, fetch, bench, monkeypatch):
    monkeypatch.setattr("thalamus_lite.weights.transfer.part.os.pread", lambda *args: b"")
    with pytest.raises(CacheUnusable, match="read back"):
        fetch(small.url + "/model.pt")


def test_longer_leftover_is_cut_to_size(small, fetch, bench):
    bench.path.write_bytes(bytes(90_000))
    fetch(small.url + "/model.pt")
    assert bench.bytes() == small.content


def test_bytes_given_up_while_they_are_hashed_do_not_count(bench, make_content):
    from thalamus_lite.weights.transfer.part import PartWriter

    data = make_content(300)
    part = PartFile(bench.path, 300, "v", (), lambda extents: None)
    writer = PartWriter(part, {})
    writer.write(0, data)
    update = writer._verifier.update

    class Forgetting:
        """The verifier in the middle of whose block everything is given up."""

        def update(self, block):
            update(block)
            assert writer.forget() == 300

    writer._verifier = Forgetting()
    writer._hash_block()
    writer.write(0, data[::-1])
    assert writer.finish(300).sha256 == hashlib.sha256(data[::-1]).hexdigest()
    writer.close()


def test_follower_that_cannot_read_is_heard_of(bench, monkeypatch):
    from thalamus_lite.weights.transfer.part import PartWriter

    def broken(*args):
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr("thalamus_lite.weights.transfer.part.os.pread", broken)
    part = PartFile(bench.path, 300, "v", (), lambda extents: None)
    writer = PartWriter(part, {})
    writer.follow()
    writer.follow()
    writer.write(0, bytes(300))
    with pytest.raises(CacheUnusable):
        writer.finish(300)
    writer.close()


def test_file_that_cannot_be_cut_is_told(small, fetch, bench, monkeypatch):
    def broken(*args):
        raise OSError(errno.EIO, "input/output error")

    bench.path.write_bytes(bytes(90_000))
    monkeypatch.setattr("thalamus_lite.weights.transfer.part.os.ftruncate", broken)
    with pytest.raises(CacheUnusable):
        fetch(small.url + "/model.pt")
