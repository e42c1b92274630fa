"""Plots of stored results, as PNG."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.answer import Plot
    from benchmarks.results import Result

_SIZE = (8.0, 4.5)
_DPI = 110


def draw(results: Sequence[Result], folder: Path) -> list[Path]:
    """Draw what the results ask for. Without matplotlib nothing is drawn, and the list is empty."""
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for result in results:
        for plot in result.answer.plots:
            figure, axes = pyplot.subplots(figsize=_SIZE, dpi=_DPI)
            (_bars if plot.kind == "bar" else _curves)(axes, plot)
            axes.set_title(plot.title)
            axes.set_ylabel(plot.y)
            if plot.log_y:
                axes.set_yscale("log")
            axes.grid(axis="y", alpha=0.3)
            figure.tight_layout()
            path = folder / f"{plot.name}.png"
            # No date in the file, so that the same figures give the same bytes.
            figure.savefig(path, metadata={"Software": None})
            pyplot.close(figure)
            written.append(path)
    return written


def _bars(axes: Any, plot: Plot) -> None:
    labels = list(dict.fromkeys(str(x) for points in plot.series.values() for x, _ in points))
    width = 0.8 / len(plot.series)
    for number, (name, points) in enumerate(plot.series.items()):
        places = [
            labels.index(str(x)) + (number - (len(plot.series) - 1) / 2) * width for x, _ in points
        ]
        bars = axes.bar(places, [y for _, y in points], width, label=name)
        if len(plot.series) == 1:
            axes.bar_label(bars, fmt=_label, fontsize=8)
    axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right", fontsize=8)
    if len(plot.series) > 1:
        axes.legend(fontsize=8)


def _label(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _curves(axes: Any, plot: Plot) -> None:
    for name, points in plot.series.items():
        style = "--" if name.startswith(("oracle", "ideal", "floor")) else "-"
        axes.plot([x for x, _ in points], [y for _, y in points], style, marker=".", label=name)
    axes.set_xlabel(plot.x)
    if plot.log_x:
        axes.set_xscale("log", base=2)
    axes.legend(fontsize=8)
