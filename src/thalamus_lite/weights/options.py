"""What the cache is told, and what it asks of the machine below it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from thalamus_lite.weights.mounts import fs_type

if TYPE_CHECKING:
    from collections.abc import Callable

    from thalamus_lite.settings import Settings


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """Sizes are bytes, times are seconds.

    Attributes:
        min_free_bytes: Kept free on the disk, whatever the budget allows.
        ttl_s: How long a mutable name (a branch, a URL, a key) is believed without asking again.
        offline: No origin is ever asked: what is not in the cache cannot be had.
        busy_s: How long a transaction waits for another process's, and who needs room for others'
            evictions.
        patience_s: How long a download by another process may stand still before it is repeated
            beside it. Above the longest pause that a retry may take.
    """

    cache_dir: Path
    max_bytes: int = 50 * 10**9
    min_free_bytes: int = 10**9
    ttl_s: float = 60.0
    offline: bool = False
    deny_private_addresses: bool = False
    timeout_s: float = 60.0
    busy_s: float = 10.0
    patience_s: float = 300.0

    @classmethod
    def from_settings(cls, settings: Settings) -> CacheOptions:
        return cls(
            cache_dir=settings.cache_dir,
            max_bytes=settings.cache_max_bytes,
            min_free_bytes=settings.cache_min_free_bytes,
            ttl_s=settings.cache_ttl_s,
            offline=settings.offline,
            deny_private_addresses=settings.deny_private_addresses,
        )


@cache
def boot_id() -> str:
    """Changes with each start of the machine: bytes that were never fsynced are gone after it."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    if sys.platform == "darwin":
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            command = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
            return subprocess.check_output(command, text=True, timeout=5).strip()
    # Unknown: no other process's unfinished bytes are trusted.
    return uuid.uuid4().hex


def fsync(fd: int) -> None:
    # On macOS fsync leaves the bytes in the drive's own cache.
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is None:
        os.fsync(fd)
    else:
        fcntl.fcntl(fd, full)


def free_bytes(path: Path) -> int:
    """Free bytes on the path's disk for a user who is not root."""
    stat = os.statvfs(path)
    return stat.f_bavail * stat.f_frsize


def _unwatched(step: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class System:
    """The machine, so that a test can hand in another: a clock that jumps, a full disk, no locks.

    ``reached`` is told the name of each step that leaves something on disk, before the next begins.
    """

    wall_clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    boot_id: Callable[[], str] = boot_id
    fsync: Callable[[int], None] = fsync
    free_bytes: Callable[[Path], int] = free_bytes
    flock: Callable[[int, int], None] = fcntl.flock
    fs_type: Callable[[Path], str] = fs_type
    reached: Callable[[str], None] = _unwatched
