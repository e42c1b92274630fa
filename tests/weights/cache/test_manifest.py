from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from thalamus_lite.weights.manifest import Manifest, ManifestFile, ManifestInvalid, _sum

KEY = "ab" * 32
MANIFEST = Manifest(
    id=f"{KEY[:16]}-{'1' * 16}",
    key=KEY,
    ident="cd" * 32,
    name="s3://b/k",
    validator="v",
    checked_at=1.5,
    relpath="m",
    files=(ManifestFile("m", "ef" * 32, 3),),
)


def resealed(**changes: Any) -> bytes:
    """Somebody's manifest: changed, with the right sum."""
    body = json.loads(MANIFEST.to_json()) | changes
    body.pop("sum")
    version = body.pop("format")
    return json.dumps({"format": version, **body, "sum": _sum(body)}).encode()


def test_a_manifest_reads_back_as_itself() -> None:
    assert Manifest.from_json(MANIFEST.to_json()) == MANIFEST
    folder = replace(MANIFEST, relpath=None, checked_at=None)
    assert Manifest.from_json(folder.to_json()) == folder
    assert MANIFEST.size == 3


def test_no_byte_of_it_can_be_changed_unseen() -> None:
    data = MANIFEST.to_json()
    for position in range(len(data)):
        for bit in (1, 8, 32):
            changed = bytearray(data)
            changed[position] ^= bit
            try:
                assert Manifest.from_json(bytes(changed)) == MANIFEST
            except ManifestInvalid:
                continue


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"null",
        b"{}",
        b"[" * 100_000,
        b'{"format": 2, "sum": ""}',
        resealed(files=[{"relpath": "../x", "sha256": "ef" * 32, "size": 3}], relpath="../x"),
        resealed(files=[{"relpath": "x", "sha256": "ef" * 32, "size": 3}]),
        resealed(files=[{"relpath": "m", "sha256": "../x", "size": 3}]),
        resealed(files=[{"relpath": "m", "sha256": "ef" * 32, "size": -1}]),
        resealed(files=[{"relpath": "m", "sha256": "ef" * 32, "size": "3"}]),
        resealed(files=[], relpath=None),
        resealed(id="../../x"),
        resealed(id=f"{'0' * 16}-{'1' * 16}"),
        resealed(key=7),
        resealed(extra=1),
    ],
)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestInvalid):
        Manifest.from_json(data)
