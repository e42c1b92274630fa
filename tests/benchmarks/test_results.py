from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from benchmarks.__main__ import main
from benchmarks.answer import Answer, Plot, Reading, Table
from benchmarks.goals import GOALS, Goal, quantity
from benchmarks.plots import draw
from benchmarks.report import render, short_falls, verdict
from benchmarks.results import Result, load, store

from benchmarks import __main__ as command

if TYPE_CHECKING:
    from pathlib import Path

PROVENANCE = {
    "date": "2026-01-02T03:04:05+00:00",
    "commit": "0123456789ab",
    "quick": False,
    "machine": {
        "cpu": "Some CPU",
        "cores": 2,
        "memory_gb": 24,
        "system": "Linux 6",
        "load_1m": 0.1,
    },
    "versions": {"python": "3.11.7", "uvicorn": "0.54.0"},
}


def answer() -> Answer:
    found = Answer()
    found.read("1", 0.7)
    found.read("3 floor", 2.0)
    found.read("5", 1.1, "a note", "the generator was busy")
    found.read("13 floor", 0.9)
    found.missing["BentoML"] = "pip said | no"
    found.tables.append(
        Table("A table", ("server", "rps"), (("floor", 20_728), ("ours", None)), "Its note.")
    )
    bars = {"rps": (("floor", 3.0), ("ours", 2.0))}
    two = {"p50": (("floor", 1.0),), "p99": (("floor", 3.0), ("ours", 4.0))}
    lines = {"oracle": ((1, 2.0), (2, 4.0)), "ours": ((1, 1.0), (2, 3.0))}
    found.plots += [
        Plot("bars", "Bars", "", "rps", bars, kind="bar"),
        Plot("two", "Two bars", "", "ms", two, kind="bar", log_y=True),
        Plot("lines", "Lines", "n", "rps", lines, log_x=True, log_y=True),
    ]
    return found


def result(**changes: object) -> Result:
    return Result("rates", "What does it cost?", {**PROVENANCE, **changes}, 12.0, answer())


def row(page: str, goal: str) -> str:
    return next(line for line in page.splitlines() if line.startswith(f"| {goal} |"))


def test_stored_result_comes_back_as_it_was(tmp_path: Path) -> None:
    store(result(), tmp_path)
    (back,) = load(tmp_path, ["never asked", "rates"])
    assert back.answer == answer()
    assert back.provenance == PROVENANCE


def test_stored_figures_have_six_digits(tmp_path: Path) -> None:
    long = Answer()
    long.read("1", 0.123456789)
    path = store(Result("rates", "", PROVENANCE, 1.0, long), tmp_path)
    assert json.loads(path.read_text())["answer"]["readings"]["1"]["value"] == 0.123457


def test_page_has_a_line_for_every_goal() -> None:
    page = render([result()])
    for goal in GOALS:
        assert row(page, goal.id)


def test_goal_that_was_reached_says_so() -> None:
    assert row(render([result()]), "13 floor").endswith("| 0.9 x | yes |")


def test_short_fall_is_marked() -> None:
    page = render([result()])
    assert row(page, "3 floor").endswith("| 2 x | **no** |")
    assert short_falls([result()]) == ["3 floor"]


def test_first_goal_counts_as_that() -> None:
    assert row(render([result()]), "1").endswith("| first: ≥ 0.6 x |")


def test_void_run_reaches_nothing() -> None:
    page = render([result()])
    assert row(page, "5").endswith("| 1.1 x [1] | void |")
    assert "[1] a note the generator was busy" in page


def test_goal_that_was_not_measured_is_neither_reached_nor_missed() -> None:
    assert row(render([result()]), "16 hit").endswith("| - | - |")


def test_missing_peer_is_named_with_its_reason() -> None:
    assert "| rates | BentoML | pip said \\| no |" in render([result()])


def test_page_names_machine_commit_date_and_versions() -> None:
    page = render([result()])
    for word in ("0123456789ab", "2026-01-02", "2 x Some CPU, 24 GB, Linux 6", "uvicorn 0.54.0"):
        assert word in page


def test_quick_run_says_that_it_is_one() -> None:
    assert "A quick run" in render([result(quick=True)])
    assert "A quick run" not in render([result()])


def test_table_is_written_with_its_note() -> None:
    page = render([result()])
    assert "### A table\n\nIts note.\n\n| server | rps |\n|---|---:|\n| floor | 20,728 |" in page
    assert "| ours | - |" in page


def test_plots_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    paths = draw([result()], tmp_path)
    assert [path.name for path in paths] == ["bars.png", "two.png", "lines.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_page_shows_every_plot() -> None:
    assert "![Lines](lines.png)" in render([result()])


def test_render_alone_measures_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    store(result(), tmp_path)
    assert main(["render", "--out", str(tmp_path)]) == 0
    assert "goals not reached: 3 floor" in capsys.readouterr().out
    assert (tmp_path / "README.md").is_file()
    assert (tmp_path / "bars.png").is_file()


@pytest.mark.parametrize(
    ("value", "void", "missing", "code", "said"),
    [
        (1.0, "", {}, 0, "not shown: nothing"),
        (0.5, "", {}, 1, "not shown: overload goodput"),
        (1.0, "the generator was slow", {}, 1, "not shown: overload goodput (void)"),
        (1.0, "", {"wrk": "not installed"}, 1, "not shown: overload: wrk"),
    ],
)
def test_strict_run_ends_well_only_if_everything_was_shown(
    value: float,
    void: str,
    missing: dict[str, str],
    code: int,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured = Answer(missing=missing)
    measured.read("overload goodput", value, void=void)
    found = replace(result(), question="overload", answer=measured)
    store(found, tmp_path)
    monkeypatch.setattr(command, "_measure", lambda *_: [])
    assert main(["overload", "--out", str(tmp_path)]) == 0
    assert main(["overload", "--strict", "--out", str(tmp_path)]) == code
    assert said in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["nonsense"], "unknown subject 'nonsense'"),
        (["overhead", "--only", "nobody"], "unknown peer 'nobody'"),
    ],
)
def test_unknown_names_are_refused(
    argv: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*argv, "--out", str(tmp_path)]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.8, "x", "0.8 x"), (20728.4, "", "20,728"), (1.23456, "ms", "1.23 ms"), (0, "", "0")],
)
def test_quantities_are_written_as_a_person_would(value: float, unit: str, text: str) -> None:
    assert quantity(value, unit) == text


@pytest.mark.parametrize(
    ("sense", "value", "expected"),
    [("≥", 1.0, "yes"), ("≥", 0.9, "**no**"), ("≤", 1.0, "yes"), ("≤", 1.1, "**no**")],
)
def test_verdict_follows_the_sense_of_the_goal(sense: str, value: float, expected: str) -> None:
    assert verdict(Goal("g", "", "", sense, 1.0), Reading(value)) == expected


def test_verdict_on_no_number_is_none() -> None:
    assert verdict(GOALS[0], Reading(float("nan"))) == "-"
