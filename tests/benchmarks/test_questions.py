"""The parts of questions that need no server of another make."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks.load.outcome import Outcome
from benchmarks.questions import closed_batching, large_body, overload
from benchmarks.servers.work import Cost, classify
from benchmarks.subjects import BESIDE_PEERS, chosen

ROOT = Path(__file__).resolve().parents[2]


def inside(module: str, *words: str) -> dict[str, Any]:
    done = subprocess.run(
        (sys.executable, "-m", module, *words),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "THALAMUS_API_KEY": "benchmark-key"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.rpartition("@")[2])
    return found


@pytest.mark.parametrize("model", ["lane", "async"])
def test_every_step_of_the_profile_is_on_the_requests_way(model: str) -> None:
    seen = inside("benchmarks.questions.stepping", model, "2")
    assert seen["absent"] == []
    off_the_way = {step for step, found in seen["steps"].items() if not found["calls"]}
    # An `async` model has no lane.
    assert off_the_way <= ({"lane: around the hooks"} if model == "async" else set())
    assert seen["request_us"] > 0


def test_requests_are_driven_in_process_and_answered() -> None:
    done = subprocess.run(
        (
            sys.executable,
            "-m",
            "benchmarks.questions.drive",
            "benchmarks.servers.with_thalamus_lite",
            "lane",
            "3",
        ),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "THALAMUS_API_KEY": "benchmark-key"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_cancelled_inputs_of_a_long_queue_never_run() -> None:
    seen = inside("benchmarks.questions.long_queue", "app", "300")
    assert seen["cancelled"] == 150
    assert seen["cancelled_ran"] == 0
    assert set(seen["stalls"]) == {"they arrive", "half is cancelled", "the rest runs"}


def test_policy_of_a_long_queue_is_timed_at_both_depths() -> None:
    seen = inside("benchmarks.questions.long_queue", "policy", "500")
    for side in ("short", "long"):
        assert all(seen[side][what] > 0 for what in ("push", "pop", "cancel"))


def test_many_models_are_compared_in_one_process() -> None:
    seen = inside("benchmarks.questions.many_models", "5", "2")
    assert seen["many"]["/health"]["bytes"] > seen["one"]["/health"]["bytes"]


def trace(*requests: tuple[float, float, int]) -> Outcome:
    due, latency, status = zip(*requests, strict=True)
    return Outcome(due, [0] * len(due), latency, status, [0.0] * len(due), 0.1, 1)


def test_recovery_ends_with_the_last_request_that_fared_badly() -> None:
    seen = trace(
        (0.1, 0.10, 200),
        (1.0, 0.12, 200),
        (10.0, 5.0, 429),
        (20.0, 0.9, 200),
        (20.5, 0.01, 429),
        (20.9, 0.25, 200),
        (21.0, 0.2, 200),
        (22.0, 0.1, 200),
    )
    # Up to 0.24 s is like before; 20.9 waited longer.
    assert overload.recovered_after(seen, 20.0) == pytest.approx(0.9)


def test_whoever_is_let_in_must_be_answered_in_time() -> None:
    late = overload.DEADLINE_S + 0.1
    seen = trace((0.1, 0.1, 200), (0.2, late, 200), (0.3, 0.1, 504), (0.4, 0.1, 429))
    assert overload.missed(seen) == 2


def test_storm_without_aftermath_is_over_at_once() -> None:
    seen = trace((0.1, 0.1, 200), (10.0, math.nan, -1), (20.0, 0.1, 200))
    assert overload.recovered_after(seen, 20.0) == 0.0


def test_body_of_vectors_has_about_its_size() -> None:
    body = large_body.vectors(1_000_000)
    assert 1_000_000 <= len(body) < 1_020_000
    assert json.loads(body)["model"] == "vectors"


def test_oracle_is_told_what_it_has_to_know() -> None:
    call = closed_batching.call_for("oracle", Cost("sleep", 4, 0.25), 24)
    assert call.headers["X-Clients"] == "24"
    assert Cost.parse(call.headers["X-Cost"]) == Cost("sleep", 4, 0.25)


def test_costs_are_read_and_named() -> None:
    cost = Cost.parse("spin 10 0.1")
    assert cost.name == "spin-10-0.1"
    assert cost.seconds(10) == pytest.approx(0.011)
    with pytest.raises(ValueError, match="'sleep A K' or 'spin A K'"):
        Cost.parse("nap 1 2")


def test_work_has_an_answer_for_every_text() -> None:
    assert classify(["a", "bb"]) == [("positive", 0.01), ("negative", 0.02)]


def test_questions_that_need_the_field_are_named() -> None:
    """The others run without a server of the field being installed."""
    folder = ROOT / "benchmarks" / "questions"
    needs = re.compile(r"run\.(field|wants)\b|peers\.(?!ALL|FLOOR|JSON|ORACLE|OURS|TEXT)[A-Z]+")
    found = {name for name in chosen(["all"]) if needs.search((folder / f"{name}.py").read_text())}
    assert found == BESIDE_PEERS
