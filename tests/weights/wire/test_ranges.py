from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalamus_lite.weights.transfer.ranges import (
    ContentRange,
    ExtentSet,
    parse_content_range,
    parse_length,
    pieces,
    range_header,
)

SIZE = 60
ranges = st.lists(st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)))


def positions(extents):
    return {i for start, stop in extents for i in range(start, stop)}


@given(ranges)
def test_extents_are_the_union_of_what_was_added(added):
    extents = ExtentSet(added)
    expected = positions(added)
    assert positions(extents) == expected
    assert extents.covered == len(expected)
    assert extents.end == max(expected, default=-1) + 1
    missing = [i for i in range(SIZE + 1) if i not in expected]
    assert extents.prefix == missing[0]


@given(ranges)
def test_extents_are_sorted_disjoint_and_not_adjacent(added):
    kept = ExtentSet(added).as_tuple()
    assert all(start < stop for start, stop in kept)
    assert all(a[1] < b[0] for a, b in pairwise(kept))


@given(ranges, st.integers(0, SIZE))
def test_gaps_are_what_is_missing(added, size):
    extents = ExtentSet(added)
    assert positions(extents.gaps(size)) == set(range(size)) - positions(extents)


@given(ranges, st.integers(1, 20))
def test_pieces_cover_the_gaps_in_order(added, length):
    gaps = ExtentSet(added).as_tuple()
    cut = pieces(gaps, length)
    assert positions(cut) == positions(gaps)
    assert sum(stop - start for start, stop in cut) == len(positions(gaps))
    assert cut == sorted(cut)
    assert all(0 < stop - start <= length for start, stop in cut)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes 0-9/100", ContentRange(0, 10, 100)),
        (" Bytes  5-5/6 ", ContentRange(5, 6, 6)),
        ("bytes 0-9/*", ContentRange(0, 10, None)),
        ("bytes */100", ContentRange(None, None, 100)),
    ],
)
def test_content_range_is_read(text, expected):
    assert parse_content_range(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *(None, "", "bytes", "bytes */*", "bytes 9-0/10", "bytes 0-10/10", "bytes -1-2/3"),
        *("items 0-1/2", "bytes 0-9", "0-9/10", "bytes 0-9/10, 1-2/3", "bytes 0-9/1e3"),
        *("bytes \u0660-\u0669/*", "bytes 0-" + "9" * 5000 + "/*"),
    ],
)
def test_content_range_without_sense_is_none(text):
    assert parse_content_range(text) is None


@given(st.binary().map(lambda raw: raw.decode("latin-1")))
def test_any_header_is_read_or_none(text):
    parse_content_range(text)
    parse_length(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        (" 12 ", 12),
        (None, None),
        ("-1", None),
        ("1.5", None),
        ("", None),
        ("\u0663", None),
    ],
)
def test_length_is_read(text, expected):
    assert parse_length(text) == expected


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [(0, None, None), (5, None, "bytes=5-"), (0, 10, "bytes=0-9"), (5, 6, "bytes=5-5")],
)
def test_range_header_is_inclusive(start, stop, expected):
    assert range_header(start, stop) == expected
