from __future__ import annotations

import base64
import hashlib
import sys
import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalamus_lite.weights.origin import RemoteFile
from thalamus_lite.weights.transfer.verify import CHECKS, Verifier, is_verifiable

DATA = b"the quick brown fox" * 99
SIZE = len(DATA)


def git_sha1(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def crc(name, data):
    checksums = pytest.importorskip("awscrt.checksums")
    width = {"crc64nvme": 8, "crc32c": 4}[name]
    return base64.b64encode(getattr(checksums, name)(data).to_bytes(width, "big")).decode()


CLAIMS = {
    "sha256": lambda data: hashlib.sha256(data).hexdigest(),
    "git_sha1": git_sha1,
    "sha1": lambda data: hashlib.sha1(data).hexdigest(),
    "crc64nvme": lambda data: crc("crc64nvme", data),
    "crc32c": lambda data: crc("crc32c", data),
    "crc32": lambda data: base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode(),
    "md5": lambda data: hashlib.md5(data).hexdigest(),
}


def verified(digests, data, size=SIZE, block=100):
    verifier = Verifier(digests, size)
    for start in range(0, len(data), block):
        verifier.update(memoryview(data[start : start + block]))
    return verifier


@pytest.mark.parametrize("name", CHECKS)
def test_each_digest_is_checked(name):
    claim = {name: CLAIMS[name](DATA)}
    assert verified(claim, DATA).check == name
    assert verified(claim, DATA).matches()
    assert not verified(claim, DATA[:-1] + b"X").matches()
    assert verified(claim, DATA).sha256 == hashlib.sha256(DATA).hexdigest()


def test_published_check_values_of_the_crcs():
    # The "check" column of the catalogue of CRC algorithms: of the nine digits.
    expected = {"crc32": 0xCBF43926, "crc32c": 0xE3069283, "crc64nvme": 0xAE8B14860A799888}
    for name, value in expected.items():
        width = 8 if name == "crc64nvme" else 4
        claim = {name: base64.b64encode(value.to_bytes(width, "big")).decode()}
        pytest.importorskip("awscrt.checksums")
        assert verified(claim, b"123456789", size=9).matches()


def test_strongest_claim_decides():
    names = list(CHECKS)
    for strong, weak in pairwise(names):
        claims = {weak: "wrong", strong: CLAIMS[strong](DATA)}
        assert verified(claims, DATA).matches()
        assert verified(claims, DATA).check == strong


def test_without_a_claim_everything_matches():
    for claims in ({}, {"sha256": ""}, {"whirlpool": "x"}):
        assert verified(claims, DATA).check == ""
        assert verified(claims, DATA).matches()


def test_git_needs_the_length_beforehand():
    assert Verifier({"git_sha1": "x"}, None).check == ""


def test_missing_accelerator_passes_its_claim_over(monkeypatch):
    claims = {"crc64nvme": "x", "crc32c": "y", "md5": CLAIMS["md5"](DATA)}
    monkeypatch.setitem(sys.modules, "awscrt.checksums", None)
    assert verified(claims, DATA).check == "md5"
    monkeypatch.setitem(sys.modules, "awscrt.checksums", object())
    assert verified(claims, DATA).check == "md5"


def test_base64_is_read_letter_by_letter():
    assert not verified({"crc32": CLAIMS["crc32"](DATA).swapcase()}, DATA).matches()


@given(st.binary(max_size=300), st.integers(1, 50))
def test_blocks_make_no_difference(data, block):
    for name in ("sha256", "git_sha1", "crc32"):
        assert verified({name: CLAIMS[name](data)}, data, len(data), block).matches()


def test_file_is_verifiable_by_a_claim_that_can_be_checked():
    assert is_verifiable(RemoteFile("a", "", 1, "", {"md5": "x"}))
    assert not is_verifiable(RemoteFile("a", "", 1, "", {}))
    assert not is_verifiable(RemoteFile("a", "", None, "", {"git_sha1": "x"}))
