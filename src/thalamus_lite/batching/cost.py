"""Learns what a batch costs: c(n) = a + k·n seconds, by decayed least squares.

Both terms are kept at or above zero. When all batches have the same size, nothing tells a from k:
the slope last learned is kept, and before there is one most of the time is taken for fixed. That
error mends itself: a large `a` makes the rebound rule merge, and other sizes tell the truth.
"""

from __future__ import annotations

# About thirty batches of memory: long enough to average jitter, short enough to follow a device
# that another model has begun to share.
_DECAY = 0.97
# Weight of the slope already held, in units of mean(n)². It damps what jitter alone would make of
# sizes that hardly differ.
_INERTIA = 0.01
# A batch may stall (a collection, a page fault, a lazy compile), and one stall must not turn away
# the requests that follow; it never runs short by accident.
_STALL = 4.0
_SURPRISINGLY_SHORT = 0.5
_FORGET = 0.2
_FIRST_SLOPE = 0.2
_ANY = 1_000_000_000
# Batches before the estimate may cost anyone a request.
_LEARNED_AFTER = 8


class CostModel:
    """c(n) of one model. ``a`` and ``k`` are seconds; both 0 until a batch has been seen."""

    __slots__ = ("_nn", "_nt", "_sn", "_st", "_w", "a", "batches", "k")

    def __init__(self) -> None:
        self.a = 0.0
        self.k = 0.0
        self.batches = 0
        self._w = self._sn = self._st = self._nn = self._nt = 0.0

    @property
    def learned(self) -> bool:
        return self.batches >= _LEARNED_AFTER

    def of(self, n: int) -> float:
        """Seconds that a batch of ``n`` is expected to take."""
        return self.a + self.k * n

    def largest_within(self, seconds: float) -> int:
        """The most inputs whose batch should end within ``seconds``; 0 when not even one."""
        if self.of(1) > seconds:
            return 0
        # A slope too small to matter would overflow the division.
        if self.k * _ANY <= seconds - self.a:
            return _ANY
        return max(1, int((seconds - self.a) / self.k))

    def observe(self, n: int, seconds: float) -> None:
        expected = self.a + self.k * n
        if self.batches and seconds < _SURPRISINGLY_SHORT * expected:
            keep = _FORGET
        else:
            keep = _DECAY
            if self.batches >= _LEARNED_AFTER and expected > 0.0:
                seconds = min(seconds, _STALL * expected)
        w = self._w = self._w * keep + 1.0
        sn = self._sn = self._sn * keep + n
        st = self._st = self._st * keep + seconds
        nn = self._nn = self._nn * keep + n * n
        nt = self._nt = self._nt * keep + n * seconds
        mean_n = sn / w
        mean_t = st / w
        held = self.k if self.batches else _FIRST_SLOPE * mean_t / mean_n
        self.batches += 1
        inertia = _INERTIA * mean_n * mean_n
        spread = max(nn / w - mean_n * mean_n, 0.0)
        k = (nt / w - mean_n * mean_t + inertia * held) / (spread + inertia)
        if k <= 0.0:
            self.k = 0.0
            self.a = mean_t
        elif k * mean_n >= mean_t:
            self.k = nt / nn
            self.a = 0.0
        else:
            self.k = k
            self.a = mean_t - k * mean_n
