"""Freshness, file systems, the order of use, and the files of `put`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests_weights_cache_fakes import Clock

from thalamus_lite.errors import CacheUnusable
from thalamus_lite.weights.freshness import is_fresh
from thalamus_lite.weights.index.records import Known
from thalamus_lite.weights.index.uses import Uses
from thalamus_lite.weights.mounts import NETWORK, fs_type
from thalamus_lite.weights.options import boot_id, free_bytes
from thalamus_lite.weights.put import put_files, put_name
from thalamus_lite.weights.want import content_ident, source_key

times = st.floats(0, 1e9)


def known(checked_at: float | None) -> Known:
    return Known("id", "v", checked_at, None, 0)


@given(times, times, times, times)
def test_freshness(checked: float, now: float, ttl: float, since: float) -> None:
    fresh = is_fresh(known(checked), now=now, ttl_s=ttl, since=since)
    if checked > now:
        assert not fresh
    elif checked >= since or now - checked < ttl:
        assert fresh
    else:
        assert not fresh
    assert is_fresh(known(None), now=now, ttl_s=ttl, since=since)


MOUNTS = r"""22 1 8:1 / / rw - ext4 /dev/sda1 rw
30 22 0:30 / /data rw shared:1 - nfs4 server:/x rw
31 22 0:31 / /data/my\040disk rw - xfs /dev/sdb rw
32 22 0:32 / /mnt/twice rw - ext4 /dev/sdc rw
33 22 0:33 / /mnt/twice rw - cifs //server/share rw
short line
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/x", "ext4"),
        ("/data", "nfs4"),
        ("/data/a/b", "nfs4"),
        ("/database", "ext4"),
        ("/data/my disk/x", "xfs"),
        ("/mnt/twice/x", "cifs"),
    ],
)
def test_the_file_system_of_a_path(tmp_path: Path, path: str, kind: str) -> None:
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(MOUNTS)
    assert fs_type(Path(path), mountinfo) == kind
    assert fs_type(Path(path), tmp_path / "missing") == ""


def test_this_machine_is_known(tmp_path: Path) -> None:
    assert fs_type(tmp_path) not in NETWORK
    assert free_bytes(tmp_path) > 0
    assert boot_id() == boot_id() != ""


class Touched:
    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.error: Exception | None = None

    def touch(self, ids: Any) -> None:
        self.calls.append(list(ids))
        if self.error is not None:
            raise self.error


def test_uses_are_written_at_most_once_a_minute_and_in_order() -> None:
    clock, index = Clock(0.0), Touched()
    uses = Uses(clock)
    for entry in ("a", "b", "a", "c", "b"):
        uses.used(index, entry)  # type: ignore[arg-type]
    assert index.calls == [["a"]]
    clock.now += 60
    uses.used(index, "d")  # type: ignore[arg-type]
    assert index.calls[1:] == [["a", "c", "b", "d"]]
    uses.flush(index)  # type: ignore[arg-type]
    assert len(index.calls) == 2


def test_a_use_that_cannot_be_written_fails_nobody() -> None:
    index = Touched()
    index.error = CacheUnusable("locked")
    Uses(Clock()).used(index, "a")  # type: ignore[arg-type]
    assert index.calls == [["a"]]


@pytest.mark.parametrize(
    ("key", "name"),
    [("s3://b/k/model.pt", "model.pt"), ("model", "model")],
)
def test_a_put_file_is_named_by_its_key(key: str, name: str) -> None:
    assert put_files(key).files[0].relpath == name


@pytest.mark.parametrize("key", ["", "a/", "..", "https://h/..", "a\0", "\ud800", "x" * 300])
def test_a_key_that_is_no_name_gets_another(key: str) -> None:
    assert len(put_files(key).files[0].relpath) == 16
    assert put_name(key).isascii()


def test_a_put_url_is_shown_without_its_query() -> None:
    assert put_name("https://u:p@h/x?sig=s") == "https://h/x"
    assert put_name("https://[::1/x") == "put"


def test_keys_and_idents_tell_things_apart() -> None:
    keys = {
        source_key("a"),
        source_key("a", ["p"]),
        source_key("a", None, "sha"),
        source_key("b"),
    }
    assert len(keys) == 4
    one, two = put_files("a"), put_files("b")
    assert content_ident("k", one) == content_ident("k", two) != content_ident("l", one)
    bare = [type(r)(r.files, False, "", False) for r in (one, two)]
    assert content_ident("k", bare[0]) != content_ident("k", bare[1])
