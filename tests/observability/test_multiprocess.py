"""Several uvicorn workers: counters are sums, gauges are true, whichever worker is scraped."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

WORKERS = 2
REQUESTS = 40

# uvicorn says its port in a line of its log; this prints it first, as servers.running() wants it.
_COMMAND = """
import logging, re, sys
import uvicorn
class Port(logging.Handler):
    def emit(self, record):
        found = re.search(r"127\\.0\\.0\\.1:(\\d+)", record.getMessage())
        if found:
            print(found[1], flush=True)
if __name__ == "__main__":
    logging.getLogger("uvicorn.error").addHandler(Port())
    logging.getLogger("uvicorn.error").setLevel("INFO")
    uvicorn.run("zoo:app", host="127.0.0.1", port=0, workers=2, log_config=None, access_log=False)
"""


@pytest.fixture(scope="module")
def server(
    servers: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Any, Path]]:
    folder = tmp_path_factory.mktemp("prometheus")
    script = folder.parent / "workers.py"
    script.write_text(_COMMAND)
    # What a worker that was killed has left behind.
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (folder / f"gauge_livesum_{dead.pid}.db").write_bytes(b"")
    log = folder.parent / "workers.log"
    command = [sys.executable, str(script)]
    with servers.running(command, log, PROMETHEUS_MULTIPROC_DIR=str(folder)) as started:
        yield started, folder


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def until_both(server: Any, ask: Any) -> dict[int, Any]:
    """What each worker answers: connections go to either, so it is asked until both have."""
    answers: dict[int, Any] = {}
    for _ in range(2000):
        pid = ask(answers)
        if pid is not None and len(answers) == WORKERS:
            return answers
    raise AssertionError(f"only {sorted(answers)} ever answered")


def test_counters_are_sums_and_info_is_one(server: tuple[Any, Path]) -> None:
    started, _ = server
    served: set[int] = set()

    def predict(answers: dict[int, Any]) -> int:
        # One connection, so that both requests reach the same worker.
        head = "{} HTTP/1.1\r\nHost: t\r\nX-API-Key: test-api-key-for-testing\r\n{}\r\n{}"
        body = '{"inputs":[{"text":"a"},{"text":"b"}]}'
        first = head.format("GET /status", "", "")
        second = head.format(
            "POST /predict", f"Content-Length: {len(body)}\r\nConnection: close\r\n", body
        )
        raw = started.send((first + second).encode())
        pid = int(re.search(rb'"pid":(\d+)', raw)[1])  # type: ignore[index]
        assert b'"outputs":[{"text":"A"' in raw
        answers[pid] = answers.get(pid, 0) + 1
        served.add(pid)
        return pid

    counts = until_both(started, predict)
    total = sum(counts.values())
    assert len(served) == WORKERS

    def scrape(answers: dict[int, Any]) -> int:
        raw = started.send(
            b"GET /status HTTP/1.1\r\nHost: t\r\n\r\n"
            b"GET /metrics HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"
        )
        pid = int(re.search(rb'"pid":(\d+)', raw)[1])  # type: ignore[index]
        answers[pid] = raw.rpartition(b"\r\n\r\n")[2].decode()
        return pid

    for text in until_both(started, scrape).values():
        found = samples(text)
        echo = (("model", "echo"),)
        assert found["thalamus_requests_total", (*echo, ("status", "ok"))] == total
        assert found["thalamus_latency_seconds_count", echo] == total
        assert found["thalamus_batch_size_sum", echo] == 2 * total
        info = {key: value for key, value in found.items() if key[0] == "thalamus_model_info"}
        assert len(info) == 7
        assert set(info.values()) == {1.0}
        assert all({name for name, _ in labels} == {"model_id", "version"} for _, labels in info)


def test_gauges_of_all_workers_are_true_soon(server: tuple[Any, Path]) -> None:
    started, _ = server
    deadline = time.monotonic() + 30
    while True:
        found = samples(started.request("GET", "/metrics").body.decode())
        # The least of all workers: each of them has them all.
        if found["thalamus_models_loaded", ()] == 7:
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert found["thalamus_inflight_requests", ()] == 0


def test_gauges_of_a_killed_worker_are_forgotten(server: tuple[Any, Path]) -> None:
    _, folder = server
    pids = {int(path.stem.rpartition("_")[2]) for path in folder.glob("gauge_live*.db")}
    assert pids
    for pid in pids:
        os.kill(pid, 0)
