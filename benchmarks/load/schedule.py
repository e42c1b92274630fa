"""When requests are due: seconds from the start, fixed by a seed before the first is sent.

A closed loop sends when it is answered, so a server that stalls is asked less and its stall is
counted once. Here the clients are many and know nothing of each other: they come when they come,
and who comes into a stall waits.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def even(rate: float, seconds: float, seed: int = 0) -> list[float]:
    """One each ``1 / rate`` seconds."""
    return [index / rate for index in range(int(rate * seconds))]


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Independent clients: gaps are exponential with mean ``1 / rate``."""
    random = Random(seed)
    due: list[float] = []
    now = random.expovariate(rate)
    while now < seconds:
        due.append(now)
        now += random.expovariate(rate)
    return due


def bursts(
    rate: float, seconds: float, seed: int, on_s: float = 0.05, off_s: float = 0.2
) -> list[float]:
    """``rate`` on average, all of it while on: Poisson for about ``on_s``, then silence for about
    ``off_s``.
    """
    random = Random(seed)
    while_on = rate * (on_s + off_s) / on_s
    due: list[float] = []
    now = 0.0
    while now < seconds:
        end = now + random.expovariate(1 / on_s)
        now += random.expovariate(while_on)
        while now < min(end, seconds):
            due.append(now)
            now += random.expovariate(while_on)
        now = end + random.expovariate(1 / off_s)
    return due


Arrivals = dict[str, "Callable[[float, float, int], list[float]]"]
ARRIVALS: Arrivals = {"poisson": poisson, "bursts": bursts, "even": even}


def merge(*streams: list[float]) -> list[tuple[float, int]]:
    """Several streams as one: (due, number of the stream), in order."""
    return sorted((due, number) for number, stream in enumerate(streams) for due in stream)
