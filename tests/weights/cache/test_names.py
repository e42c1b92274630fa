from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalamus_lite.errors import UnsafeName
from thalamus_lite.weights.names import (
    check_names,
    check_relpath,
    public_url,
    url_file_name,
    url_identity,
)

HOSTILE = [
    "",
    ".",
    "..",
    "../x",
    "a/../b",
    "a/./b",
    "a//b",
    "/etc/passwd",
    "a/",
    "a\\b",
    "..\\x",
    "C:/x",
    "c:x",
    "a\0b",
    "a\nb",
    "a\x1bb",
    "a\x7fb",
    "a\x85b",
    "a\u2028b",
    "\ud800",
    "x" * 256,
    "é" * 128,
    "/".join(["d" * 200] * 12),
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused(name: str) -> None:
    with pytest.raises(UnsafeName):
        check_relpath(name)


@pytest.mark.parametrize(
    "name",
    [
        "model.pt",
        "a/b/c.bin",
        ".gitattributes",
        "...",
        "a b",
        "模型.bin",
        "x" * 255,
        "aa:b",
        "-rf",
        "~",
    ],
)
def test_honest_names_pass_as_they_are(name: str) -> None:
    assert check_relpath(name) == name


@given(st.text(alphabet=st.sampled_from("./\\ab:\0\n\ud800é"), max_size=12))
def test_what_passes_stays_below_its_folder(name: str) -> None:
    try:
        check_relpath(name)
    except UnsafeName:
        return
    parts = name.split("/")
    assert parts
    assert not {"", ".", ".."} & set(parts)
    assert not set(name) & set("\\\0\n")


@pytest.mark.parametrize(
    "names",
    [
        ["a", "a"],
        ["README", "readme"],
        ["é", "e\u0301"],
        ["a", "a/b"],
        ["a/b/c", "A"],
        ["straße", "STRASSE"],
    ],
)
def test_names_that_fall_on_each_other_are_refused(names: list[str]) -> None:
    with pytest.raises(UnsafeName):
        check_names(names)
    with pytest.raises(UnsafeName):
        check_names(reversed(names))


def test_names_side_by_side_pass() -> None:
    check_names(["a/b", "a/c", "b", "ab/c"])


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:secret@Host.Example:8443/a/b?X-Amz-Signature=secret#secret",
         "https://host.example:8443/a/b"),
        ("HTTP://host", "http://host/"),
        ("https://a@b@host/x", "https://host/x"),
    ],
)  # fmt: skip
def test_a_public_url_holds_no_secret(url: str, shown: str) -> None:
    assert public_url(url) == shown


def test_signing_a_url_again_does_not_change_what_it_names() -> None:
    first = "https://h/m?X-Amz-Date=1&X-Amz-Signature=one&X-Amz-Credential=c"
    assert url_identity(first) == url_identity(first.replace("one", "two")) == "https://h/m"
    for query in (
        "sv=2022&sig=one&se=2030&sp=r&skoid=1&st=2020&sr=b",
        "AWSAccessKeyId=a&Signature=one&Expires=1&x-amz-security-token=t",
        "GoogleAccessId=a&Signature=one&Expires=1",
        "OSSAccessKeyId=a&Signature=one&Expires=1",
        "Key-Pair-Id=k&Policy=p&Signature=one",
        "X-Goog-Signature=one&X-Goog-Algorithm=a&X-Goog-SignedHeaders=host",
        "x-oss-signature=one&x-oss-signature-version=OSS4&x-oss-date=1",
    ):
        assert url_identity(f"https://h/m?{query}") == "https://h/m"
        more = url_identity(f"https://h/m?{query}&file=a")
        assert more == url_identity("https://h/m?file=a") != "https://h/m"


@pytest.mark.parametrize(
    "query",
    [
        *("si={}", "st={}", "sp={}", "se={}", "ss={}", "sr={}", "sv={}", "sig={}", "si={}&sig=1"),
        *("policy={}", "expires={}", "signature={}", "key-pair-id={}", "policy={}&signature=1"),
        *("token={}", "access_token={}", "auth={}", "api_key={}", "password={}", "hmac={}"),
        *("awsaccesskeyid={}", "expires={}&awsaccesskeyid=1", "x-oss-process={}", "x-amz-date={}"),
        "X-Amz-Signature=1&X-Amz-Credential=c&sp={}",
    ],
)
def test_what_is_not_part_of_a_known_signing_tells_urls_apart(query: str) -> None:
    names = {url_identity(f"https://h/m?{query.format(value)}") for value in ("bert", "gpt")}
    assert len(names) == 2


def test_a_query_is_compared_as_it_is_written() -> None:
    queries = ["f=a+b", "f=a%20b", "f=%ff", "f=%fe", "f", "f=", "f=1&f=2", "f=2&f=1", ""]
    assert len({url_identity(f"https://h/m?{query}") for query in queries}) == len(queries)


def test_a_query_that_chooses_the_content_tells_urls_apart() -> None:
    one, two = url_identity("https://h/get?file=a"), url_identity("https://h/get?file=b")
    assert one != two
    assert one.startswith("https://h/get#")
    assert url_identity("https://h/get?a=1&b=2") == url_identity("https://h/get?b=2&a=1")
    assert url_identity("https://h/get?size=7b") != url_identity("https://h/get?size=1b")


@given(st.text(string.ascii_letters + string.digits, min_size=20, max_size=40))
def test_no_value_of_a_query_can_be_read_in_an_identity(secret: str) -> None:
    assert secret not in url_identity(f"https://u:{secret}@h/m?unknown={secret}&token={secret}")


def test_the_file_name_of_a_url_is_decoded_and_checked() -> None:
    assert url_file_name("https://h/a/my%20model.pt?x=/../y") == "my model.pt"
    for nameless in ("https://h", "https://h/", "https://h/download/?id=3"):
        assert url_file_name(nameless) == "download"
    assert url_file_name("https://h/o/models%2Fv1%2fm.safetensors?alt=media") == "m.safetensors"
    for hostile in (
        "https://h/%2e%2e",
        "https://h/..%2Fb",
        "https://h/%2Fetc%2Fpasswd",
        "https://h/a%2F%2E%2E%2Fb",
        "https://h/a%2F",
        "https://h/a%00",
        "https://h/%ff",
    ):
        with pytest.raises(UnsafeName):
            url_file_name(hostile)
