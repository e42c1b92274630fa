"""What questions make of their samples, with samples that were thought up."""

from __future__ import annotations

import pytest
from benchmarks.answer import Answer
from benchmarks.closed_loop import PERCENTILES, Closed
from benchmarks.load.outcome import Outcome
from benchmarks.processes import Call
from benchmarks.questions import instructions, open_batching, rates, windows
from benchmarks.rounds import Rounds
from benchmarks.servers.work import Cost

from benchmarks import closed_loop, peers


def sample(rps: float, cpu_us: float, p50_us: float) -> rates.Sample:
    latency = dict.fromkeys(map(float, PERCENTILES), p50_us)
    return rates.Sample(Closed(rps, latency, cpu_us), Closed(rps / 10, latency, cpu_us))


def test_peers_are_compared_by_what_each_reached_of_its_own_floor() -> None:
    # The floor ran at half its speed while mosec was measured.
    seen = Rounds(
        [
            {"floor": [sample(1000, 50, 100)], "thalamus-lite": [sample(600, 70, 180)]},
            {"floor": [sample(500, 100, 200)], "mosec": [sample(100, 300, 900)]},
        ]
    )
    answer = Answer()
    rates._readings(answer, seen, ["floor", "thalamus-lite", "mosec"])
    found = {goal: reading.value for goal, reading in answer.readings.items()}
    assert found == pytest.approx(
        {"1": 0.6, "3 floor": 1.4, "4 lane": 80, "2 mosec": 3.0, "3 mosec": 1.4 / 3}
    )


def test_without_ours_there_is_no_reading() -> None:
    answer = Answer()
    rates._readings(answer, Rounds([{"floor": [sample(1, 1, 1)]}]), ["floor"])
    assert answer.readings == {}


def test_instructions_are_of_the_second_half() -> None:
    answer = Answer()
    counted = {"thalamus-lite, async": (900.0, 300.0), "thalamus-serve": (9000.0, 6000.0)}
    instructions._report(answer, counted)
    assert answer.readings["3b"].value == pytest.approx(0.05)


def test_instructions_without_thalamus_serve_are_a_table_alone() -> None:
    answer = Answer()
    instructions._report(answer, {"floor": (10.0, 10.0)})
    assert answer.readings == {}
    assert answer.tables[0].rows[0][:2] == ("floor", 10)


def outcome(latency_s: float) -> Outcome:
    due = [2.0, 3.0]
    return Outcome(due, [0, 0], [latency_s] * 2, [200] * 2, [0.0] * 2, 0.1, 1)


def test_window_beats_ours_only_where_it_is_better_at_both_ends() -> None:
    answer = Answer()
    seen = {
        (peers.OURS.name, None): [outcome(0.1), outcome(0.2)],
        ("mosec", 1.0): [outcome(0.09), outcome(0.4)],
        ("mosec", 20.0): [outcome(0.12), outcome(0.18)],
    }
    windows._report(answer, seen)
    assert answer.readings["8 peers"].value == pytest.approx(1.2)
    assert answer.readings["8 peers"].note == "mosec with 20 ms"


def test_worst_load_is_the_reading() -> None:
    answer = Answer()
    fast = open_batching._row(0.1, 100, outcome(0.0052), [0.005, 0.005])
    slow = open_batching._row(0.9, 900, outcome(0.012), [0.010, 0.010])
    open_batching._report(answer, Cost("sleep", 4, 0.25), [fast, slow])
    assert answer.readings["8 mean"].value == pytest.approx(1.2)
    assert answer.readings["8 mean"].note.startswith("at 90% of capacity, where 2.00 ms")


class Idle:
    """A server that used no CPU."""

    url = "http://127.0.0.1:1"

    def cpu_s(self) -> float:
        return 0.0


def test_server_too_slow_for_a_short_run_gets_a_longer_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[float] = []

    def wrk(_url: str, _call: Call, _connections: int, seconds: float) -> dict[str, object]:
        asked.append(seconds)
        count = 0 if seconds < 5 else 10
        latency = {"50": 1.0}
        return {
            "requests": count,
            "us": seconds * 1e6,
            "bad_status": 0,
            "broken": 0,
            "latency_us": latency,
        }

    monkeypatch.setattr(closed_loop, "wrk", wrk)
    seen = closed_loop.run(Idle(), Call("/"), 1, 1)  # type: ignore[arg-type]
    assert asked == [1, 5]
    assert seen.rps == 2.0
