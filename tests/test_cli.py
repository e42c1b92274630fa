"""The ``thalamus-lite`` command, as a person uses it: what it prints, and its exit code."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from thalamus_lite import __version__, cli, server
from thalamus_lite.default import DefaultApp
from thalamus_lite.errors import CacheUnusable
from thalamus_lite.server import COLLECTOR_THRESHOLDS

if TYPE_CHECKING:
    from collections.abc import Iterator

MODULE = """
from pydantic import BaseModel
from thalamus_lite import FileWeight, HTTPWeight, Thalamus

class In(BaseModel):
    text: str

class Out(BaseModel):
    text: str

app = Thalamus()

@app.model(model_id="m", {options})
class Model:
    def load(self, weights, device):
        raise AssertionError("a check loads nothing")

    def predict(self, inputs: list[In]) -> list[Out]:
        return [Out(text=item.text) for item in inputs]
"""


EMPTY = """
from thalamus_lite import Thalamus

app = Thalamus()

def served(scope, receive, send): ...
"""


class Web:
    """An HTTP server of files with ETags; ``asked`` counts the bodies that it sent."""

    def __init__(self) -> None:
        self.files = {"/model.bin": b"weights" * 100}
        self.bodies = 0
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = web.files.get(self.path)
                self.send_response(200 if body is not None else 404)
                self.send_header("Content-Length", str(len(body or b"")))
                self.send_header("ETag", f'"{hash(body)}"')
                self.end_headers()
                if self.command == "GET" and body:
                    web.bodies += 1
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def web() -> Iterator[Web]:
    web = Web()
    thread = threading.Thread(target=web.server.serve_forever, args=(0.01,))
    thread.start()
    yield web
    web.server.shutdown()
    thread.join()
    web.server.server_close()


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THALAMUS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("THALAMUS_CACHE_MIN_FREE_GB", "0")
    monkeypatch.setattr(cli, "configure", lambda level: None)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    """``run(*words)``: exit code, standard output, standard error."""

    def call(*words: str) -> tuple[int, str, str]:
        code = cli.main(words)
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"thalamus-lite {__version__}\n"


@pytest.mark.parametrize("words", [[], ["cache"], ["nonsense"], ["cache", "rm"], ["fetch"]])
def test_wrong_command_line_is_a_2_with_the_usage(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2
    assert "usage: thalamus-lite" in capsys.readouterr().err


def test_fetch_prints_the_path_and_fetches_once(run: Any, web: Web, tmp_path: Path) -> None:
    code, out, _ = run("fetch", f"{web.url}/model.bin")
    assert code == 0
    assert (tmp_path / "cache") in (path := type(tmp_path)(out.strip())).parents
    assert path.read_bytes() == web.files["/model.bin"]
    assert run("fetch", f"{web.url}/model.bin")[:2] == (0, out)
    assert web.bodies == 1


@pytest.mark.parametrize(("level", "lines"), [("INFO", 1), ("WARNING", 0)])
def test_fetch_without_a_terminal_logs_what_it_brings(web: Web, level: str, lines: int) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "thalamus_lite", "fetch", f"{web.url}/model.bin"],
        env={**os.environ, "THALAMUS_LOG_LEVEL": level},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.endswith("/model.bin\n")
    said = [json.loads(line)["event"] for line in ended.stderr.splitlines()]
    assert len(said) == lines
    assert all(line.startswith(f"downloaded {web.url}/model.bin: 700 B") for line in said)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("nowhere", "write s3://bucket/key"),
        ("s3://", "write s3://bucket/key"),
        ("ftp://example.com/file", "write s3://bucket/key"),
        ("{web}/missing.bin", "404"),
        ("http://127.0.0.1:1/model.bin", "no connection"),
    ],
)
def test_fetch_that_cannot_be_done_is_a_sentence(
    run: Any, web: Web, source: str, says: str
) -> None:
    code, out, err = run("fetch", source.format(web=web.url))
    assert (code, out) == (1, "")
    assert err.startswith("thalamus-lite: ")
    assert says in err
    assert "Traceback" not in err


def test_cache_ls_of_an_empty_cache(run: Any, tmp_path: Path) -> None:
    code, out, _ = run("cache", "ls")
    assert (code, out) == (0, f"0 of 50,000,000,000 bytes in 0 files, {tmp_path / 'cache'}\n")


def test_cache_ls_verify_rebuild_and_rm(run: Any, web: Web, tmp_path: Path) -> None:
    web.files["/other.bin"] = b"other"
    for name in ("model.bin", "other.bin"):
        run("fetch", f"{web.url}/{name}")
    code, listed, _ = run("cache", "ls")
    assert code == 0
    # The last used first.
    assert [line.split()[-1] for line in listed.splitlines()[:2]] == [
        f"{web.url}/other.bin",
        f"{web.url}/model.bin",
    ]
    assert "705 of 50,000,000,000 bytes in 2 files" in listed
    code, out, _ = run("cache", "verify")
    assert (code, out.count("  ok\n")) == (0, 2)
    (tmp_path / "cache" / "index.db").unlink()
    assert run("cache", "rebuild")[:2] == (0, "2 entries\n")
    ident = next(line for line in listed.splitlines() if "other" in line).split()[0]
    code, out, _ = run("cache", "rm", ident)
    assert (code, out.splitlines()[-1]) == (0, "5 bytes freed")
    assert run("cache", "rm", f"{web.url}/model.bin")[0] == 0
    assert run("cache", "ls")[1].startswith("0 of ")


def test_a_rebuild_on_request_does_not_speak_of_damage(
    run: Any, web: Web, caplog: pytest.LogCaptureFixture
) -> None:
    run("fetch", f"{web.url}/model.bin")
    assert run("cache", "rebuild")[:2] == (0, "1 entries\n")
    assert "damaged" not in caplog.text


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full")
@pytest.mark.parametrize("command", [["cache", "ls"], ["check"]], ids=lambda given: given[0])
def test_output_that_cannot_be_written_is_a_sentence(command: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "thalamus_lite", *command],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == (
        f"thalamus-lite: the output cannot be written ({os.strerror(errno.ENOSPC)})\n"
    )


@pytest.mark.parametrize("command", [["cache", "ls"], ["check"]], ids=lambda given: given[0])
def test_reader_that_has_seen_enough_is_no_failure(command: list[str]) -> None:
    here, there = os.pipe()
    os.close(here)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "thalamus_lite", *command],
            stdout=there,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(there)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("port", ["65536", "-1", "0" * 20 + "80", "x", "8" * 5000, "1_0"])
def test_port_that_is_none_is_refused(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["serve", "--port", port])
    assert ended.value.code == 2
    assert "is no number from 0 to 65535" in capsys.readouterr().err


def test_cache_verify_drops_what_is_damaged(run: Any, web: Web, tmp_path: Path) -> None:
    for name in ("model.bin", "other.bin"):
        web.files[f"/{name}"] = name.encode() * 50
        run("fetch", f"{web.url}/{name}")
    (path,) = (tmp_path / "cache").glob("entries/*/files/model.bin")
    path.chmod(0o644)
    path.write_bytes(b"x" * path.stat().st_size)
    code, out, _ = run("cache", "verify")
    assert code == 1
    (damaged,) = [line for line in out.splitlines() if "DAMAGED (removed)" in line]
    assert f"{web.url}/model.bin" in damaged
    assert run("cache", "verify")[0] == 0
    code, out, _ = run("fetch", f"{web.url}/model.bin")
    assert type(tmp_path)(out.strip()).read_bytes() == web.files["/model.bin"]


def test_cache_verify_says_what_it_could_not_do(
    run: Any, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    from thalamus_lite.weights import maintenance

    def fail(*_: Any) -> str:
        raise CacheUnusable("no more descriptors")

    run("fetch", f"{web.url}/model.bin")
    monkeypatch.setattr(maintenance, "_problem", fail)
    code, out, _ = run("cache", "verify")
    assert (code, out.split("  ", 2)[2]) == (1, "FAILED: no more descriptors\n")


def test_cache_rm_leaves_what_is_in_use_and_says_so(run: Any, web: Web) -> None:
    from thalamus_lite import HTTPWeight, get_cache

    run("fetch", f"{web.url}/model.bin")
    with get_cache().acquire(HTTPWeight(urls=(f"{web.url}/model.bin",))) as lease:
        code, out, _ = run("cache", "rm", "--all")
        assert (code, "in use" in out) == (1, True)
        assert lease.path.exists()
    code, out, _ = run("cache", "rm", "--all")
    assert (code, out.splitlines()[-1]) == (0, "700 bytes freed")


@pytest.fixture
def unfinished(web: Web) -> Any:
    """The name of a download that was given up with 100 bytes of it on the disk, and its folder."""
    from thalamus_lite.weights.index.records import Claim, Part
    from thalamus_lite.weights.storage import get_cache

    store = get_cache().store()
    claim = Claim("k" * 64, "1" * 64, "s3://bucket/half", "half", 100, store.system.boot_id())
    store.index.reserve(claim, 1000)
    store.index.save_part(claim.ident, 0, Part("t", 200, "v", ((0, 100),), claim.boot_id))
    folder = store.layout.partial(claim.ident)
    folder.mkdir()
    (folder / "0.t.part").write_bytes(b"x" * 100)
    return claim.name, folder


@pytest.mark.parametrize("every", [True, False])
def test_cache_rm_removes_a_download_that_nobody_is_at(
    run: Any, web: Web, unfinished: Any, every: bool
) -> None:
    name, folder = unfinished
    run("fetch", f"{web.url}/model.bin")
    assert "FETCHING" in run("cache", "ls")[1]
    code, out, _ = run("cache", "rm", "--all" if every else name)
    assert (code, f"removed  {name}" in out) == (0, True)
    assert f"\n{800 if every else 100} bytes freed" in out
    assert not folder.exists()
    assert "FETCHING" not in run("cache", "ls")[1]
    assert (f"{web.url}/model.bin" in run("cache", "ls")[1]) is not every


@pytest.mark.parametrize("every", [True, False])
def test_cache_rm_leaves_a_download_that_somebody_is_at(
    run: Any, unfinished: Any, every: bool
) -> None:
    name, folder = unfinished
    fd = os.open(folder, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    code, out, _ = run("cache", "rm", "--all" if every else name)
    assert (code, out) == (1, f"in use   {name}\n0 bytes freed\n")
    assert (folder / "0.t.part").exists()
    assert "FETCHING" in run("cache", "ls")[1]
    os.close(fd)
    assert run("cache", "rm", name)[0] == 0


def test_cache_rm_of_an_unknown_name_is_a_sentence(run: Any) -> None:
    code, out, err = run("cache", "rm", "nothing-like-it")
    assert (code, out) == (1, "")
    assert "nothing-like-it" in err
    assert "cache ls" in err


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``module(name, options)`` writes a module with one model to where it can be imported."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("THALAMUS_API_KEY", "k")

    def write(name: str, options: str = "", text: str = MODULE) -> str:
        (tmp_path / f"{name}.py").write_text(text.replace("{options}", options))
        monkeypatch.delitem(sys.modules, name, raising=False)
        return f"{name}:app"

    return write


def test_check_of_an_app_that_would_start(run: Any, module: Any, tmp_path: Path, web: Web) -> None:
    (tmp_path / "words.txt").write_text("good")
    app = module(
        "checked_fine",
        f'weights={{"a": FileWeight("{tmp_path}/words.txt"),'
        f' "b": HTTPWeight(urls=["{web.url}/model.bin"])}}',
    )
    code, out, _ = run("check", app)
    assert code == 0
    assert [line[:4] for line in out.splitlines()] == ["ok  "] * 4
    assert "In -> Out" in out
    assert "1 file(s), 700 bytes, to be fetched" in out
    assert web.bodies == 0
    run("fetch", f"{web.url}/model.bin")
    assert "700 bytes, cached" in run("check", app)[1]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ('weights={"a": FileWeight("nowhere/words.txt")}', "nowhere/words.txt"),
        ('weights={"a": HTTPWeight(urls=["http://127.0.0.1:1/x"])}', "no connection"),
        ("require_gpu=True", "requires a GPU but"),
    ],
)
def test_check_of_an_app_that_would_not(run: Any, module: Any, options: str, says: str) -> None:
    code, out, _ = run("check", module("checked_bad", options))
    assert code == 1
    (failed,) = [line for line in out.splitlines() if line.startswith("FAIL")]
    assert says in failed


def test_check_says_each_thing_on_one_line(run: Any, module: Any) -> None:
    start = "class Out(BaseModel):\n    text: "
    text = MODULE.replace(f"{start}str", f'{start}"Nowhere"')
    code, out, _ = run("check", module("checked_schema", "input_type=In, output_type=Out", text))
    assert code == 1
    assert {line[:4] for line in out.splitlines()} == {"ok  ", "FAIL"}
    assert "FAIL  m@1.0.0: the output type " in out
    assert " is not complete: a name in its annotations is not defined" in out


def test_check_when_offline_asks_nobody(
    run: Any, module: Any, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = module("checked_offline", f'weights={{"a": HTTPWeight(urls=["{web.url}/model.bin"])}}')
    monkeypatch.setenv("THALAMUS_OFFLINE", "1")
    code, out, _ = run("check", app)
    assert code == 1
    assert "is not cached, and THALAMUS_OFFLINE is set" in out
    monkeypatch.delenv("THALAMUS_OFFLINE")
    run("fetch", f"{web.url}/model.bin")
    web.files.clear()
    monkeypatch.setenv("THALAMUS_OFFLINE", "1")
    code, out, _ = run("check", app)
    assert code == 0
    assert "is cached" in out


def test_check_warns_of_what_only_limits(
    run: Any, module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = module("checked_warned", 'device="cuda:9"')
    monkeypatch.delenv("THALAMUS_API_KEY")
    code, out, _ = run("check", app)
    assert code == 0
    warned = [line for line in out.splitlines() if line.startswith("warn")]
    assert len(warned) == 2
    assert "THALAMUS_API_KEY" in warned[0]
    assert "will run on the CPU" in warned[1]


def test_check_warns_of_weights_that_nobody_loads(run: Any, module: Any, tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"w")
    weights = f'weights={{"w": FileWeight("{tmp_path}/w.bin")}}'
    code, out, _ = run("check", module("checked_loads", weights))
    assert (code, "\nwarn" in out) == (0, False)
    loadless = MODULE.replace("load(", "lood(")
    code, out, _ = run("check", module("checked_loadless", weights, loadless))
    assert code == 0
    assert "warn  m@1.0.0: has weights, and no load(self, weights, device)" in out


def test_check_looks_into_the_key_file(
    run: Any, module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = module("checked_keys")
    monkeypatch.delenv("THALAMUS_API_KEY")
    monkeypatch.setenv("THALAMUS_API_KEY_FILE", str(tmp_path / "keys"))
    code, out, _ = run("check", app)
    assert code == 1
    assert "FAIL  THALAMUS_API_KEY_FILE cannot be read" in out
    (tmp_path / "keys").write_text("# none")
    code, out, _ = run("check", app)
    assert code == 0
    assert "warn  THALAMUS_API_KEY_FILE holds no key" in out


@pytest.mark.parametrize(
    ("app", "says"),
    [
        ("checked_nothing", "module:attribute"),
        ("no_such_module:app", "ModuleNotFoundError"),
        ("checked_empty:nothing", "has no attribute 'nothing'"),
        ("checked_empty:Thalamus", "is the class Thalamus, not a Thalamus app"),
        ("checked_empty:app", "no model is registered"),
        ("checked_empty:served", "is a function, not a Thalamus app"),
        ("checked_broken:app", "raised ZeroDivisionError: division by zero ("),
        ("checked_broken:app", "checked_broken.py, line 1)"),
        ("checked_exits:app", "FAIL  importing checked_exits raised SystemExit: 4"),
        ("checked_load:app", "TypeError: m: load() cannot be called as load(weights, device)"),
        (".checked_empty:app", "module:attribute"),
    ],
)
def test_check_of_what_is_no_app(run: Any, module: Any, app: str, says: str) -> None:
    module("checked_empty", text=EMPTY)
    module("checked_broken", text="1 / 0\n")
    module("checked_exits", text="import sys\nsys.exit(4)\n")
    module("checked_load", text=MODULE.replace("weights, device", "weights"))
    code, out, _ = run("check", app)
    assert code == 1
    assert says in out


def test_check_of_the_default_app(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THALAMUS_API_KEY", "k")
    code, out, _ = run("check")
    assert code == 0
    assert "digits@1.0.0" in out


def test_setting_that_cannot_be_read_is_a_sentence(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THALAMUS_CACHE_MAX_GB", "much")
    for words in (["cache", "ls"], ["fetch", "http://127.0.0.1:1/x"], ["serve"]):
        code, _, err = run(*words)
        assert code == 1
        assert "THALAMUS_CACHE_MAX_GB" in err


def test_ctrl_c_while_it_works_is_no_traceback(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_cache", interrupted)
    assert run("cache", "ls")[0] == 130


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--port", "65536"], "argument --port: '65536' is no number from 0 to 65535"),
        (["--port", "-1"], "argument --port"),
        (["--port", "http"], "argument --port: 'http' is no number"),
        (["--workers", "0"], "argument --workers: '0' is no number from 1 to 1024"),
        (["--workers", "9" * 5000], "argument --workers"),
    ],
)
def test_serve_refuses_numbers_that_cannot_be(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["serve", *words])
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


NOT_SERVED = [
    ("serve_empty:nothing", "serve_empty has no attribute 'nothing'"),
    ("serve_empty:Thalamus", "is the class Thalamus, not a Thalamus app"),
    ("serve_empty:__name__", "is a str, not a Thalamus app"),
    ("serve_missing:app", "importing serve_missing raised ModuleNotFoundError: No module named"),
    ("serve_broken:app", "importing serve_broken raised ZeroDivisionError: division by zero ("),
    ("serve_exits:app", "importing serve_exits raised SystemExit: 0"),
]


def write_not_served(module: Any) -> None:
    module("serve_empty", text=EMPTY)
    module("serve_broken", text="1 / 0\n")
    module("serve_exits", text="import sys\nsys.exit(0)\n")


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What would have been served."""
    apps: list[Any] = []
    monkeypatch.setattr(server, "run", lambda app, **options: apps.append(app))
    return apps


@pytest.mark.parametrize(("app", "says"), NOT_SERVED)
def test_serve_of_what_is_no_app_is_a_sentence(
    app: str, says: str, run: Any, module: Any, served: list[Any]
) -> None:
    write_not_served(module)
    code, _, err = run("serve", app)
    assert (code, served) == (1, [])
    assert err.splitlines()[-1].startswith("thalamus-lite: ")
    assert says in err.splitlines()[-1]
    # What went wrong in the user's own code is shown, and nothing else.
    assert ("Traceback" in err) == (app in ("serve_broken:app", "serve_exits:app"))


@pytest.mark.parametrize(("app", "says"), NOT_SERVED[::4])
def test_serve_by_workers_tries_the_app_elsewhere_first(
    app: str, says: str, module: Any, served: list[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    write_not_served(module)
    with pytest.raises(SystemExit) as ended:
        cli.main(["serve", app, "--workers", "2"])
    assert (ended.value.code, served) == (1, [])
    assert says in capfd.readouterr().err
    assert app.partition(":")[0] not in sys.modules


@pytest.mark.parametrize("workers", ["1", "2"])
def test_serve_of_the_default_app_tells_of_modules_that_raise(
    workers: str,
    module: Any,
    served: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    write_not_served(module)
    monkeypatch.setattr("thalamus_lite.default.app", DefaultApp())
    monkeypatch.setenv("THALAMUS_MODELS", "serve_exits")
    code: object
    try:
        code = cli.main(["serve", "thalamus_lite.default:app", "--workers", workers])
    except SystemExit as ended:
        code = ended.code
    assert (code, served) == (1, [])
    err = capfd.readouterr().err
    assert err.count("Traceback") == 1
    assert err.splitlines()[-1].startswith(
        "thalamus-lite: THALAMUS_MODELS names 'serve_exits': importing serve_exits raised SystemEx"
    )


def test_import_that_ends_its_process_is_a_sentence(
    run: Any, module: Any, served: list[Any]
) -> None:
    module("serve_ends", text="import os\nos._exit(9)\n")
    code, _, err = run("serve", "serve_ends:app", "--workers", "2")
    assert (code, served) == (1, [])
    assert "importing serve_ends:app ended its process, with 9" in err


def test_app_that_wraps_a_thalamus_is_served(run: Any, module: Any, served: list[Any]) -> None:
    module("serve_wrapped", text=EMPTY)
    assert run("serve", "serve_wrapped:served")[0] == 0
    assert run("serve", "serve_wrapped:served", "--workers", "2")[0] == 0
    assert served == ["serve_wrapped:served"] * 2


MODULE_COMMAND = [sys.executable, "-m", "thalamus_lite"]

# Python puts the folder of a script on the path, and with -m the working directory.
SCRIPT_COMMAND = [str(Path(sys.executable).with_name("thalamus-lite"))]


@contextmanager
def serving(
    tmp_path: Path, *words: str, command: list[str] = MODULE_COMMAND
) -> Iterator[tuple[int, subprocess.Popen[bytes], Path]]:
    """``thalamus-lite serve`` in ``tmp_path``: its port, its process and its log."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "serve", *words, "--port", str(port)],
            env={**os.environ, "THALAMUS_API_KEY": "k"},
            cwd=tmp_path,
            stdout=out,
            stderr=out,
        )
    try:
        yield port, process, log
    finally:
        process.kill()
        process.wait()


APP_OF_WORKERS = """
import gc, os
from thalamus_lite import Thalamus

app = Thalamus()

@app.model(model_id="m")
class Model:
    def predict(self, inputs: list[int]) -> list[list[int]]:
        return [[os.getpid(), *gc.get_threshold()] for _ in inputs]
"""


# It disables the loggers that are there.
CONFIGURES_LOGGING = """
import logging.config
logging.config.dictConfig({"version": 1})
"""


def test_every_worker_is_set_up_like_a_single_one(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(APP_OF_WORKERS + CONFIGURES_LOGGING)
    words = ("mine:app", "--workers", "2")
    with serving(tmp_path, *words, command=SCRIPT_COMMAND) as (port, process, log):
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/predict",
            b'{"inputs":[0]}',
            {"X-API-Key": "k", "Content-Type": "application/json"},
        )
        workers: dict[int, list[int]] = {}
        deadline = time.monotonic() + 30
        while len(workers) < 2:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            try:
                with urllib.request.urlopen(request) as answer:
                    pid, *thresholds = json.load(answer)["outputs"][0]
                    workers[pid] = thresholds
            except OSError:
                time.sleep(0.02)
        assert list(workers.values()) == [list(COLLECTOR_THRESHOLDS)] * 2
        process.send_signal(signal.SIGINT)
        process.wait(30)
    said = log.read_text()
    assert said.count('"event": "m@1.0.0 loaded on cpu') == 2
    assert said.count('"event": "m@1.0.0 unloaded"') == 2
    assert "Traceback" not in said


def test_workers_that_cannot_start_end_the_whole_with_a_code(tmp_path: Path) -> None:
    refused = APP_OF_WORKERS.replace('model_id="m"', "require_gpu=True")
    (tmp_path / "mine.py").write_text(refused)
    with serving(tmp_path, "mine:app", "--workers", "2") as (_, process, log):
        assert process.wait(60) == server.COULD_NOT_START, log.read_text()
    assert "requires a GPU" in log.read_text()


def test_serve_serves_and_ends_well_on_ctrl_c(tmp_path: Path) -> None:
    with serving(tmp_path) as (port, process, log):
        deadline = time.monotonic() + 30
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready") as answer:
                    assert answer.status == 200
                    # What the server is made of is nobody's business.
                    assert answer.headers["server"] is None
                    assert answer.headers["date"]
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) in (0, 130, -signal.SIGINT)
    said = log.read_text()
    assert '"event": "digits@1.0.0 unloaded"' in said
    assert "Traceback" not in said
