"""Counters and histograms for one process, cheap enough to be kept for every request.

prometheus_client takes a lock for each value, and walks the buckets in Python: some 3 µs for an
observation, of which a request makes four or five. Everything here is written by the event loop's
thread alone, so it needs no lock; the scrape reads what is there, through prometheus_client's own
collector interface. With several workers the values have to be in prometheus_client's shared files,
and its own classes are used (``metrics.py``).
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric


class Count:
    """One series of a counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        self.value += amount


class Distribution:
    """One series of a histogram. ``counts`` has an entry a bucket, and one for what is above them
    all.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        # bisect_left: a bucket's bound is its own, as Prometheus's ``le`` has it.
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


def observe_four(series: Sequence[Distribution], a: float, b: float, c: float, d: float) -> None:
    """A value for each of four distributions: one call and no loop, for every request."""
    one, two, three, four = series
    one.counts[bisect_left(one.bounds, a)] += 1
    one.total += a
    two.counts[bisect_left(two.bounds, b)] += 1
    two.total += b
    three.counts[bisect_left(three.bounds, c)] += 1
    three.total += c
    four.counts[bisect_left(four.bounds, d)] += 1
    four.total += d


class Counter:
    """A counter with labels; the same calls as prometheus_client's."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str], registry: CollectorRegistry
    ) -> None:
        self._name = name
        self._text = text
        self._labels = tuple(labels)
        self._series: dict[tuple[str, ...], Count] = {}
        if not labels:
            self._series[()] = Count()
        registry.register(self)

    def labels(self, *values: str) -> Count:
        return self._series.setdefault(values, Count())

    def inc(self, amount: float = 1.0) -> None:
        """Of a counter without labels."""
        self._series[()].inc(amount)

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for values, count in list(self._series.items()):
            family.add_metric(values, count.value)
        yield family


class Histogram:
    """A histogram with labels; the same calls as prometheus_client's."""

    def __init__(
        self,
        name: str,
        text: str,
        labels: Sequence[str],
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._name = name
        self._text = text
        self._labels = tuple(labels)
        self._bounds = tuple(float(bound) for bound in buckets)
        self._names = [*map(str, self._bounds), "+Inf"]
        self._series: dict[tuple[str, ...], Distribution] = {}
        registry.register(self)

    def labels(self, *values: str) -> Distribution:
        return self._series.setdefault(values, Distribution(self._bounds))

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for values, series in list(self._series.items()):
            below = 0
            buckets: list[tuple[str, float]] = []
            for name, count in zip(self._names, series.counts, strict=True):
                below += count
                buckets.append((name, below))
            family.add_metric(values, buckets, sum_value=series.total)
        yield family
