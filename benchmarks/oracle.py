"""What the best server could do with a trace of arrivals: batches of c(n) = a + k·n and nothing
else, in virtual time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def latencies(
    arrivals: Sequence[float], cost: Callable[[int], float], max_batch: int
) -> list[float]:
    """Seconds from each arrival to its answer, on one lane that starts whenever it is free and
    somebody waits.

    It knows nothing of what is to come: an oracle that did could wait for company and sometimes
    win.
    """
    found: list[float] = []
    free_at = 0.0
    index = 0
    while index < len(arrivals):
        start = max(free_at, arrivals[index])
        stop = index + 1
        while stop < len(arrivals) and stop - index < max_batch and arrivals[stop] <= start:
            stop += 1
        free_at = start + cost(stop - index)
        found += [free_at - arrivals[i] for i in range(index, stop)]
        index = stop
    return found


def closed_loop_rps(clients: int, cost: Callable[[int], float], max_batch: int) -> float:
    """The formula min(N / c(N), B / c(B)), which leaves out the round trip."""
    most = min(clients, max_batch)
    return most / cost(most)
