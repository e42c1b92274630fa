"""The engine's constants and its clock: a test brings small ones, and does not sleep."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from thalamus_lite.weights.transfer.retry import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

MiB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Clock:
    """Time and chance. ``wait(event, s)`` waits for ``s`` seconds or for the event."""

    now: Callable[[], float] = time.monotonic
    wait: Callable[[threading.Event, float], object] = threading.Event.wait
    uniform: Callable[[float, float], float] = random.uniform


@dataclass(frozen=True, slots=True)
class TransferOptions:
    """Sizes are bytes.

    Attributes:
        parallel_from: With so much missing, ranges over several connections; below, one stream.
        follow_from: From this size on a thread hashes beside the download; below, after it.
        save_bytes: Extents are saved after so many bytes, or after ``save_s`` with any. Of a large
            file they are saved after a hundredth of it, at most 64 MiB: that is what a crash costs.
        progress_bytes: An attempt that brought less made no progress: else a server that sends a
            byte at a time would be asked for ever.
        slow_bytes_per_s: A connection below this for ``slow_window_s`` is given up for a new one.
            Where that could not go on with the file, only one that stands still is.
    """

    parallel_from: int = 64 * MiB
    range_bytes: int = 16 * MiB
    connections: int = 8
    read_bytes: int = MiB
    follow_from: int = 8 * MiB
    save_bytes: int = 4 * MiB
    save_s: float = 2.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    progress_bytes: int = 64 * 1024
    slow_bytes_per_s: float = 64 * 1024
    slow_window_s: float = 30.0
    clock: Clock = field(default_factory=Clock)

    def save_every(self, size: int | None) -> int:
        """How many bytes of a file of ``size`` may come before its extents are saved."""
        return max(self.save_bytes, min((size or 0) // 100, 64 * MiB))
