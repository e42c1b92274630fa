"""How large a batch may be: the declared maximum, lowered when the device ran out of memory."""

from __future__ import annotations

_PATIENCE = 16
_MOST_PATIENCE = 1024


class Ceiling:
    """The effective ``max_batch_size``.

    A failure halves it, or brings it back to the size that has lately proved safe. A run of
    successes at the ceiling makes that size the safe one and lifts the ceiling by a tenth. Each
    failure doubles the run that it takes, since what does not fit today seldom fits a second later.
    """

    __slots__ = ("_patience", "_run", "declared", "now", "safe", "shrinks")

    def __init__(self, declared: int) -> None:
        self.declared = declared
        self.now = declared
        self.safe = 0
        self.shrinks = 0
        self._patience = _PATIENCE
        self._run = 0

    def failed(self, size: int) -> None:
        """A batch of ``size`` did not fit into memory."""
        if size <= self.safe:
            self.safe = 0
        self.now = min(self.now, max(1, size // 2, self.safe))
        self.shrinks += 1
        self._run = 0
        self._patience = min(self._patience * 2, _MOST_PATIENCE)

    def succeeded(self, size: int) -> None:
        """A batch of ``size`` ran, where ``now < declared``."""
        if size < self.now:
            return
        self._run += 1
        if self._run >= self._patience:
            self._run = 0
            self.safe = self.now
            self.now = min(self.declared, self.now + max(1, self.now // 10))
            if self.now == self.declared:
                self._patience = _PATIENCE
