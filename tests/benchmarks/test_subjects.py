from __future__ import annotations

import ast
from pathlib import Path

import pytest
from benchmarks.answer import Answer
from benchmarks.environments import Environments
from benchmarks.goals import GOALS
from benchmarks.run import Run
from benchmarks.subjects import SUBJECTS, chosen, question, title

from benchmarks import peers, servers

ROOT = Path(__file__).resolve().parents[2]
EVERY = chosen(["all"])


def run(tmp_path: Path, *, quick: bool = False, only: frozenset[str] = frozenset()) -> Run:
    return Run(Environments(tmp_path), quick, only)


def test_all_is_every_question_once() -> None:
    assert [name for several in SUBJECTS.values() for name in several] == EVERY
    assert len(EVERY) == len(set(EVERY))


def test_subjects_and_single_questions_can_be_mixed() -> None:
    assert chosen(["rates", "startup", "overhead"])[:2] == ["rates", "startup"]


@pytest.mark.parametrize("name", EVERY)
def test_question_is_asked_in_a_sentence(name: str) -> None:
    assert "?" in title(name)


@pytest.mark.parametrize("name", EVERY)
def test_question_knows_how_long_it_takes(name: str, tmp_path: Path) -> None:
    full, quick = (question(name).estimate_s(run(tmp_path, quick=q)) for q in (False, True))
    assert 0 < quick <= full


def test_plan_of_a_quick_run_is_within_five_minutes(tmp_path: Path) -> None:
    quick = run(tmp_path, quick=True)
    assert sum(question(name).estimate_s(quick) for name in EVERY) < 300


def test_plan_of_a_full_run_is_within_twenty_five_minutes(tmp_path: Path) -> None:
    assert sum(question(name).estimate_s(run(tmp_path)) for name in EVERY) < 1500


def test_every_reading_is_for_a_goal() -> None:
    known = {goal.id for goal in GOALS}
    read = set()
    for path in (ROOT / "benchmarks" / "questions").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "read"
                and node.args
                and isinstance(node.args[0], ast.Constant)
            ):
                read.add(node.args[0].value)
    assert read
    assert read <= known


def test_goals_have_names_of_their_own() -> None:
    assert len({goal.id for goal in GOALS}) == len(GOALS)


def test_every_peer_has_a_server_and_a_request() -> None:
    folder = Path(servers.__path__[0])
    for peer in (*peers.ALL, peers.ORACLE, peers.OURS_WEIGHTS):
        assert (folder / f"{peer.module}.py").is_file()
        assert peer.call.path.startswith("/")


def test_request_to_us_is_about_150_bytes() -> None:
    assert 90 <= len(peers.OURS.call.body) <= 150


def test_peers_that_a_quick_run_leaves_out_are_named(tmp_path: Path) -> None:
    answer = Answer()
    left = run(tmp_path, quick=True).field(answer)
    assert {peer.name for peer in peers.FIELD} == {p.name for p in left} | answer.missing.keys()
    assert answer.missing


def test_only_those_named_are_measured(tmp_path: Path) -> None:
    only = run(tmp_path, only=frozenset({"mosec"}))
    assert only.field(Answer()) == [peers.MOSEC]


def test_quick_round_goes_forth_alone(tmp_path: Path) -> None:
    assert run(tmp_path, quick=True).order("a", "b") == ["a", "b"]
    assert run(tmp_path).order("a", "b") == ["a", "b", "b", "a"]
