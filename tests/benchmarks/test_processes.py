from __future__ import annotations

import os
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from benchmarks.closed_loop import BadRun
from benchmarks.processes import Call, CannotStart, Launch, Server, pinned

from benchmarks import closed_loop

READY = Call("/", method="GET")
SERVER = """
    import http.server, os, subprocess, sys, threading
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send_response(int(os.environ.get("STATUS", 200)) if self.path != "/" else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def launch(tmp_path: Path, code: str = SERVER, **options: Any) -> Launch:
    script = tmp_path / "server.py"
    script.write_text(textwrap.dedent(code))
    return Launch((sys.executable, str(script), "{port}"), READY, **options)


def runs(pid: int) -> bool:
    """Whether it is there, and more than a zombie that nobody has asked after yet."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_server_answers_inside_and_is_gone_after_with_its_children(tmp_path: Path) -> None:
    with Server(launch(tmp_path)) as server:
        family = server.pids()
        assert server.get("/") == 200
        assert len(family) == 2
        assert server.started_in_s > 0
    assert server.get("/") is None
    assert not any(runs(pid) for pid in family)


def test_figures_are_of_the_whole_family(tmp_path: Path) -> None:
    with Server(launch(tmp_path)) as server:
        assert server.cpu_s() > 0
        # Two interpreters.
        assert server.rss_bytes() > 10_000_000


def test_server_that_ends_is_told_with_what_it_said(tmp_path: Path) -> None:
    code = "raise SystemExit('no such model')"
    with (
        pytest.raises(CannotStart, match="ended with 1: no such model"),
        Server(launch(tmp_path, code)),
    ):
        raise AssertionError("it must not start")


def test_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    code = "import time; print('still loading', flush=True); time.sleep(600)"
    with (
        pytest.raises(CannotStart, match=r"no connection after 1 s: still loading"),
        Server(launch(tmp_path, code, start_s=1.0)),
    ):
        raise AssertionError("it must not start")


def test_command_is_pinned_only_to_a_core_that_is_there() -> None:
    assert pinned(100_000, ("x",)) == ("x",)
    core = min(os.sched_getaffinity(0))
    if shutil.which("taskset"):
        assert pinned(core, ("x",)) == ("taskset", "-c", str(core), "x")


needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")


@needs_wrk
def test_closed_loop_counts_requests_and_cpu(tmp_path: Path) -> None:
    with Server(launch(tmp_path)) as server:
        seen = closed_loop.run(server, READY, 2, 1)
    assert seen.rps > 0
    assert seen.cpu_us > 0
    assert 0 < seen.p50_us <= seen.p99_us


@needs_wrk
def test_answers_other_than_200_are_no_figure(tmp_path: Path) -> None:
    with (
        Server(launch(tmp_path, env={"STATUS": "503"})) as server,
        pytest.raises(BadRun, match="not 2xx"),
    ):
        closed_loop.run(server, Call("/busy", method="GET"), 2, 1)


@needs_wrk
def test_wrk_sends_body_and_headers_byte_for_byte(ok_server: Any) -> None:
    body = bytes(range(256))
    headers = {"X-Quote": 'a "b" \\ c'}
    closed_loop.wrk(f"http://127.0.0.1:{ok_server.port}", Call("/p", body, headers), 1, 1)
    request = ok_server.requests[0]
    assert request.startswith(b"POST /p HTTP/1.1\r\n")
    assert b'X-Quote: a "b" \\ c\r\n' in request
    assert request.endswith(b"\r\n\r\n" + body)


def test_absent_wrk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_args, **_options: None)
    with pytest.raises(closed_loop.Missing, match="wrk is not installed"):
        closed_loop.wrk("http://127.0.0.1:1", READY, 1, 1)
