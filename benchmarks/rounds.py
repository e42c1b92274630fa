"""Rounds: what is compared is measured close together, forth and back, and only ratios within a
round are kept.

A shared machine's speed drifts by the minute. In the order A B B A a drift that is steady over the
round falls on both alike.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean, median
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

T = TypeVar("T")


def abba(names: Sequence[str]) -> list[str]:
    """``["floor", "ours"]`` → floor, ours, ours, floor."""
    return [*names, *reversed(names)]


@dataclass
class Rounds(Generic[T]):
    """What was measured, by round and name. Figures are read from samples by a function."""

    rounds: list[dict[str, list[T]]] = field(default_factory=list)

    def begin(self) -> None:
        self.rounds.append({})

    def add(self, name: str, sample: T) -> None:
        self.rounds[-1].setdefault(name, []).append(sample)

    def all(self) -> Iterator[T]:
        for samples in self.rounds:
            for several in samples.values():
                yield from several

    def figure(self, name: str, read: Callable[[T], float]) -> float:
        """The median over rounds of the mean in each.

        Raises:
            KeyError: no round has ``name``.
        """
        return median(self._means(name, read))

    def ratio(self, name: str, base: str, read: Callable[[T], float]) -> float:
        """The median over rounds of ``name`` over ``base``, both of the same round.

        Raises:
            KeyError: no round has both.
        """
        return median(self._both(name, base, read, lambda a, b: a / b if b else float("inf")))

    def difference(self, name: str, base: str, read: Callable[[T], float]) -> float:
        """The median over rounds of ``name`` less ``base``, both of the same round."""
        return median(self._both(name, base, read, lambda a, b: a - b))

    def _both(
        self,
        name: str,
        base: str,
        read: Callable[[T], float],
        compare: Callable[[float, float], float],
    ) -> list[float]:
        found = [
            compare(fmean(map(read, samples[name])), fmean(map(read, samples[base])))
            for samples in self.rounds
            if name in samples and base in samples
        ]
        if not found:
            raise KeyError(f"no round has both {name!r} and {base!r}")
        return found

    def _means(self, name: str, read: Callable[[T], float]) -> Iterator[float]:
        found = [fmean(map(read, samples[name])) for samples in self.rounds if name in samples]
        if not found:
            raise KeyError(f"no round has {name!r}")
        return iter(found)
