"""When to hold a batch that could start: only for the clients that the last one answered.

Starting at once is right, with one exception: a closed loop of N clients, N within one batch. Half
of them is answered while the other half waits; that half starts at once, and two alternating
half-batches are what remains, each paying the fixed cost a. Clients that wait for their answer and
ask again come back within a round trip, so it is enough to hold that long.

Let F(h) be the share of a batch's inputs that is followed by a new one within h of the answer. When
every batch is held for h after its predecessor's end, N clients settle at batches of
N / (2 - F(h)), one each H(h) + a + k·n seconds. H(h) is how long such a hold really lasts, since it
ends when all are back: the integral of 1 - G(t) up to h, where G(t) is the share of batches whose
clients were all back by t. Were they independent, G would be F^n; but they share one event loop and
come back in one burst, early or late together. Holding pays where

    g(h) = (H(h) + a) · (2 - F(h))

is least, and if that is below g(0) = 2a by a margin: k has no part in it. F and G are decayed
histograms of what came back and when. Under Poisson arrivals F(h) <= h / c(n) on average, too
little for any h < a, so open-loop traffic is not held; and since F is learned from few batches, a
hold of more than three quarters of a asks for more: that nearly every batch was whole by then. A
rule on the mean gap between arrivals would defeat itself: that mean includes the time of the batch.
docs/adr/0010-rebound-rule.md has the figures.
"""

from __future__ import annotations

from math import log2

# Bucket edges, a quarter of an octave apart: 50 µs to 0.2 s.
_FIRST_S = 50e-6
_PER_OCTAVE = 4
_BUCKETS = 48
EDGES = tuple(_FIRST_S * 2 ** ((i + 1) / _PER_OCTAVE) for i in range(_BUCKETS))
_INVERSE_FIRST = 1 / _FIRST_S

# About twenty windows of memory.
_GROWTH = 1 / 0.95
_RESCALE_AT = 1e12
# A hold of more than this share of the fixed cost needs so many whole batches.
_LONG = 0.75
_SURE = 0.85
_MARGIN = 1.2
_WORTHWHILE = 0.93
_ALL = 0.999
# The fit is tried early, and later at every sixteenth window: it is the dearest part.
_FIRST_FIT = 4
_LATEST_FIT = 16


class Rebound:
    """Learns F for one queue, and says how long a hold is worth."""

    __slots__ = (
        "_answered",
        "_batches",
        "_histogram",
        "_next_fit",
        "_until",
        "_weight",
        "_whole",
        "_windows",
        "back",
        "expected",
        "hold_for",
        "since",
    )

    def __init__(self) -> None:
        # Inputs that came since the last answers at `since`, and how many would make all of them.
        self.back = 0
        self.expected = 0
        self.since = 0.0
        self.hold_for = 0.0
        self._until = 0.0
        self._answered = 0.0
        self._batches = 0.0
        self._weight = 1.0
        self._windows = 0
        self._next_fit = _FIRST_FIT
        self._histogram = [0.0] * _BUCKETS
        self._whole = [0.0] * _BUCKETS

    def arrived(self, size: int, now: float) -> None:
        before = self.back
        self.back = back = before + size
        if now < self._until:
            delay = (now - self.since) * _INVERSE_FIRST
            bucket = int(log2(delay) * _PER_OCTAVE) if delay > 1.0 else 0
            self._histogram[bucket] += self._weight * size
            if before < self.expected <= back:
                self._whole[bucket] += self._weight

    def answered(self, size: int, now: float, a: float) -> None:
        """Inputs were answered; ``a`` is the fixed cost of a batch in seconds."""
        owed = self.expected - self.back if now < self._until else 0
        self.expected = size + owed if owed > 0 else size
        self.back = 0
        self.since = now
        # No hold can last longer, so nothing later needs to be counted.
        self._until = now + min(a, EDGES[-1] * 0.999)
        self._weight *= _GROWTH
        self._answered += self._weight * size
        self._batches += self._weight
        self._windows += 1
        if self._windows >= self._next_fit:
            # With this window, of which nobody can be back yet: the rule leans towards no hold.
            self._next_fit += min(self._windows, _LATEST_FIT)
            self._refit(a)

    def hold_until(self, now: float) -> float | None:
        """Until when a batch that is not full should wait for those who are about to come back."""
        if self.hold_for == 0.0 or self.back >= self.expected:
            return None
        until = self.since + self.hold_for
        return until if now < until else None

    def expect_no_more(self) -> None:
        """No hold until the next answers."""
        self.expected = self.back

    def _refit(self, a: float) -> None:
        least = 2.0 * a * _WORTHWHILE
        best = held = edge = back = whole = 0.0
        share_of = 1.0 / self._answered
        whole_of = 1.0 / self._batches
        share = 0.0
        for count, all_back, next_edge in zip(self._histogram, self._whole, EDGES, strict=True):
            # Nobody is left to wait for, or nothing later can be better.
            if edge >= a or share >= _ALL or held + a > least:
                break
            # Nothing was counted after a.
            until = min(next_edge, a)
            # Those of this bucket are whole in its middle, on average.
            held += (until - edge) * (1.0 - (whole + 0.5 * all_back) * whole_of)
            edge = until
            whole += all_back
            back += count
            share = min(back * share_of, 1.0)
            g = (held + a) * (2.0 - share)
            if g < least and (edge <= a * _LONG or whole * whole_of >= _SURE):
                least = g
                best = edge
        # A little longer, for a burst that is later than any of late: it costs only when that
        # happens.
        self.hold_for = min(best * _MARGIN, a)
        if self._weight > _RESCALE_AT:
            self._rescale()

    def _rescale(self) -> None:
        self._histogram = [count / self._weight for count in self._histogram]
        self._whole = [count / self._weight for count in self._whole]
        self._answered /= self._weight
        self._batches /= self._weight
        self._weight = 1.0
