"""How many instructions does a request take in the application alone? Row 3b, and the regression
figure of the hot path.

The ASGI callable is driven in process under callgrind, so neither the server nor the machine's
speed has a part in it: of all the figures it is the one that can be compared across days.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import peers
from benchmarks.answer import Answer, Plot, Table
from benchmarks.closed_loop import BadRun, Missing
from benchmarks.processes import ROOT, environment
from benchmarks.servers.work import KEY

if TYPE_CHECKING:
    from benchmarks.peers import Peer
    from benchmarks.run import Run

_TOTAL = re.compile(r"^(?:summary|totals): (\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Case:
    name: str
    peer: Peer
    model: str


CASES = (
    Case("floor", peers.FLOOR, ""),
    Case("thalamus-lite, lane", peers.OURS, "lane"),
    Case("thalamus-lite, async", peers.OURS_ASYNC, "async"),
    Case("thalamus-serve", peers.THALAMUS_SERVE, "lane"),
)


def _cases(run: Run) -> tuple[Case, ...]:
    # Its imports alone take callgrind most of a minute.
    return CASES[:-1] if run.quick else CASES


def estimate_s(run: Run) -> float:
    return run.pick(90, 25)


def measure(run: Run) -> Answer:
    answer = Answer()
    counted: dict[str, tuple[float, float]] = {}

    def one(case: Case) -> None:
        with run.reporting(answer, f"instructions: {case.name}"):
            counted[case.name] = _count(run, case, int(run.pick(200, 50)))
        run.step(f"callgrind: {case.name}", estimate_s(run) / len(_cases(run)))

    # Side by side: another process changes the time that instructions take, and not their number.
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, _cases(run)))
    _report(answer, counted)
    return answer


def _count(run: Run, case: Case, requests: int) -> tuple[float, float]:
    """Instructions a request in the first and in the second ``requests``: alike, or something still
    warms up.
    """
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise Missing("valgrind is not installed: install it with the system's package manager")
    python = str(run.environments.python(case.peer))
    module = f"benchmarks.servers.{case.peer.module}"
    with tempfile.TemporaryDirectory() as folder:
        tool = (
            valgrind,
            "--tool=callgrind",
            "--dump-before=ctermid",
            f"--callgrind-out-file={folder}/out",
        )
        driver = (python, "-m", "benchmarks.questions.drive", module, case.model, str(requests))
        done = subprocess.run(
            (*tool, *driver),
            cwd=ROOT,
            env=environment(PYTHONHASHSEED="0", THALAMUS_API_KEY=KEY),
            capture_output=True,
            text=True,
            timeout=540,
            check=False,
        )
        if done.returncode:
            raise BadRun(f"callgrind ended with {done.returncode}: {done.stderr[-400:]}")
        # The first dump has all that came before the first mark.
        totals = [_total(Path(folder, f"out.{number}")) for number in (2, 3)]
    return totals[0] / requests, totals[1] / requests


def _total(path: Path) -> int:
    try:
        found = _TOTAL.search(path.read_text())
    except OSError as error:
        raise BadRun(f"callgrind wrote no {path.name}") from error
    if found is None:
        raise BadRun(f"callgrind's {path.name} has no total")
    return int(found[1])


def _report(answer: Answer, counted: dict[str, tuple[float, float]]) -> None:
    names = [case.name for case in CASES if case.name in counted]
    theirs = counted.get("thalamus-serve")
    ours = counted.get("thalamus-lite, async")
    if theirs and ours:
        answer.read("3b", ours[1] / theirs[1])
    rows = tuple(
        (
            name,
            round(counted[name][1]),
            counted[name][1] / theirs[1] if theirs else None,
            counted[name][0] / counted[name][1],
        )
        for name in names
    )
    columns = ("application", "instructions/request", "of thalamus-serve's", "first half/second")
    note = "The ASGI callable alone, driven in process under callgrind, its lane thread included."
    answer.tables.append(Table("Instructions a request", columns, rows, note))
    bars = tuple((name, counted[name][1]) for name in names)
    answer.plots.append(
        Plot(
            "instructions",
            "Instructions a request, application alone",
            "",
            "instructions",
            {"instructions": bars},
            kind="bar",
            log_y=True,
        )
    )
