"""The open loop against a server of the benchmarks; runs whose generator had no headroom are void,
and are counted as that.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.load.connection import encode
from benchmarks.load.outcome import Outcome
from benchmarks.processes import CLIENT_CORE, ROOT, pinned

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from benchmarks.processes import Call, Server

_PATIENCE_S = 10.0


def run(
    server: Server,
    calls: Sequence[Call],
    schedule: Sequence[tuple[float, int]],
    connections: int = 1024,
) -> Outcome:
    """Send ``calls[kind]`` at each (due, kind) of ``schedule``, from a process of its own on the
    client's core.
    """
    plan = {
        "port": server.port,
        "connections": connections,
        "patience_s": _PATIENCE_S,
        "requests": [encode(call, f"127.0.0.1:{server.port}").decode("latin-1") for call in calls],
        "schedule": [list(item) for item in schedule],
    }
    with tempfile.TemporaryDirectory() as folder:
        given, got = Path(folder, "plan.json"), Path(folder, "outcome.json")
        given.write_text(json.dumps(plan))
        subprocess.run(
            pinned(
                CLIENT_CORE,
                (sys.executable, "-m", "benchmarks.load.worker", str(given), str(got)),
            ),
            cwd=ROOT,
            check=True,
        )
        return Outcome(**json.loads(got.read_text()))


def voids(outcomes: Iterable[Outcome]) -> str:
    """Why runs do not count, in one sentence; empty where all do."""
    reasons = sorted(why for outcome in outcomes if (why := outcome.void) is not None)
    return f"{len(reasons)} runs are void: in one, {reasons[0]}" if reasons else ""
