"""``python -m benchmarks.questions.fetching CACHE URL``: one cold download through the weight
cache, in a process of its own, as JSON.

``--one``: a single connection. ``--die-at 0.9``: kill -9 to itself when so much has arrived.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

_NEVER = 1 << 60


class _Progress:
    """What the engine tells of a download; ends the process at a share of it."""

    def __init__(self, name: str, total_bytes: int | None, die_at: float | None) -> None:
        self.name = name
        self.total_bytes = total_bytes
        self.done_bytes = 0
        self.received_bytes = 0
        self.retries = 0
        self.resumed_bytes = 0
        self._die_at = _NEVER if die_at is None else int(die_at * (total_bytes or 0))

    def received(self, n: int) -> None:
        self.done_bytes += n
        self.received_bytes += n
        if self.received_bytes >= self._die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def retried(self) -> None:
        self.retries += 1

    def resumed(self, n: int) -> None:
        self.done_bytes += n
        self.resumed_bytes += n

    def restarted(self, n: int) -> None:
        self.done_bytes -= n

    def close(self) -> None:
        pass


def fetch(options: argparse.Namespace) -> dict[str, Any]:
    from thalamus_lite import HTTPWeight, WeightCache
    from thalamus_lite.weights.transfer.download import Transfer, TransferOptions
    from thalamus_lite.weights.wiring import Wiring

    seen: list[_Progress] = []

    def progress(name: str, total_bytes: int | None) -> _Progress:
        seen.append(_Progress(name, total_bytes, options.die_at))
        return seen[-1]

    tuning = TransferOptions(parallel_from=_NEVER) if options.one else TransferOptions()
    wiring = Wiring(download=Transfer(tuning), progress=progress)
    cache = WeightCache(options.cache, max_size_gb=1000, wiring=wiring)
    # What is imported at the first use is not the download's memory or time.
    cache.stats()
    before = _memory("VmRSS")
    begun = time.perf_counter()
    with cache.acquire(HTTPWeight(urls=(options.url,), sha256=options.sha256)) as lease:
        took_s = time.perf_counter() - begun
        size = lease.path.stat().st_size
    cache.close()
    return {
        "seconds": took_s,
        "bytes": size,
        "received_bytes": sum(one.received_bytes for one in seen),
        "rss_growth_bytes": _memory("VmHWM") - before,
    }


def _memory(name: str) -> int:
    """Bytes. getrusage would do for the peak if it did not begin with that of the parent's fork."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("cache")
    parser.add_argument("url")
    parser.add_argument("--one", action="store_true")
    parser.add_argument("--sha256")
    parser.add_argument("--die-at", type=float)
    return parser.parse_args(sys.argv[1:])


if __name__ == "__main__":
    print("@" + json.dumps(fetch(_options())))
