"""Servers under test: started on a core of their own, asked until they answer, accounted for,
stopped with all their children.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

ROOT = Path(__file__).resolve().parent.parent
SERVER_CORE = 0
CLIENT_CORE = 1
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_LOG_TAIL = 1500
_UNWANTED = ("PYTHONHOME", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")
_UNWANTED_PREFIXES = ("THALAMUS_", "BENCH_", "LIT_SERVER_", "MLSERVER_", "BENTOML_", "RAY_")
_KILL_S = 5.0


class CannotStart(RuntimeError):
    """The server never answered 200; the text has the end of what it printed."""


@dataclass(frozen=True)
class Call:
    """One request, as every client of the benchmarks sends it."""

    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "POST"


@dataclass(frozen=True)
class Launch:
    """How a server is started. ``{port}`` in the command stands for its port."""

    command: tuple[str, ...]
    ready: Call
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path = ROOT
    start_s: float = 60.0
    core: int = SERVER_CORE


def pinned(core: int, command: tuple[str, ...]) -> tuple[str, ...]:
    """``command`` on one core, where the machine has it and ``taskset``."""
    if shutil.which("taskset") and core in os.sched_getaffinity(0):
        return ("taskset", "-c", str(core), *command)
    return command


def environment(**more: str) -> dict[str, str]:
    """Ours, with the repository to import from, without what sets a server up in another way."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in _UNWANTED and not name.startswith(_UNWANTED_PREFIXES)
    }
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """``with Server(launch) as server``: running and answering inside, gone after."""

    def __init__(self, launch: Launch, poll_s: float = 0.02) -> None:
        self.launch = launch
        self.port = free_port()
        self.started_in_s = 0.0
        self._poll_s = poll_s
        self._process: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        command = pinned(
            self.launch.core, tuple(part.format(port=self.port) for part in self.launch.command)
        )
        env = environment(**self.launch.env)
        begun = time.perf_counter()
        self._process = subprocess.Popen(
            command,
            cwd=self.launch.cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            self._wait_ready(begun + self.launch.start_s)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        self.started_in_s = time.perf_counter() - begun
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        process = self._process
        if process is not None:
            family = {pid: _stat(pid)[19] for pid in self.pids() if _stat(pid)}
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(8)
            for pid, born in family.items():
                _end(pid, born)
            process.wait()
        self._log.close()

    def pids(self) -> list[int]:
        """The server's process and all that descend from it."""
        assert self._process is not None
        children: dict[int, list[int]] = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit() and (stat := _stat(int(entry))):
                children.setdefault(int(stat[1]), []).append(int(entry))
        found = [self._process.pid]
        for pid in found:
            found += children.get(pid, [])
        return found

    def cpu_s(self) -> float:
        """User and system seconds of the whole family so far, children that have ended included."""
        ticks = 0
        for pid in self.pids():
            if stat := _stat(pid):
                ticks += sum(int(value) for value in stat[11:15])
        return ticks / _TICKS

    def rss_bytes(self) -> int:
        """Resident bytes of the whole family; what forked children share is counted once for
        each.
        """
        return sum(int(stat[21]) * _PAGE for pid in self.pids() if (stat := _stat(pid)))

    def get(self, path: str) -> int | None:
        """The status of a GET without a key."""
        return ask(self.port, Call(path, method="GET"))

    def output(self) -> str:
        """The end of what the server printed."""
        self._log.seek(0)
        return self._log.read().decode("utf-8", "replace")[-_LOG_TAIL:].strip()

    def _wait_ready(self, until: float) -> None:
        assert self._process is not None
        said = "no connection"
        while time.perf_counter() < until:
            if self._process.poll() is not None:
                raise CannotStart(f"ended with {self._process.returncode}: {self.output()}")
            status = ask(self.port, self.launch.ready)
            if status == 200:
                return
            said = "no connection" if status is None else f"status {status}"
            time.sleep(self._poll_s)
        raise CannotStart(f"{said} after {self.launch.start_s:.0f} s: {self.output()}")


def ask(port: int, call: Call) -> int | None:
    """The status of one request, or None where nothing answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(call.method, call.path, call.body or None, dict(call.headers))
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _end(pid: int, born: str) -> None:
    """Kill a process that is still there, and wait until it runs no more."""
    until = time.monotonic() + _KILL_S
    # With another start time the number belongs to somebody else by now; Z has ended already.
    while (stat := _stat(pid)) and stat[19] == born and stat[0] != "Z":
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        if time.monotonic() > until:
            return
        time.sleep(0.005)


def _stat(pid: int) -> list[str]:
    """The fields of ``/proc/<pid>/stat`` from the state on; empty when the process is gone.

    [0] is the state, [1] the parent, [11:15] the user and system ticks, its own and its ended
    children's, [19] the start time and [21] the resident pages.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    # The name, in brackets, may hold anything.
    return text[text.rindex(")") + 2 :].split()
