"""The storm: requests by the hundred thousand over real sockets, many of which leave or fail.

What it asserts does not depend on how fast anything is: nothing is lost, crossed or answered twice,
what was accepted is accounted for, and nothing is left.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from lifecycle_kit import KEY, PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
SOAK = os.environ.get("THALAMUS_SOAK") == "1"
TOTAL = int(os.environ.get("STORM_REQUESTS", 1_000_000 if SOAK else 100_000))

_SPEC = importlib.util.spec_from_file_location("storm_client", HERE / "client.py")
assert _SPEC is not None
assert _SPEC.loader is not None
client = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = client
_SPEC.loader.exec_module(client)

STATUSES = ("ok", "error", "expired", "cancelled", "rejected", "unavailable", "invalid")


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    number = listener.getsockname()[1]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(HERE / "served.py"), str(listener.fileno())],
            pass_fds=[listener.fileno()],
            stdout=log,
            stderr=log,
            env={**os.environ, "THALAMUS_API_KEY": KEY},
        )
    listener.close()
    try:
        yield number
        process.terminate()
        process.wait(PATIENCE_S)
    finally:
        process.kill()
        process.wait()


class Figures:
    """``/metrics``, read."""

    def __init__(self, text: str) -> None:
        self.lines = [line.rpartition(" ") for line in text.splitlines() if line[:1] != "#"]

    def sum(self, name: str, **labels: str) -> float:
        return sum(
            float(value)
            for key, _, value in self.lines
            if key.partition("{")[0] == name
            and all(f'{label}="{wanted}"' in key for label, wanted in labels.items())
        )


async def told(storm: Any, path: str) -> bytes:
    status, content = await storm.ask("GET", path)
    assert status == 200
    found: bytes = content
    return found


async def quiet(storm: Any) -> Figures:
    """The figures once nothing is in flight: some departures may still have to be noticed."""
    for _ in range(3000):
        figures = Figures((await told(storm, "/metrics")).decode())
        if figures.sum("thalamus_inflight_requests") == 0:
            return figures
        await asyncio.sleep(0.01)
    raise AssertionError("requests are left in flight")


async def test_no_request_is_lost_crossed_or_answered_twice(port: int) -> None:
    storm = client.Storm(port, KEY, TOTAL)
    await told(storm, "/ready")
    before = json.loads(await told(storm, "/storm"))
    await storm.run(seed=20)

    assert storm.wrong[:10] == []
    assert sum(storm.outcomes.values()) == TOTAL
    assert storm.outcomes["left"] > TOTAL * 0.28
    assert storm.outcomes["500"] > TOTAL * 0.02
    assert storm.outcomes["200"] > TOTAL * 0.5
    assert storm.toggles[200] >= 4
    assert set(storm.toggles) == {200}

    figures = await quiet(storm)
    assert figures.sum("thalamus_queue_depth") == 0
    counted = {s: figures.sum("thalamus_requests_total", status=s) for s in STATUSES}
    after = json.loads(await told(storm, "/storm"))
    assert after["accepted"] == after["answered"] == sum(counted.values()), (after, counted)
    assert after["twice"] == 0
    assert counted["invalid"] == counted["rejected"] == 0
    # Whoever stayed got what was counted; of those who left, some were answered all the same.
    assert counted["ok"] >= storm.outcomes["200"]
    assert counted["error"] >= storm.outcomes["500"]
    assert counted["expired"] >= storm.outcomes["504"]
    assert counted["unavailable"] >= storm.outcomes["503"]
    assert counted["cancelled"] > 0
    stayed = TOTAL - storm.outcomes["left"]
    assert after["accepted"] >= stayed
    assert after["tasks"] <= before["tasks"]
    status, _ = await storm.ask("GET", "/ready")
    assert status == 200
