"""The goals, a row each: what is measured, against what, and how far it must get."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """``bound`` must be reached, ``first`` was the goal before it. Values are ratios unless a unit
    is named.
    """

    id: str
    metric: str
    against: str
    sense: str
    bound: float
    unit: str = "x"
    first: float | None = None

    def reached(self, value: float) -> bool:
        return self._within(value, self.bound)

    def reached_first(self, value: float) -> bool:
        return self.first is not None and self._within(value, self.first)

    def _within(self, value: float, bound: float) -> bool:
        return value >= bound if self.sense == "≥" else value <= bound

    @property
    def text(self) -> str:
        return f"{self.sense} {quantity(self.bound, self.unit)}"


def quantity(value: float, unit: str) -> str:
    """A value as a person would write it: three digits that mean something."""
    digits = f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{digits} {unit}".strip() if unit else digits


def _at_least(id: str, metric: str, against: str, bound: float, first: float | None = None) -> Goal:
    return Goal(id, metric, against, "≥", bound, first=first)


def _at_most(
    id: str, metric: str, against: str, bound: float, unit: str = "x", first: float | None = None
) -> Goal:
    return Goal(id, metric, against, "≤", bound, unit, first)


_RPS = "requests a second, 64 connections, 150-byte JSON, batching on"
_CPU = "CPU a request, the same"
_CLOSED = "closed loop, N = 1 … 256, two costs: the worst cell"
_POISSON = "Poisson at 10 to 95 % of capacity, sleep: the worst load"

GOALS = (
    _at_least("1", _RPS, "floor", 0.80, first=0.60),
    _at_least("2 thalamus-serve", _RPS, "thalamus-serve", 25),
    _at_least("2 LitServe", _RPS, "LitServe", 20),
    _at_least("2 MLServer", _RPS, "MLServer", 12),
    _at_least("2 BentoML", _RPS, "BentoML", 30),
    _at_least("2 mosec", _RPS, "mosec, batching", 2.5),
    _at_least("2 mosec unbatched", _RPS, "mosec, a request at a time", 2.5),
    _at_most("3 floor", _CPU, "floor", 1.25, first=1.6),
    _at_most("3 mosec", _CPU, "mosec, batching", 0.45),
    _at_most("3 mosec unbatched", _CPU, "mosec, a request at a time", 0.45),
    _at_most("3b", "instructions a request in process, async predict", "thalamus-serve", 0.06),
    _at_most("4 lane", "added p50, 1 connection, idle, through a lane", "floor", 120, "µs"),
    _at_most("4 async", "added p50, 1 connection, idle, async predict", "floor", 40, "µs"),
    _at_most("5", "p99 at 70 % of own capacity, open loop", "floor at 70 % of its own", 1.5),
    _at_most("6", "1 MB JSON of floats → records", "recv + orjson + pydantic", 1.3),
    _at_least("7", _CLOSED, "an oracle that knows N", 0.95),
    _at_most("8 mean", f"{_POISSON}, mean", "an oracle without overhead", 1.05),
    _at_most("8 p99", f"{_POISSON}, p99", "an oracle without overhead", 1.15),
    _at_least("8 peers", "mean latency of a peer's best window at both ends", "ours", 1.0),
    _at_most("9", "two models, 100 : 1 load: the small one's p99", "c_big + 2·c_small", 1.0),
    _at_most("10 request", "1 → 10,000 registered models: a request", "itself", 1.05),
    _at_most("10 probe", "1 → 10,000 registered models: /health a body byte", "itself", 1.05),
    _at_most("11 push", "100 → 100,000 waiting inputs: push", "itself", 1.3),
    _at_most("11 pop", "100 → 100,000 waiting inputs: pop", "itself", 1.3),
    _at_most("11 cancel", "100 → 100,000 waiting inputs: cancel", "itself", 1.3),
    _at_most("11 stall", "100,000 waiting inputs: the longest loop stall", "-", 5, "ms"),
    _at_most("12 import", "import time", "thalamus-serve", 0.35),
    _at_most("12 rss", "RSS ready with one model", "thalamus-serve", 0.6),
    _at_most("12 spawn", "spawn → first 200", "thalamus-serve", 0.35),
    _at_least("13 floor", "a stream of 10,000 tokens", "chunks of raw ASGI", 0.8),
    _at_least("13 LitServe", "a stream of 10,000 tokens", "LitServe", 10),
    _at_most("14 cost", "cancel half of a queue of 100,000: each", "-", 5, "µs"),
    _at_most("14 ran", "cancelled inputs that ran", "-", 0, ""),
    _at_most("16 hit", "cache hit with its lease at 100,000 entries, p50", "-", 200, "µs"),
    _at_most("16 victims", "choosing and committing victims at 100,000, p99", "-", 5, "ms"),
    _at_most("16 status", "/status while weights are downloading, p99", "-", 1, "ms"),
    _at_least("16 curl", "loopback, one connection, unverified: speed", "curl", 0.8),
    _at_most("16 verified", "loopback, one connection, verified: time", "curl && sha256sum", 1.0),
    _at_least("16 aria2", "50 MB/s a connection: speed", "aria2c -x8", 0.95),
    _at_most("16 rss", "RSS growth over a 1 GiB file", "-", 64, "MiB"),
    _at_most("16 resume", "transferred again after kill -9 at 90 %", "-", 11, "%"),
    _at_least("overload goodput", "10 x capacity, open loop: goodput", "its peak", 0.95),
    _at_most("overload refusals", "10 x capacity: refusals, p99", "-", 20, "ms"),
    _at_most("overload health", "10 x capacity: /health, p99", "-", 50, "ms"),
    _at_most("overload deadlines", "10 x capacity: let in, and not answered in time", "-", 0, ""),
    _at_most("overload recovery", "until latency is normal after 10 x capacity", "-", 2, "s"),
)
