"""What a question's measurement gives: readings for the goals, tables, curves, and what was
missing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Reading:
    """A measured value for a goal of ``goals.py``.

    ``note`` says what a bare number would hide; ``void`` why it does not count, empty where it
    does.
    """

    value: float
    note: str = ""
    void: str = ""


Cell = str | float | None
Row = tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""


@dataclass(frozen=True)
class Plot:
    """``series``: name → points. ``kind``: ``line`` or ``bar``; bars have a label for x."""

    name: str
    title: str
    x: str
    y: str
    series: Mapping[str, tuple[tuple[float | str, float], ...]]
    kind: str = "line"
    log_x: bool = False
    log_y: bool = False


@dataclass
class Answer:
    readings: dict[str, Reading] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def read(self, goal: str, value: float, note: str = "", void: str = "") -> None:
        self.readings[goal] = Reading(value, note, void)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Answer:
        return cls(
            {goal: Reading(**reading) for goal, reading in stored["readings"].items()},
            [
                Table(
                    table["title"],
                    tuple(table["columns"]),
                    tuple(tuple(row) for row in table["rows"]),
                    table["note"],
                )
                for table in stored["tables"]
            ],
            [
                Plot(
                    **{
                        **plot,
                        "series": {
                            name: tuple((x, y) for x, y in points)
                            for name, points in plot["series"].items()
                        },
                    }
                )
                for plot in stored["plots"]
            ],
            dict(stored["missing"]),
        )
