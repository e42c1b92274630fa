"""What a model's queue and lanes count, carried into the metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thalamus_lite.batching.group import LaneGroup
    from thalamus_lite.observability.metrics import Metrics


def carry(metrics: Metrics, model_id: str, group: LaneGroup) -> None:
    """Add what was counted since the last time: at a scrape, and when the model is unloaded."""
    counts = group.queue.counts
    busy_s = sum(lane.busy_seconds for lane in group.lanes)
    totals = (counts.holds, counts.hold_gain, busy_s)
    families = (metrics.holds, metrics.hold_gain, metrics.lane_busy)
    for family, total, told in zip(families, totals, group.told, strict=True):
        family.labels(model_id).inc(total - told)
    group.told = totals
