from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from thalamus_lite.errors import WeightSourceInvalid
from thalamus_lite.weights.sources import FileWeight, HFWeight, HTTPWeight, S3Weight, WeightSource
from thalamus_lite.weights.uris import source_from_uri

SHA = "AB" * 32

BAD: list[tuple[Any, dict[str, Any], str]] = [
    (S3Weight, {"bucket": "b"}, "Either 'key' or 'prefix'"),
    (S3Weight, {"bucket": "b", "key": "k", "prefix": "p"}, "Cannot specify both"),
    (S3Weight, {"bucket": "", "key": "k"}, "bare name"),
    (S3Weight, {"bucket": "s3://b", "key": "k"}, "bare name"),
    (S3Weight, {"bucket": "b", "prefix": ""}, "must not be empty"),
    (S3Weight, {"bucket": "b", "prefix": "/"}, "must not be empty"),
    (S3Weight, {"bucket": "b", "key": "k\n"}, "must not be empty"),
    (S3Weight, {"bucket": "b", "key": "k", "endpoint_url": "minio:9000"}, "endpoint_url"),
    (S3Weight, {"bucket": "b", "prefix": "p", "sha256": SHA}, "single file"),
    (S3Weight, {"bucket": "b", "key": "k", "allow_patterns": ["*"]}, "for directories"),
    (S3Weight, {"bucket": "b", "prefix": "p", "allow_patterns": []}, "at least one pattern"),
    (S3Weight, {"bucket": "b", "key": "k", "sha265": SHA}, "not permitted"),
    (HFWeight, {"repo": ""}, "owner/name"),
    (HFWeight, {"repo": "a/b/c"}, "owner/name"),
    (HFWeight, {"repo": "../b"}, "owner/name"),
    (HFWeight, {"repo": "a/b", "filename": "../x"}, "component"),
    (HFWeight, {"repo": "a/b", "revision": ""}, "revision"),
    (HFWeight, {"repo": "a/b", "revision": "../x"}, "revision"),
    (HFWeight, {"repo": "a/b", "sha256": SHA}, "single file"),
    (HTTPWeight, {"urls": []}, "must not be empty"),
    (HTTPWeight, {"urls": ["ftp://h/x"]}, "http://"),
    (HTTPWeight, {"urls": ["https:///x"]}, "http://"),
    (HTTPWeight, {"urls": ["https://h:0/x"]}, "http://"),
    (HTTPWeight, {"urls": ["https://h:99999/x"]}, "http://"),
    (HTTPWeight, {"urls": ["https://h b/a"]}, "http://"),
    (HTTPWeight, {"urls": ["https://h/a b", "https://h/a%20b"]}, "twice"),
    (HTTPWeight, {"urls": ["https://[::1/x"]}, "http://"),
    (HTTPWeight, {"urls": ["https://h/x", "https://h/x"]}, "twice"),
    (HTTPWeight, {"urls": ["https://h/x"], "sha256": "abc"}, "64 hexadecimal"),
    (FileWeight, {"path": ""}, "name a file"),
    (FileWeight, {"path": "a\0b"}, "name a file"),
    (FileWeight, {"path": "s3://b/k"}, "local path"),
    (FileWeight, {"path": 3}, "string"),
]


@pytest.mark.parametrize(("kind", "fields", "says"), BAD)
def test_what_cannot_be_used_is_a_value_error_that_says_what_to_write(
    kind: Any, fields: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        kind(**fields)


def test_sources_have_the_attributes_of_thalamus_serve() -> None:
    key, prefix = S3Weight(bucket="b", key="k"), S3Weight(bucket="b", prefix="p/")
    assert (key.type, key.is_directory, prefix.is_directory, key.region) == (
        "s3",
        False,
        True,
        None,
    )
    file, snapshot = HFWeight(repo="a/b", filename="f"), HFWeight(repo="a/b")
    assert (file.type, file.is_snapshot, snapshot.is_snapshot) == ("hf", False, True)
    assert snapshot.revision == "main"
    assert snapshot.is_directory
    one, two = HTTPWeight(urls=["https://h/x"]), HTTPWeight(urls=["https://h/x", "https://h/y"])
    assert (one.type, one.is_directory, two.is_directory) == ("http", False, True)
    assert one.urls == ("https://h/x",)


def test_spaces_of_a_url_are_encoded() -> None:
    assert HTTPWeight(urls=[" https://h/a b?c=d e "]).urls == ("https://h/a%20b?c=d%20e",)


def test_sources_are_values() -> None:
    source = S3Weight(bucket="b", key="k", sha256=SHA)
    assert source.sha256 == SHA.lower()
    assert {source: 1}[S3Weight(bucket="b", key="k", sha256=SHA.lower())] == 1
    assert pickle.loads(pickle.dumps(source)) == source
    with pytest.raises(ValueError, match="frozen"):
        source.bucket = "c"


def test_lists_are_stored_as_tuples_which_can_be_hashed() -> None:
    http = HTTPWeight(urls=["https://a/b", "https://a/c"], allow_patterns=["b"])
    assert (http.urls, http.allow_patterns) == (("https://a/b", "https://a/c"), ("b",))
    assert hash(http) == hash(HTTPWeight(urls=tuple(http.urls), allow_patterns=("b",)))


def test_one_pattern_or_url_need_not_be_a_list() -> None:
    assert HFWeight(repo="a/b", allow_patterns="*.json").allow_patterns == ("*.json",)
    assert HTTPWeight(urls="https://a/b") == HTTPWeight(urls=["https://a/b"])


def test_a_repository_and_urls_are_named_by_position_or_by_name() -> None:
    named = HFWeight(repo="a/b", filename="f")
    assert HFWeight("a/b", filename="f") == named
    assert repr(HFWeight("a/b", filename="f")) == repr(named)
    assert HTTPWeight("https://h/x") == HTTPWeight(urls=["https://h/x"])
    assert HTTPWeight(["https://h/x", "https://h/y"]).is_directory
    for kind, field in ((HFWeight, "repo"), (HTTPWeight, "urls")):
        with pytest.raises(ValueError, match=f"{field}\n  Field required"):
            kind()


def test_a_file_is_named_by_position_or_by_name(tmp_path: Path) -> None:
    assert FileWeight("x") == FileWeight(path="x") == FileWeight(Path("x"))
    assert FileWeight("~/x").path == str(Path("~/x").expanduser())
    assert FileWeight(tmp_path).is_directory
    assert not FileWeight(tmp_path / "x").is_directory
    assert FileWeight("x").type == "file"


def test_the_union_reads_back_what_was_dumped() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(WeightSource)
    for source in (
        S3Weight(bucket="b", key="k"),
        HFWeight(repo="a/b"),
        HTTPWeight(urls=["https://h/x"]),
        FileWeight("x"),
    ):
        assert adapter.validate_json(source.model_dump_json()) == source


def test_no_secret_of_a_url_is_shown() -> None:
    source = HTTPWeight(urls=["https://u:canary@h/x?X-Amz-Signature=canary"])
    s3 = S3Weight(bucket="b", key="k", endpoint_url="https://u:canary@h")
    assert "canary" not in repr(source) + str(source) + source.name + repr(s3) + str(s3) + s3.name
    with pytest.raises(ValueError, match="http://") as caught:
        HTTPWeight(urls=["ftp://u:canary@h/x"])
    assert "canary" not in str(caught.value)


def test_names_for_people() -> None:
    assert S3Weight(bucket="b", prefix="p/").name == "s3://b/p/"
    assert HFWeight(repo="a/b", filename="f/g").name == "hf:a/b@main/f/g"
    assert HFWeight(repo="a/b").name == "hf:a/b@main"
    assert HTTPWeight(urls=["https://h/x", "https://h/y"]).name == "https://h/x and 1 more"
    assert FileWeight("x").name == "file:x"


@pytest.mark.parametrize(
    ("uri", "source"),
    [
        ("s3://b/k/l.pt", S3Weight(bucket="b", key="k/l.pt")),
        ("s3://b/k/", S3Weight(bucket="b", prefix="k/")),
        ("hf:a/b", HFWeight(repo="a/b")),
        ("hf:gpt2", HFWeight(repo="gpt2")),
        ("hf:a/b/c/d.bin", HFWeight(repo="a/b", filename="c/d.bin")),
        ("hf:a/b@v1", HFWeight(repo="a/b", revision="v1")),
        ("hf:gpt2@v1/c/d.bin", HFWeight(repo="gpt2", revision="v1", filename="c/d.bin")),
        ("https://h/x?y=z", HTTPWeight(urls=["https://h/x?y=z"])),
    ],
)
def test_sources_on_a_command_line(uri: str, source: Any) -> None:
    assert source_from_uri(uri) == source


@pytest.mark.parametrize("uri", ["", "x", "s3://b", "s3:///k", "hf:", "hf:a/../b@c", "file:///x"])
def test_what_is_no_source_on_a_command_line_is_answered_with_the_forms(uri: str) -> None:
    with pytest.raises(WeightSourceInvalid, match="hf:owner/name"):
        source_from_uri(uri)
