"""What a result was measured on: machine, versions, commit, date."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import peers
from benchmarks.processes import ROOT

if TYPE_CHECKING:
    from benchmarks.environments import Environments
    from benchmarks.run import Run

_BESIDE = ("uvicorn", "uvloop", "httptools", "orjson", "pydantic")


def provenance(run: Run) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "quick": run.quick,
        "machine": {
            "cpu": _cpu(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9),
            "system": f"{platform.system()} {platform.release()}",
            "load_1m": round(os.getloadavg()[0], 2),
        },
        "versions": {"python": platform.python_version(), **_versions(run.environments)},
    }


def _versions(environments: Environments) -> dict[str, str]:
    """What runs beside us in our own environment, and each server of the field."""
    wanted = [(peers.OURS, name) for name in ("thalamus-lite", *_BESIDE)]
    wanted += [(peer, peer.package) for peer in peers.FIELD]
    found = ((name, environments.version(peer, name)) for peer, name in wanted)
    return {name: version for name, version in found if version is not None}


def _commit() -> str:
    """The commit, marked ``+`` where the package differs from it; "unknown" outside a
    repository.
    """

    def git(*words: str) -> str | None:
        done = subprocess.run(
            ("git", *words), cwd=ROOT, capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        head = git("rev-parse", "--short=12", "HEAD")
        changed = git("status", "--porcelain", "--", "src")
    except OSError:
        return "unknown"
    return "unknown" if not head else head + ("+" if changed else "")


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
