"""One entry's download as it is seen: numbers, a bar on a terminal, a log line elsewhere."""

from __future__ import annotations

import logging
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("thalamus_lite")

LOG_EVERY_S = 10.0


class DownloadProgress:
    """Told by any number of threads; each number is read without a lock.

    The writers take a lock, since ``+=`` from two threads loses a step. A reader sees each number
    whole, and at worst one of them a moment older than another.

    Args:
        name: Public: it is logged. No query string, no userinfo.
        total_bytes: None while the origin does not say.
        terminal: True draws a bar on stderr; None asks whether stderr is a terminal.
    """

    def __init__(
        self,
        name: str,
        total_bytes: int | None = None,
        *,
        terminal: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.total_bytes = total_bytes
        self.done_bytes = 0
        self.received_bytes = 0
        self.retries = 0
        self.resumed_bytes = 0
        self._lock = threading.Lock()
        self._clock = clock
        self._started = self._told_at = clock()
        self._told_bytes = 0
        self._bar = _bar(name, total_bytes) if _is_terminal(terminal) else None
        self._closed = False

    def received(self, n: int) -> None:
        with self._lock:
            self.received_bytes += n
            self.done_bytes += n
            self._show()

    def resumed(self, n: int) -> None:
        with self._lock:
            self.resumed_bytes += n
            self.done_bytes += n
            self._show()

    def restarted(self, n: int) -> None:
        with self._lock:
            self.done_bytes -= n
            self._show()

    def retried(self) -> None:
        with self._lock:
            self.retries += 1

    def close(self) -> None:
        """End the bar, or log the sum. May be called twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._bar is not None:
                self._bar.close()
                return
            elapsed = max(self._clock() - self._started, 1e-9)
            if self.received_bytes:
                _log.info(
                    "%s %s: %s in %.1f s, %s/s",
                    self._outcome(),
                    self.name,
                    human_bytes(self.received_bytes),
                    elapsed,
                    human_bytes(self.received_bytes / elapsed),
                )

    def _outcome(self) -> str:
        if self.total_bytes is None:
            return "received"
        return "downloaded" if self.done_bytes >= self.total_bytes else "stopped downloading"

    def _show(self) -> None:
        if self._closed:
            return
        if self._bar is not None:
            if self._bar.total != self.total_bytes:
                self._bar.total = self.total_bytes
            self._bar.update(self.done_bytes - self._bar.n)
            return
        now = self._clock()
        if now - self._told_at < LOG_EVERY_S:
            return
        rate = (self.received_bytes - self._told_bytes) / (now - self._told_at)
        self._told_at, self._told_bytes = now, self.received_bytes
        _log.info("downloading %s: %s, %s/s", self.name, self._part_done(), human_bytes(rate))

    def _part_done(self) -> str:
        if not self.total_bytes:
            return human_bytes(self.done_bytes)
        percent = 100 * self.done_bytes // self.total_bytes
        return f"{human_bytes(self.done_bytes)} of {human_bytes(self.total_bytes)} ({percent} %)"


def human_bytes(n: float) -> str:
    """``1536000`` is ``1.5 MB``: powers of 1000, as disks and networks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"


def _is_terminal(asked: bool | None) -> bool:
    # stderr is None under pythonw and some supervisors.
    return bool(sys.stderr and sys.stderr.isatty()) if asked is None else asked


def _bar(name: str, total: int | None) -> Any:
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[misc]
        # The monitor is a thread that would outlive every download.
        monitor_interval = 0

    return Bar(total=total, desc=name, unit="B", unit_scale=True, leave=False, file=sys.stderr)
