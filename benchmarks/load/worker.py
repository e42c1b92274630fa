"""``python -m benchmarks.load.worker PLAN OUTCOME``: the generator in a process that can be put on
a core of its own.
"""

from __future__ import annotations

import gc
import json
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.load.generator import Generator, Where


def main(given: str, got: str) -> None:
    plan = json.loads(Path(given).read_text())
    where = Where("127.0.0.1", plan["port"], plan["connections"], plan["patience_s"])
    requests = [text.encode("latin-1") for text in plan["requests"]]
    # A collection in the middle would be counted as the server's.
    gc.disable()
    outcome = asdict(Generator(where, requests).run([tuple(item) for item in plan["schedule"]]))
    for name in ("latency", "late", "status"):
        outcome[name] = list(outcome[name])
    Path(got).write_text(json.dumps(outcome))


if __name__ == "__main__":
    main(*sys.argv[1:])
