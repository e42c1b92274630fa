"""What became of the requests: exact latencies, since a run is bounded and none needs to be thrown
away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

LEAST_HEADROOM = 0.15
MOST_LATE_S = 0.001
POINTS = (0, 1, 5, 10, 25, 50, 75, 90, 95, 98, 99, 99.5, 99.9, 99.99, 100)


def quantile(values: Sequence[float], q: float) -> float:
    """The ``q``-th quantile (0 to 1) of ``values``, of which none lies between two; NaN of
    nothing.
    """
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, math.ceil(q * len(ordered)) - 1))]


@dataclass(frozen=True)
class Outcome:
    """By request: when due, kind, seconds from due to answered (NaN: never), status (0: broken, -1:
    no answer), how late the generator came to it.

    ``busy`` is the share of the time in which the generator had something to do.
    """

    due: Sequence[float]
    kind: Sequence[int]
    latency: Sequence[float]
    status: Sequence[int]
    late: Sequence[float]
    busy: float
    connections: int

    @property
    def headroom(self) -> float:
        return 1.0 - self.busy

    @property
    def void(self) -> str | None:
        """Why this run says nothing about the server, or None where it does."""
        if self.headroom < LEAST_HEADROOM:
            return f"the generator was busy {self.busy:.0%} of the time"
        late = quantile(self.late, 0.99)
        if late > MOST_LATE_S:
            return f"the generator came to 1 % of the requests {late * 1e3:.2f} ms late or more"
        return None

    def of_kind(self, kind: int) -> Outcome:
        """The requests of one kind alone; how busy the generator was stays what it was."""
        at = [index for index, found in enumerate(self.kind) if found == kind]
        return replace(
            self,
            due=[self.due[i] for i in at],
            kind=[kind] * len(at),
            latency=[self.latency[i] for i in at],
            status=[self.status[i] for i in at],
            late=[self.late[i] for i in at],
        )

    def latencies(self, skip_s: float = 0.0, status: int = 200) -> list[float]:
        """Seconds, of the answers with ``status`` to requests that were due after ``skip_s``."""
        return [latency for due, latency in self.answers(status) if due >= skip_s]

    def answers(self, status: int) -> list[tuple[float, float]]:
        """(due, latency) of the answers with ``status``."""
        return [
            (due, latency)
            for due, latency, got in zip(self.due, self.latency, self.status, strict=True)
            if got == status
        ]

    def count(self, status: int, since_s: float = 0.0, until_s: float = math.inf) -> int:
        """How many that were due in between had this status."""
        return sum(
            1
            for due, got in zip(self.due, self.status, strict=True)
            if got == status and since_s <= due < until_s
        )

    def statuses(self) -> dict[int, int]:
        found: dict[int, int] = {}
        for status in self.status:
            found[status] = found.get(status, 0) + 1
        return dict(sorted(found.items()))

    def summary(self) -> dict[str, Any]:
        """For people and for JSON; times in ms, of the answers with 200."""
        good = sorted(self.latencies())
        return {
            "requests": len(self.due),
            "answered_200": len(good),
            "statuses": {str(status): count for status, count in self.statuses().items()},
            "mean_ms": fmean(good) * 1e3 if good else None,
            "percentiles_ms": {str(p): quantile(good, p / 100) * 1e3 for p in POINTS}
            if good
            else {},
            "sent_late_p99_ms": quantile(self.late, 0.99) * 1e3 if self.due else None,
            "generator_headroom": self.headroom,
            "connections": self.connections,
            "void": self.void,
        }
