"""How long the hooks took."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Times:
    """Seconds in the hooks, None for one that does not exist; ``executed``: inputs of the batch.

    All requests of one batch share one object.
    """

    preprocess_s: float | None = None
    predict_s: float = 0.0
    postprocess_s: float | None = None
    executed: int = 0

    @property
    def seconds(self) -> float:
        return (self.preprocess_s or 0.0) + self.predict_s + (self.postprocess_s or 0.0)

    def __add__(self, other: Times) -> Times:
        """One behind the other: sums, and the larger batch."""
        return Times(
            _sum(self.preprocess_s, other.preprocess_s),
            self.predict_s + other.predict_s,
            _sum(self.postprocess_s, other.postprocess_s),
            max(self.executed, other.executed),
        )


def _sum(one: float | None, other: float | None) -> float | None:
    if one is None:
        return other
    return one if other is None else one + other


NONE = Times()
