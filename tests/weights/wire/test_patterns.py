from __future__ import annotations

import pytest

from thalamus_lite.errors import WeightNotFound
from thalamus_lite.weights.origins.patterns import select

NAMES = ["a.json", "b.bin", "onnx/a.json", "onnx/deep/c.bin", "A.JSON", "x[1].bin"]


def chosen(*patterns):
    return select(NAMES, patterns, str, "the place")


def test_without_patterns_all_are_chosen():
    assert select(NAMES, None, str, "the place") == NAMES


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["*.json"], ["a.json", "onnx/a.json"]),
        (["onnx/"], ["onnx/a.json", "onnx/deep/c.bin"]),
        (["?.bin", "A*"], ["b.bin", "A.JSON"]),
        (["x[[]1].bin"], ["x[1].bin"]),
        (["*"], NAMES),
    ],
)
def test_patterns_are_globs_over_the_whole_name(patterns, expected):
    assert chosen(*patterns) == expected


def test_patterns_that_choose_nothing_are_an_error():
    with pytest.raises(WeightNotFound, match="none of the 6 files of the place"):
        chosen("*.gguf")


def test_nothing_to_choose_from_is_the_callers_matter():
    assert select([], ["*"], str, "the place") == []
