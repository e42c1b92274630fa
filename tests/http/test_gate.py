"""Who may pass."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalamus_lite.errors import AuthNotConfigured, ConfigurationError, InvalidApiKey
from thalamus_lite.http.gate import RECHECK_S, Gate
from thalamus_lite.http.request import Request, RequestIds
from thalamus_lite.http.router import Access
from thalamus_lite.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Make

ALL_BYTES = bytes(range(256))
KEY = b"x-api-key"
BEARER = b"authorization"


def gate(clock: Callable[[], float] = lambda: 0.0, **settings: Any) -> Gate:
    return Gate(Settings(**settings), clock)


def passes(
    tested: Gate, *headers: tuple[bytes, bytes], access: str = Access.KEY, make: Make
) -> bool:
    try:
        tested.check(make(headers=list(headers)), access)
    except InvalidApiKey:
        return False
    return True


@pytest.mark.parametrize("access", [Access.KEY, Access.ADMIN])
def test_server_without_a_key_is_closed(access: str, make_request: Make) -> None:
    for headers in ([], [(KEY, b"")], [(KEY, b"anything")], [(BEARER, b"Bearer ")]):
        with pytest.raises(AuthNotConfigured):
            gate().check(make_request(headers=headers), access)


def test_public_routes_need_no_key(make_request: Make) -> None:
    gate().check(make_request(), Access.PUBLIC)
    gate(api_key="k").check(make_request(), Access.PUBLIC)


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ([(KEY, b"right")], True),
        ([(BEARER, b"Bearer right")], True),
        ([(BEARER, b"bearer  right ")], True),
        ([(BEARER, b"BEARER right")], True),
        ([], False),
        ([(KEY, b"")], False),
        ([(KEY, b"righ")], False),
        ([(KEY, b"rightt")], False),
        ([(KEY, b"RIGHT")], False),
        ([(KEY, b"right ")], False),
        ([(KEY, b"Bearer right")], False),
        ([(BEARER, b"right")], False),
        ([(BEARER, b"Bearer")], False),
        ([(BEARER, b"Bearer ")], False),
        ([(BEARER, b"Bearerright")], False),
        ([(BEARER, b"Basic right")], False),
        ([(BEARER, b"")], False),
        # Two ways that agree, and two that differ.
        ([(KEY, b"right"), (BEARER, b"Bearer right")], True),
        ([(KEY, b"right"), (BEARER, b"Bearer wrong")], False),
        ([(KEY, b"wrong"), (BEARER, b"Bearer right")], False),
        # A proxy's own scheme is not ours to judge.
        ([(KEY, b"right"), (BEARER, b"Basic abc")], True),
        ([(KEY, b"wrong"), (BEARER, b"Basic abc")], False),
        # Sent twice: which of them a proxy saw cannot be told.
        ([(KEY, b"right"), (KEY, b"right")], False),
        ([(KEY, b"wrong"), (KEY, b"right")], False),
        ([(KEY, b"right"), (KEY, b"wrong")], False),
        ([(BEARER, b"Bearer right"), (BEARER, b"Bearer right")], False),
        ([(BEARER, b"Basic x"), (BEARER, b"Bearer right")], False),
        # Another header may be sent twice.
        ([(b"accept", b"a"), (KEY, b"right"), (b"accept", b"b")], True),
        ([(b"a", b"1"), (KEY, b"right"), (BEARER, b"Bearer right"), (b"a", b"2")], True),
    ],
)
def test_key_is_taken_from_either_header(
    headers: list[tuple[bytes, bytes]], allowed: bool, make_request: Make
) -> None:
    assert passes(gate(api_key="right"), *headers, make=make_request) is allowed


@given(st.binary(max_size=64))
def test_no_bytes_but_the_key_open_the_gate(offered: bytes) -> None:
    async def receive() -> dict[str, Any]:
        raise AssertionError("the gate reads no body")

    for header in ((KEY, offered), (BEARER, b"Bearer " + offered)):
        scope = {"method": "GET", "path": "/", "headers": [header]}
        request = Request(scope, receive, RequestIds())
        tested = gate(api_key="r\u00efght")
        expected = "r\u00efght".encode() == (offered if header[0] == KEY else offered.strip())
        try:
            tested.check(request, Access.KEY)
        except InvalidApiKey:
            assert not expected
        else:
            assert expected


def test_each_byte_is_compared_and_none_is_an_error(make_request: Make) -> None:
    tested = gate(api_key="k")
    for byte in ALL_BYTES:
        allowed = passes(tested, (KEY, bytes([byte])), make=make_request)
        assert allowed is (byte == ord("k"))
    assert not passes(tested, (KEY, ALL_BYTES), make=make_request)


def test_server_key_of_any_bytes_is_that_key(make_request: Make) -> None:
    raw = bytes(byte for byte in ALL_BYTES if byte > 0)
    tested = gate(api_key=os.fsdecode(raw))
    assert passes(tested, (KEY, raw), make=make_request)
    assert not passes(tested, (KEY, raw[:-1]), make=make_request)


def test_admin_routes_need_the_admin_key_where_there_is_one(make_request: Make) -> None:
    tested = gate(api_key="key", admin_key="admin")
    table = {
        (Access.KEY, b"key"): True,
        (Access.KEY, b"admin"): False,
        (Access.ADMIN, b"key"): False,
        (Access.ADMIN, b"admin"): True,
    }
    for (access, offered), allowed in table.items():
        assert passes(tested, (KEY, offered), access=access, make=make_request) is allowed


def test_key_opens_admin_routes_where_there_is_no_admin_key(make_request: Make) -> None:
    assert passes(gate(api_key="key"), (KEY, b"key"), access=Access.ADMIN, make=make_request)


def test_admin_key_alone_leaves_the_other_routes_closed(make_request: Make) -> None:
    tested = gate(admin_key="admin")
    assert passes(tested, (KEY, b"admin"), access=Access.ADMIN, make=make_request)
    with pytest.raises(AuthNotConfigured):
        tested.check(make_request(headers=[(KEY, b"admin")]), Access.KEY)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now

    def pass_recheck(self) -> None:
        self.now += RECHECK_S


def rewrite(path: Path, content: bytes) -> None:
    """As an operator does: a new file in the old one's place."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.replace(path)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_bytes(b"# first line\n\n one \r\ntw\xff\n#three\n")
    return path


def test_each_line_of_the_file_is_a_key(key_file: Path, make_request: Make) -> None:
    tested = gate(api_key="own", api_key_file=key_file)
    for offered, allowed in {
        b"own": True,
        b"one": True,
        b"tw\xff": True,
        b"#three": False,
        b"three": False,
        b"# first line": False,
        b"": False,
        b"one\ntw\xff": False,
    }.items():
        assert passes(tested, (KEY, offered), make=make_request) is allowed, offered


def test_rotated_key_is_taken_up(key_file: Path, make_request: Make) -> None:
    clock = Clock()
    tested = gate(clock, api_key_file=key_file)
    assert passes(tested, (KEY, b"one"), make=make_request)
    rewrite(key_file, b"fresh\n")
    assert passes(tested, (KEY, b"one"), make=make_request)
    clock.pass_recheck()
    assert not passes(tested, (KEY, b"one"), make=make_request)
    assert passes(tested, (KEY, b"fresh"), make=make_request)


def test_unchanged_file_is_not_read_again(
    key_file: Path, make_request: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    tested = gate(clock, api_key_file=key_file)
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("read again"))
    for _ in range(3):
        clock.pass_recheck()
        assert passes(tested, (KEY, b"one"), make=make_request)


def test_deleted_file_takes_its_keys_with_it(key_file: Path, make_request: Make) -> None:
    clock = Clock()
    tested = gate(clock, api_key_file=key_file)
    content = key_file.read_bytes()
    key_file.unlink()
    clock.pass_recheck()
    with pytest.raises(AuthNotConfigured):
        tested.check(make_request(headers=[(KEY, b"one")]), Access.KEY)
    key_file.write_bytes(content)
    clock.pass_recheck()
    assert passes(tested, (KEY, b"one"), make=make_request)


def test_server_without_descriptors_keeps_the_keys_that_it_knows(
    key_file: Path, make_request: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    tested = gate(clock, api_key_file=key_file)
    rewrite(key_file, b"fresh\n")

    def none_left(self: Path) -> bytes:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", none_left)
        clock.pass_recheck()
        assert passes(tested, (KEY, b"one"), make=make_request)
    clock.pass_recheck()
    assert passes(tested, (KEY, b"fresh"), make=make_request)


def test_file_that_is_empty_closes_the_server(tmp_path: Path, make_request: Make) -> None:
    empty = tmp_path / "keys"
    empty.write_bytes(b"\n  \n# none\n")
    with pytest.raises(AuthNotConfigured):
        gate(api_key_file=empty).check(make_request(headers=[(KEY, b"")]), Access.KEY)


@pytest.mark.parametrize(
    ("key", "keys", "says"),
    [
        (
            None,
            None,
            "no key is configured: set THALAMUS_API_KEY, or every protected route answers",
        ),
        ("own", None, None),
        (None, b"one\n", None),
        (None, b"# none\n", "THALAMUS_API_KEY_FILE holds no key: write one, or every protected"),
        ("own", b"", "THALAMUS_API_KEY_FILE holds no key: only that of THALAMUS_API_KEY is taken"),
    ],
)
def test_operator_is_told_of_keys_that_are_missing(
    key: str | None, keys: bytes | None, says: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "keys"
    if keys is not None:
        path.write_bytes(keys)
    said = gate(api_key=key, api_key_file=None if keys is None else path).missing()
    assert (said is None) if says is None else (said or "").startswith(says)


def test_file_that_loses_its_keys_is_told_once(
    key_file: Path, make_request: Make, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    tested = gate(clock, api_key="own", api_key_file=key_file)
    for lose in (key_file.unlink, lambda: rewrite(key_file, b"# none\n")):
        rewrite(key_file, b"one\n")
        clock.pass_recheck()
        assert passes(tested, (KEY, b"one"), make=make_request)
        caplog.clear()
        lose()
        for _ in range(3):
            clock.pass_recheck()
            assert not passes(tested, (KEY, b"one"), make=make_request)
        (record,) = caplog.records
        assert record.levelname == "WARNING"
        assert record.getMessage().startswith("THALAMUS_API_KEY_FILE is gone or holds no key any")


def test_file_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(ConfigurationError, match="THALAMUS_API_KEY_FILE cannot be read"):
            gate(api_key_file=path)
