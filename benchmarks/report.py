"""The results as a Markdown page: the goals first, each with what was measured, then the tables
with their plots.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from benchmarks.goals import GOALS, quantity

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.answer import Reading, Table
    from benchmarks.goals import Goal
    from benchmarks.results import Result

_QUICK = "**A quick run: for a look, not for a figure.**"


def render(results: Sequence[Result]) -> str:
    return "\n".join(_lines(results)) + "\n"


def verdict(goal: Goal, reading: Reading | None) -> str:
    """``yes``, ``first`` (the goal before it), ``**no**``, ``void`` or ``-`` (not measured)."""
    if reading is None or math.isnan(reading.value):
        return "-"
    if reading.void:
        return "void"
    if goal.reached(reading.value):
        return "yes"
    if goal.first is not None and goal.reached_first(reading.value):
        return f"first: {goal.sense} {quantity(goal.first, goal.unit)}"
    return "**no**"


def short_falls(results: Sequence[Result]) -> list[str]:
    """The goals that were measured and not reached."""
    readings = _readings(results)
    return [goal.id for goal in GOALS if verdict(goal, readings.get(goal.id)) == "**no**"]


def voids(results: Sequence[Result]) -> list[str]:
    """The goals whose measurement does not count."""
    return [f"{goal} (void)" for goal, reading in _readings(results).items() if reading.void]


def _readings(results: Sequence[Result]) -> dict[str, Reading]:
    return {goal: reading for r in results for goal, reading in r.answer.readings.items()}


def _lines(results: Sequence[Result]) -> Iterator[str]:
    yield "# Benchmark results"
    yield ""
    yield "Written by `python -m benchmarks`; [how it is measured](../../docs/performance.md)."
    yield "Each part names the commit and the day that it was measured on."
    yield ""
    if any(r.provenance["quick"] for r in results):
        yield from (_QUICK, "")
    yield from _goals(results)
    for result in results:
        yield from _result(result)
    missing = [(r.question, *item) for r in results for item in sorted(r.answer.missing.items())]
    if missing:
        yield from ("## Missing", "", "| question | what | why |", "|---|---|---|")
        yield from (f"| {q} | {_cell(what)} | {_cell(why)} |" for q, what, why in missing)
        yield ""
    yield from _provenance(results)


def _goals(results: Sequence[Result]) -> Iterator[str]:
    readings = _readings(results)
    yield from ("## Goals", "", "| # | metric | against | goal | measured | reached |")
    yield "|---|---|---|---|---|---|"
    notes = []
    for goal in GOALS:
        reading = readings.get(goal.id)
        measured = "-" if reading is None else quantity(reading.value, goal.unit)
        if reading is not None and (reading.note or reading.void):
            notes.append(" ".join(filter(None, (reading.note, reading.void))))
            measured += f" [{len(notes)}]"
        row = (goal.id, goal.metric, goal.against, goal.text, measured, verdict(goal, reading))
        yield f"| {' | '.join(map(_cell, row))} |"
    yield ""
    yield from (f"[{number}] {_cell(note)}<br>" for number, note in enumerate(notes, 1))
    yield ""


def _result(result: Result) -> Iterator[str]:
    yield from (f"## {result.title}", "")
    for table in result.answer.tables:
        yield from _table(table)
    for plot in result.answer.plots:
        yield from (f"![{plot.title}]({plot.name}.png)", "")


def _table(table: Table) -> Iterator[str]:
    yield from (f"### {table.title}", "")
    if table.note:
        yield from (table.note, "")
    yield f"| {' | '.join(map(_cell, table.columns))} |"
    yield "|---" + "|---:" * (len(table.columns) - 1) + "|"
    yield from (f"| {' | '.join(map(_cell, row))} |" for row in table.rows)
    yield ""


def _provenance(results: Sequence[Result]) -> Iterator[str]:
    yield from (
        "## Measured on",
        "",
        "| question | commit | date | took | machine |",
        "|---|---|---|---:|---|",
    )
    for result in results:
        on = result.provenance
        machine = on["machine"]
        place = (
            f"{machine['cores']} x {machine['cpu']}, {machine['memory_gb']} GB, {machine['system']}"
        )
        when = f"{on['date']}, load {machine['load_1m']}"
        row = (result.question, on["commit"], when, f"{result.took_s:.0f} s", place)
        yield f"| {' | '.join(map(_cell, row))} |"
    if results:
        versions = results[-1].provenance["versions"]
        yield from ("", ", ".join(f"{name} {version}" for name, version in versions.items()))


def _cell(value: str | float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value.replace("|", "\\|").replace("\n", " ")
    if isinstance(value, float) and math.isnan(value):
        return "-"
    return quantity(value, "")
