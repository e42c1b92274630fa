"""How long until it serves, and how much memory does that take? Row 12."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks import peers
from benchmarks.answer import Answer, Plot, Table
from benchmarks.closed_loop import BadRun
from benchmarks.processes import SERVER_CORE, Server, pinned
from benchmarks.rounds import Rounds

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.peers import Peer
    from benchmarks.run import Run

MODULES = {"thalamus-lite": "thalamus_lite", "thalamus-serve": "thalamus_serve"}
PEERS = {"thalamus-lite": peers.OURS, "thalamus-serve": peers.THALAMUS_SERVE}
_POLL_S = 0.002


@dataclass(frozen=True)
class Start:
    """Seconds, and bytes with one model ready."""

    import_s: float
    ready_s: float
    rss: int


FIGURES: dict[str, Callable[[Start], float]] = {
    "import": lambda start: start.import_s,
    "rss": lambda start: float(start.rss),
    "spawn": lambda start: start.ready_s,
}


def estimate_s(run: Run) -> float:
    return (run.rounds(4) * run.pick(4, 2) + 2) * 3


def measure(run: Run) -> Answer:
    answer = Answer()
    rounds: Rounds[Start] = Rounds()
    with run.reporting(answer, "start-up"):
        for name in MODULES:
            # The first start writes the bytecode, which is not what is asked.
            _start(run, name)
            run.step(f"{name}: bytecode", 3)
        for _ in range(run.rounds(4)):
            rounds.begin()
            for name in run.order(*MODULES):
                rounds.add(name, _start(run, name))
                run.step(f"{name}: start", 3)
        for goal, read in FIGURES.items():
            value = rounds.ratio("thalamus-lite", "thalamus-serve", read)
            answer.read(f"12 {goal}", value)
        rows = tuple(
            (
                name,
                rounds.figure(name, FIGURES["import"]) * 1e3,
                rounds.figure(name, FIGURES["spawn"]) * 1e3,
                rounds.figure(name, FIGURES["rss"]) / 1e6,
            )
            for name in MODULES
        )
        columns = ("server", "import ms", "spawn → first 200 ms", "RSS MB, ready")
        note = "One model without weights; each in an environment of its own, without extras."
        answer.tables.append(Table("Start-up", columns, rows, note))
        bars = {
            name: (("import", imported), ("spawn → first 200", ready))
            for name, imported, ready, _ in rows
        }
        answer.plots.append(Plot("startup", "Start-up", "", "ms", bars, kind="bar"))
    return answer


def _start(run: Run, name: str) -> Start:
    peer: Peer = PEERS[name]
    python = run.environments.python(peer)
    with Server(peer.launch(python), poll_s=_POLL_S) as server:
        return Start(_import_s(str(python), MODULES[name]), server.started_in_s, server.rss_bytes())


def _import_s(python: str, module: str) -> float:
    code = (
        "import time; begun = time.perf_counter()\n"
        f"from {module} import Thalamus\n"
        "print(time.perf_counter() - begun)"
    )
    # Beside an idle server, so on its core.
    done = subprocess.run(
        pinned(SERVER_CORE, (python, "-c", code)), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BadRun(f"importing {module} failed: {done.stderr[-300:]}")
    return float(done.stdout)
