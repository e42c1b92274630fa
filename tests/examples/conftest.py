"""Runs an example as its README tells a reader to: its commands, its requests, its answers.

Each example is copied to a folder of its own first: training leaves nothing in the repository.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import signal
import socket
import string
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from packaging.requirements import Requirement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EXAMPLES = Path(__file__).parents[2] / "examples"
# What a slow machine may take; a test waits for the event and not for the time.
START_S = 120.0
STOP_S = 60.0


@dataclass(frozen=True)
class Request:
    path: str
    headers: dict[str, str]
    body: bytes | None = None

    @classmethod
    def from_curl(cls, command: str, folder: Path) -> Request:
        """Read a ``curl URL -H HEADER -d DATA`` line; ``-d @name`` is a file of ``folder``."""
        url, headers, body = "", {}, None
        words = iter(shlex.split(command)[1:])
        for word in words:
            if word == "-H":
                name, _, value = next(words).partition(": ")
                headers[name] = value
            elif word == "-d":
                data = next(words)
                body = (folder / data[1:]).read_bytes() if data[0] == "@" else data.encode()
            else:
                url = word
        host, slash, path = url.partition("/")
        assert host == "localhost:8000", command
        return cls(slash + path, headers, body)


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Server:
    """A running example. ``key`` is the header that its README's key goes into."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path
    key: dict[str, str]

    def ask(self, request: Request) -> Answer:
        method = "GET" if request.body is None else "POST"
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_S)
        ) as connection:
            connection.request(method, request.path, request.body, request.headers)
            response = connection.getresponse()
            return Answer(response.status, response.read())

    def get(self, path: str) -> Answer:
        return self.ask(Request(path, self.key))

    def predict(self, *inputs: object, path: str = "/predict") -> Answer:
        body = json.dumps({"inputs": inputs}).encode()
        return self.ask(Request(path, {**self.key, "Content-Type": "application/json"}, body))

    def wait_until_ready(self, path: str) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            # A connection waits in the listening socket until the server is up, so there is no
            # refusal to poll for: it ends here when the server dies.
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.get(path).status == 200:
                    return
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        pytest.fail(f"the server did not become ready:\n{self.log.read_text()}")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            pytest.fail(f"the server did not stop on SIGTERM:\n{self.log.read_text()}")
        # uvicorn raises the signal again once it has shut down in order.
        log = self.log.read_text()
        assert code in (0, -signal.SIGTERM), log
        assert "Traceback" not in log, log


@dataclass
class Example:
    name: str
    folder: Path
    environ: dict[str, str] = field(default_factory=dict)

    @cached_property
    def readme(self) -> str:
        return (self.folder / "README.md").read_text(encoding="utf-8")

    def blocks(self, language: str) -> list[str]:
        return re.findall(rf"^```{language}\n(.*?)^```$", self.readme, re.DOTALL | re.MULTILINE)

    def commands(self, program: str) -> list[str]:
        """The commands of the README that start with ``program``, its variables filled in."""
        lines = [command for block in self.blocks("bash") for command in _commands(block)]
        variables = dict(
            line.removeprefix("export ").split("=", 1)
            for line in lines
            if line.startswith("export ")
        )
        filled = [string.Template(line).safe_substitute(variables) for line in lines]
        return [line for line in filled if line.split()[0] == program]

    @property
    def requests(self) -> list[Request]:
        return [Request.from_curl(command, self.folder) for command in self.commands("curl")]

    @property
    def answers(self) -> list[Any]:
        """The JSON blocks of the README."""
        return [json.loads(block) for block in self.blocks("json")]

    @property
    def environment(self) -> dict[str, str]:
        """What the README exports, on top of an environment without settings of ours."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("THALAMUS_")}
        exported = dict(
            command.split(None, 1)[1].split("=", 1) for command in self.commands("export")
        )
        scripts = str(Path(sys.executable).parent)
        return {
            **inherited,
            "PATH": scripts + os.pathsep + inherited.get("PATH", os.defpath),
            "PYTHONDONTWRITEBYTECODE": "1",
            "THALAMUS_CACHE_DIR": str(self.folder / "cache"),
            **exported,
            **self.environ,
        }

    def run(self, command: str) -> str:
        """Run a command of the README and return what it prints."""
        assert command in self.readme
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextlib.contextmanager
    def serve(self, command: list[str] | None = None, ready: str = "/ready") -> Iterator[Server]:
        """Run the README's ``uvicorn`` command on a free port until the block ends."""
        if command is None:
            [line] = self.commands("uvicorn")
            command = shlex.split(line)
        log = self.folder / "server.log"
        # The socket is bound here and handed over, so that no other process can take the port.
        with socket.create_server(("127.0.0.1", 0)) as listener, log.open("wb") as output:
            port = listener.getsockname()[1]
            process = subprocess.Popen(
                [sys.executable, "-m", *command, "--fd", str(listener.fileno())],
                cwd=self.folder,
                env=self.environment,
                pass_fds=[listener.fileno()],
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        key = {"X-API-Key": self.environment["THALAMUS_API_KEY"]}
        server = Server(port, process, log, key)
        try:
            server.wait_until_ready(ready)
            yield server
        except BaseException:
            process.kill()
            process.wait()
            raise
        server.stop()


def _commands(block: str) -> Iterator[str]:
    """The commands of a bash block; one goes on while a backslash or an open quote says so."""
    pending = ""
    for line in block.splitlines():
        pending += line
        if pending.endswith("\\"):
            pending = pending[:-1]
            continue
        try:
            shlex.split(pending)
        except ValueError:
            pending += "\n"
            continue
        if pending.strip():
            yield pending.strip()
        pending = ""
    assert not pending, f"an open quote in {block!r}"


def _missing(name: str) -> list[str]:
    missing = []
    for path in sorted((EXAMPLES / name).glob("requirements*.txt")):
        for line in path.read_text().splitlines():
            requirement = Requirement(line)
            try:
                version = importlib.metadata.version(requirement.name)
            except importlib.metadata.PackageNotFoundError:
                missing.append(line)
                continue
            if not requirement.specifier.contains(version, prereleases=True):
                missing.append(line)
    return missing


@pytest.fixture(scope="session")
def open_example(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Example]:
    """Copy an example; skip where a package that it needs is absent."""

    def open_one(name: str) -> Example:
        if missing := _missing(name):
            pytest.skip(f"examples/{name} needs {', '.join(missing)}")
        folder = tmp_path_factory.mktemp("examples") / name
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(EXAMPLES / name, folder, ignore=ignore)
        return Example(name, folder)

    return open_one


def _assert_answers(answer: Answer, expected: dict[str, Any], tolerance: float) -> None:
    """``answer`` is ``expected`` but for times and for what training may change in a number."""
    assert answer.status == 200, answer.body
    body = answer.json
    assert body["meta"].keys() == expected["meta"].keys()
    for name in ("model", "version", "batch_size", "device"):
        assert body["meta"][name] == expected["meta"][name]
    for name in ("preprocessing_ms", "inference_ms", "postprocessing_ms"):
        assert (body["meta"][name] is None) == (expected["meta"][name] is None)
    assert len(body["outputs"]) == len(expected["outputs"])
    for got, wanted in zip(body["outputs"], expected["outputs"], strict=True):
        assert got.keys() == wanted.keys()
        for name, value in wanted.items():
            if isinstance(value, float):
                assert got[name] == pytest.approx(value, abs=tolerance)
            else:
                assert got[name] == value


@pytest.fixture(scope="session")
def assert_answers() -> Callable[[Answer, dict[str, Any], float], None]:
    return _assert_answers
