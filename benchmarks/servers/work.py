"""The work that every server does: a text in, a label and a score out, at a cost that the benchmark
chooses.

The environment says what one call with n records costs: ``BENCH_COST="sleep 4 0.25"`` is 4 + 0.25·n
ms with the GIL released, as a device or torch's kernels leave it; ``spin`` burns that much CPU time
of the calling thread with the GIL held. Unset, a call costs nothing but its answer. ``BENCH_BATCH``
is the largest batch, ``BENCH_WINDOW_MS`` how long a windowed batcher may wait.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass

from pydantic import BaseModel, Field

KEY = "benchmark-key"
MAX_BATCH = int(os.environ.get("BENCH_BATCH", "32"))
WINDOW_MS = float(os.environ.get("BENCH_WINDOW_MS", "1"))


class TextInput(BaseModel):
    text: str = Field(min_length=1, max_length=10_000)


class Sentiment(BaseModel):
    label: str
    score: float = Field(ge=0, le=1)


@dataclass(frozen=True)
class Cost:
    """c(n) = ``a_ms`` + ``k_ms``·n."""

    kind: str
    a_ms: float
    k_ms: float

    @classmethod
    def parse(cls, text: str) -> Cost:
        kind, a_ms, k_ms = text.split()
        if kind not in ("sleep", "spin"):
            raise ValueError(f"a cost is 'sleep A K' or 'spin A K', got {text!r}")
        return cls(kind, float(a_ms), float(k_ms))

    @property
    def name(self) -> str:
        """As a model id, and as a label: ``sleep-4-0.25``."""
        return f"{self.kind}-{self.a_ms:g}-{self.k_ms:g}"

    def seconds(self, n: int) -> float:
        return (self.a_ms + self.k_ms * n) / 1000

    def spend(self, n: int) -> None:
        seconds = self.seconds(n)
        if self.kind == "sleep":
            if seconds:
                time.sleep(seconds)
            return
        # CPU time and not the clock's: what another thread takes away is not work done.
        until = time.thread_time() + seconds
        while time.thread_time() < until:
            pass


FREE = Cost("sleep", 0, 0)
COST = Cost.parse(os.environ.get("BENCH_COST", "sleep 0 0"))


def classify(texts: list[str], cost: Cost = COST) -> list[tuple[str, float]]:
    """One label and score for each text."""
    cost.spend(len(texts))
    return [
        ("positive" if len(text) % 2 else "negative", (len(text) % 100) / 100) for text in texts
    ]


def port() -> int:
    """The port that the command line names."""
    return int(sys.argv[1])
