"""JSON in: right, exact, or refused. JSON out: always JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalamus_lite.errors import InvalidJSON
from thalamus_lite.http.codec import decode, encode

_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
    max_leaves=20,
)


@given(_VALUES)
def test_every_value_is_read_as_it_was_written(value: Any) -> None:
    assert decode(json.dumps(value).encode()) == value
    assert decode(json.dumps(value, ensure_ascii=False).encode()) == value


@given(_VALUES)
def test_every_value_is_written_so_that_it_reads_the_same(value: Any) -> None:
    written = encode(value)
    assert json.loads(written) == value
    assert decode(bytearray(written)) == value


@given(st.integers(-(10**60), 10**60))
def test_integers_are_exact(number: int) -> None:
    assert decode(str(number).encode()) == number
    assert decode(f'{{"a":[{number}]}}'.encode()) == {"a": [number]}
    assert type(decode(f"[{number}]".encode())[0]) is int


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        value = decode(body)
    except InvalidJSON:
        return
    assert json.loads(body) == value


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"\x00",
        b"{",
        b"[1,]",
        b"[1] x",
        b"{'a': 1}",
        b"NaN",
        b"[NaN]",
        b"Infinity",
        b"-Infinity",
        b"1e999",
        b"-1e999",
        b"[1e400]",
        b"01",
        b"+1",
        b".5",
        b"\xef\xbb\xbf{}",
        b'"\xff"',
        b'"\xc3"',
        b'"\xed\xa0\x80"',
        b'"\\ud800"',
        b'"\\udc00\\ud800"',
        b'{"\\ud800":1}',
        b'"\x01"',
        b'"tab\there"',
        "{}".encode("utf-16"),
        "{}".encode("utf-32"),
        b"[" * 2000 + b"]" * 2000,
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 400,
        b"[" + b"9" * 5000 + b"]",
        b"1" + b"0" * 5000,
    ],
    ids=lambda body: repr(body[:16]),
)
def test_what_is_not_json_or_not_exact_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidJSON):
        decode(body)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"9223372036854775807", 2**63 - 1),
        (b"9223372036854775808", 2**63),
        (b"18446744073709551615", 2**64 - 1),
        (b"18446744073709551616", 2**64),
        (b"-9223372036854775809", -(2**63) - 1),
        (b"[0.1234567890123456789012]", [0.1234567890123456789012]),
        (b"[12345678901234567890.5]", [12345678901234567890.5]),
        (b"[12345678901234567890e2]", [12345678901234567890e2]),
        (b"[1e-00000000000000000000001]", [0.1]),
        (b'"12345678901234567890"', "12345678901234567890"),
        (b'["\\u0000", 12345678901234567890]', ["\x00", 12345678901234567890]),
        (b'{"a":1,"a":18446744073709551616}', {"a": 2**64}),
        (b'{"a":1,"a":2}', {"a": 2}),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        (b" \t\r\n1 ", 1),
    ],
)
def test_edges_are_read(body: bytes, value: Any) -> None:
    read = decode(body)
    assert read == value
    assert type(read) is type(value)


def test_body_is_read_twice_only_for_a_long_integer(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []
    real = json.loads
    monkeypatch.setattr(json, "loads", lambda body: read.append(body) or real(body))
    for number in (b"0.12345678901234567890123", b"12345678901234567890.5", b"123456789012345678"):
        decode(b"[%b]" % number)
    decode(b"[12345678901234567890E2]")
    assert read == []
    decode(b"[12345678901234567890]")
    assert len(read) == 1


def test_depth_that_the_second_reading_cannot_take_is_refused() -> None:
    deep = b"[" * 1000 + b"18446744073709551616" + b"]" * 1000

    def far_down(levels: int) -> Any:
        return far_down(levels - 1) if levels else decode(deep)

    # How much of the stack is left for the reading depends on the interpreter: exact, or refused.
    try:
        value = far_down(700)
    except InvalidJSON:
        return
    while isinstance(value, list):
        (value,) = value
    assert value == 18446744073709551616


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ({"a": [1, 2.5, None, True, "x"]}, b'{"a":[1,2.5,null,true,"x"]}'),
        (10**30, b"1000000000000000000000000000000"),
        ({"a": "\ud800"}, b'{"a":"\\ud800"}'),
        ("\u00e9", '"\u00e9"'.encode()),
    ],
)
def test_values_are_written_compactly(value: Any, written: bytes) -> None:
    assert encode(value) == written


def test_deep_value_is_written() -> None:
    value: Any = 1
    for _ in range(300):
        value = [value]
    assert json.loads(encode(value)) == value
