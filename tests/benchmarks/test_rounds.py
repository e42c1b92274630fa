from __future__ import annotations

import pytest
from benchmarks.rounds import Rounds, abba


def same(value: float) -> float:
    return value


def rounds(*figures: dict[str, list[float]]) -> Rounds[float]:
    return Rounds(list(figures))


def test_order_is_forth_and_back() -> None:
    assert abba(["a", "b", "c"]) == ["a", "b", "c", "c", "b", "a"]


def test_steady_drift_falls_on_both_alike() -> None:
    speeds = iter([1.0, 2.0, 3.0, 4.0])
    seen: Rounds[float] = Rounds()
    seen.begin()
    for name in abba(["a", "b"]):
        seen.add(name, next(speeds))
    assert seen.ratio("a", "b", same) == 1.0


def test_ratio_is_of_the_same_round() -> None:
    # The machine was ten times as fast in the second round: that is no matter.
    seen = rounds({"a": [2.0], "b": [1.0]}, {"a": [20.0], "b": [10.0]})
    assert seen.ratio("a", "b", same) == 2.0


def test_ratio_is_the_median_over_rounds() -> None:
    seen = rounds({"a": [1.0], "b": [1.0]}, {"a": [2.0], "b": [1.0]}, {"a": [90.0], "b": [1.0]})
    assert seen.ratio("a", "b", same) == 2.0
    assert seen.figure("a", same) == 2.0
    assert seen.difference("a", "b", same) == 1.0


def test_rounds_without_both_do_not_count() -> None:
    seen = rounds({"a": [1.0], "b": [2.0]}, {"b": [100.0]})
    assert seen.ratio("b", "a", same) == 2.0
    assert sorted(seen.all()) == [1.0, 2.0, 100.0]


def test_ratio_to_nothing_is_without_bounds() -> None:
    assert rounds({"a": [1.0], "b": [0.0]}).ratio("a", "b", same) == float("inf")


def test_what_was_never_measured_is_an_error() -> None:
    seen = rounds({"a": [1.0]})
    with pytest.raises(KeyError, match="both 'a' and 'b'"):
        seen.ratio("a", "b", same)
    with pytest.raises(KeyError, match="no round has 'b'"):
        seen.figure("b", same)
