"""What the tests of the lifecycle share: doors in models, apps, backends, child processes.

tests/conftest.py loads it, so that other folders can import it too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from thalamus_lite import Thalamus, composition
from thalamus_lite.batching.channel import LIMIT
from thalamus_lite.devices.streams import NoStreams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pytest

    from thalamus_lite.engine import Engine
    from thalamus_lite.serving.runtime import ModelRuntime
    from thalamus_lite.testing import AsyncClient

KEY = "the-key-of-these-tests"
PATIENCE_S = 30.0
"""How long a wait may take before it is a failure. No test needs a part of it."""


class In(BaseModel):
    text: str


class Out(BaseModel):
    text: str


class Door:
    """A place in a hook where the thread stays until ``open()``; ``entered`` counts who came."""

    def __init__(self) -> None:
        self.entered = 0
        self._came = threading.Semaphore(0)
        self._open = threading.Event()

    def wait(self) -> None:
        self.entered += 1
        self._came.release()
        if not self._open.wait(PATIENCE_S):
            raise TimeoutError("nobody opened the door")

    async def reached(self) -> None:
        """Until one more has come to the door."""
        await until(lambda: self._came.acquire(blocking=False))

    def open(self) -> None:
        self._open.set()

    def shut(self) -> None:
        self._open.clear()


async def until(condition: Callable[[], Any], what: str = "the condition") -> None:
    """Wait for something that nothing announces."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come true")
        await asyncio.sleep(0.001)


def body(*texts: str, model: str | None = None) -> dict[str, Any]:
    return {"model": model, "inputs": [{"text": text} for text in texts]}


def answers(response: Any) -> list[str]:
    """The texts of a 200."""
    assert response.status == 200, response.text
    return [output["text"] for output in response.json()["outputs"]]


def engine_of(app: Thalamus) -> Engine:
    engine = app._starts.engine
    assert engine is not None
    return engine


def runtime_of(app: Thalamus, key: str) -> ModelRuntime:
    return engine_of(app).service.runtimes[key]


def state_of(app: Thalamus, key: str) -> str:
    return runtime_of(app, key).state_name


def lanes_alive(model: str) -> list[threading.Thread]:
    """The lane threads of a model."""
    return [thread for thread in threading.enumerate() if thread.name.startswith(f"{model}@")]


async def counted(client: AsyncClient, name: str, **labels: str) -> float:
    """One figure of ``/metrics``; 0.0 where there is none."""
    text = (await client.get("/metrics")).text
    for line in text.splitlines():
        found, _, value = line.rpartition(" ")
        if found.partition("{")[0] == name and all(
            f'{key}="{label}"' in found for key, label in labels.items()
        ):
            return float(value)
    return 0.0


class Own(BaseException):
    """What a user may derive, and few expect."""


BEYOND_EXCEPTION: list[BaseException] = [
    SystemExit("no"),
    GeneratorExit("no"),
    asyncio.CancelledError("no"),
    BaseExceptionGroup("no", [Own()]),
    Own("no"),
]


class Memory(MemoryError):
    """A device that is full."""


class Lost(RuntimeError):
    """A device whose context is gone."""


class FakeDevice(NoStreams):
    """A backend that knows the two errors above, and counts what it was asked."""

    def __init__(self) -> None:
        self.emptied = 0

    def is_out_of_memory(self, error: BaseException) -> bool:
        return isinstance(error, Memory)

    def is_fatal(self, error: BaseException) -> bool:
        return isinstance(error, Lost)

    def empty_cache(self, device: str) -> None:
        self.emptied += 1


def use_backend(monkeypatch: pytest.MonkeyPatch, backend: FakeDevice) -> None:
    monkeypatch.setattr(composition.torch_backend, "backend_for", lambda _device: backend)


class Line:
    """One request at the ASGI level, whose answer is taken only when the reader asks for it."""

    def __init__(self, app: Any, payload: dict[str, Any], **headers: str) -> None:
        import json

        self.sent: list[dict[str, Any]] = []
        self.reads = asyncio.Semaphore(0)
        self.gone = asyncio.Event()
        self.answering = asyncio.Event()
        self._body = json.dumps(payload).encode()
        self._given = False
        pairs = {"x-api-key": KEY, "content-type": "application/json", **headers}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "path": "/predict",
            "query_string": b"",
            "root_path": "",
            "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in pairs.items()],
        }
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if not self._given:
            self._given = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        self.answering.set()
        await self.reads.acquire()
        self.sent.append(message)

    async def blocked(self, channel: Any) -> None:
        """Until the model of this stream waits for its reader, who reads nothing."""
        await self.answering.wait()
        # Its first outputs were taken, which sets both; only a producer that waits clears them.
        await until(
            lambda: (
                len(channel._items) == LIMIT
                and not (channel._space.is_set() and channel._drained.is_set())
            )
        )

    async def end(self) -> None:
        """Read all that is still to come."""
        for _ in range(100_000):
            self.reads.release()
        await self.task

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent).decode()


HEAD = """
import asyncio, os, sys, threading, time
from pathlib import Path
from pydantic import BaseModel
from thalamus_lite import Thalamus

class In(BaseModel):
    text: str

class Out(BaseModel):
    text: str

def say(word):
    print(word, flush=True)

"""

TAIL = """

if __name__ == "__main__":
    import socket, uvicorn
    server = uvicorn.Server(uvicorn.Config(app, lifespan="on", log_level="warning"))
    listener = socket.socket(fileno=int(sys.argv[1]))
    server.run(sockets=[listener])
"""


class Server:
    """A child process with an app in it, behind a socket that this process has bound."""

    def __init__(self, folder: Path, code: str, env: dict[str, str] | None = None) -> None:
        script = folder / "served.py"
        script.write_text(HEAD + textwrap.dedent(code) + TAIL)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        fd = self._listener.fileno()
        self.log = folder / "log.txt"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(script), str(fd)],
                pass_fds=[fd],
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "THALAMUS_API_KEY": KEY, **(env or {})},
            )
        # The child has its own; with ours open, a closed listener would still take connections.
        self._listener.close()

    def wait_for(self, word: str) -> None:
        """Until the app says ``word``."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.decode().strip() == word:
                return
        raise AssertionError(f"the server ended before it said {word!r}:\n{self.log.read_text()}")

    def kill(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def ended(self, within_s: float = PATIENCE_S) -> int:
        """Its exit code."""
        return self.process.wait(within_s)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextlib.contextmanager
def serving(folder: Path, code: str, **env: str) -> Iterator[Server]:
    server = Server(folder, code, env)
    try:
        yield server
    finally:
        server.close()


class Wire:
    """One keep-alive HTTP/1.1 connection."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        self._file = self.socket.makefile("rb")

    def send(self, method: str, path: str, content: bytes = b"", *headers: str) -> None:
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: test",
            f"X-API-Key: {KEY}",
            f"Content-Length: {len(content)}",
            *headers,
        ]
        self.socket.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + content)

    def predict(self, *texts: str, model: str | None = None) -> None:
        import json

        self.send("POST", "/predict", json.dumps(body(*texts, model=model)).encode())

    def read(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next answer.

        Raises:
            EOFError: the server closed the connection instead.
        """
        first = self._file.readline()
        if not first:
            raise EOFError
        headers: dict[str, str] = {}
        while (line := self._file.readline().strip()) != b"":
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        return int(first.split()[1]), headers, self._file.read(int(headers["content-length"]))

    def ask(self, method: str, path: str) -> tuple[int, dict[str, str], bytes]:
        self.send(method, path)
        return self.read()

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
