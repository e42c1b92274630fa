"""`fetch`, `upload_s3`, `exists_s3` and `get_cache`, against real servers."""

from __future__ import annotations

from threading import TIMEOUT_MAX

import pytest

from thalamus_lite import S3Ref, exists_s3, fetch, get_cache, upload_s3
from thalamus_lite.errors import (
    ConfigurationError,
    UnsafeName,
    WeightAccessDenied,
    WeightChanged,
    WeightNotFound,
    WeightOffline,
    WeightSourceInvalid,
)
from thalamus_lite.weights import storage
from thalamus_lite.weights.origins import s3_client
from thalamus_lite.weights.sources import S3Weight
from thalamus_lite.weights.wiring import Wiring

pytestmark = pytest.mark.usefixtures("s3_login")


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("THALAMUS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("THALAMUS_CACHE_MIN_FREE_GB", "0")
    kept = dict(storage._kept)
    yield
    for path in list(storage._kept):
        if path not in kept:
            storage._kept.pop(path).release()


@pytest.fixture
def s3(moto, monkeypatch):
    """The bucket ``files`` on moto, which the environment names."""
    from thalamus_lite.weights.origins.s3_origin import client_for

    client = client_for("us-east-1", moto)
    client.create_bucket(Bucket="files")
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    yield client
    for found in client.list_objects_v2(Bucket="files").get("Contents", ()):
        client.delete_object(Bucket="files", Key=found["Key"])
    client.delete_bucket(Bucket="files")


def bodies(server):
    return sum(request.method == "GET" for request in server.requests)


def test_url_is_fetched_once_and_stays_leased(fault_server):
    path = fetch(fault_server.url + "/model.pt")
    assert path.read_bytes() == fault_server.content
    assert path.name == "model.pt"
    asked = bodies(fault_server)
    assert fetch(fault_server.url + "/model.pt") == path
    assert bodies(fault_server) == asked
    assert get_cache().clear() == (0, 0)
    assert path.exists()


def test_filename_renames_the_copy(fault_server):
    path = fetch(fault_server.url + "/model.pt?signature=secret", filename="mine.bin")
    assert (path.name, path.read_bytes()) == ("mine.bin", fault_server.content)


@pytest.mark.parametrize("name", ["a/b", "../up", "", "/etc/passwd", "nul\0"])
def test_filename_is_a_bare_name(fault_server, name):
    with pytest.raises(UnsafeName):
        fetch(fault_server.url + "/model.pt", filename=name)
    assert fault_server.requests == []


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 1e10, "5", []])
def test_timeout_is_a_positive_number(fault_server, timeout, cache):
    with pytest.raises(ConfigurationError, match="positive number of seconds"):
        fetch(fault_server.url + "/model.pt", cache=cache, timeout=timeout)
    assert fault_server.requests == []


@pytest.mark.parametrize("cache", [True, False])
def test_timeout_of_none_is_the_usual_one(fault_server, cache):
    path = fetch(fault_server.url + "/model.pt", cache=cache, timeout=None)
    assert path.read_bytes() == fault_server.content


@pytest.mark.parametrize(
    ("timeout", "used"),
    [(0.01, 1), (1, 1), (1.01, 2), (299.9, 300), (300.0, 300), (301, 600), (1e9, TIMEOUT_MAX)],
)
def test_timeout_is_rounded_up(fault_server, monkeypatch, timeout, used):
    made = []
    origin_for = storage.Wiring().origin_for
    monkeypatch.setattr(
        storage,
        "Wiring",
        lambda: Wiring(
            origin_for=lambda source, options: made.append(options) or origin_for(source, options)
        ),
    )
    fetch(fault_server.url + "/model.pt", cache=False, timeout=timeout)
    assert [options.timeout_s for options in made] == [used]


def test_what_is_left_of_a_deadline_makes_no_client_for_each_fetch(s3, fault_server, monkeypatch):
    monkeypatch.setenv("THALAMUS_CACHE_TTL_S", "0")
    s3.put_object(Bucket="files", Key="a.bin", Body=b"abc")
    before = len(s3_client._shared.clients)
    for cache in (True, False):
        for left in (299.9, 250.0, 121.5):
            assert fetch("s3://files/a.bin", cache=cache, timeout=left).read_bytes() == b"abc"
            fetch(fault_server.url + "/model.pt", cache=cache, timeout=left)
    assert len(s3_client._shared.clients) == before + 1
    assert len(get_cache()._asker._origins) == 2


def test_without_the_cache_it_is_really_fetched_and_the_callers_own(fault_server):
    cached = fetch(fault_server.url + "/model.pt")
    asked = bodies(fault_server)
    copies = [fetch(fault_server.url + "/model.pt", cache=False) for _ in range(2)]
    assert bodies(fault_server) >= asked + 2
    assert len({cached, *copies}) == 3
    for copy in copies:
        assert copy.read_bytes() == fault_server.content
        copy.write_bytes(b"mine")
        copy.unlink()
    assert cached.read_bytes() == fault_server.content


def test_object_that_changes_again_and_again_leaves_nothing_behind(
    fault_server, monkeypatch, tmp_path
):
    folders = []

    def changed(asked, folder, deny_private):
        folders.append(folder)
        (folder / "half").write_bytes(b"half")
        raise WeightChanged("it changed")

    monkeypatch.setattr(storage, "_download", changed)
    with pytest.raises(WeightChanged):
        fetch(fault_server.url + "/model.pt", cache=False)
    assert len(folders) == 3
    assert not any(folder.exists() for folder in folders)


@pytest.mark.parametrize("cache", [True, False])
def test_what_is_not_there_is_said_so(fault_server, act, cache):
    fault_server.script.extend([act(status=404)] * 4)
    with pytest.raises(WeightNotFound):
        fetch(fault_server.url + "/model.pt", cache=cache)


@pytest.mark.parametrize("cache", [True, False])
def test_offline_opens_no_socket(fault_server, monkeypatch, cache):
    monkeypatch.setenv("THALAMUS_OFFLINE", "1")
    with pytest.raises(WeightOffline):
        fetch(fault_server.url + "/model.pt", cache=cache)
    assert fault_server.requests == []


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        *(("", "''"), ("nowhere", "'nowhere'"), ("/local/x", "'/local/x'"), ("http:/x", "http:/x")),
        *(("s3://", "s3"), ("s3://bucket", "s3"), ("ftp://u:canary@x/y", "ftp"), ("http://", "")),
        *((None, "a NoneType"), (3, "an? int"), (b"https://h/x", "a bytes")),
    ],
)
def test_source_of_no_kind_is_answered_with_what_is_one(source, shown):
    with pytest.raises(
        ValueError, match=f"fetch takes .* and .*{shown}.* is none of these"
    ) as told:
        fetch(source)
    assert isinstance(told.value, WeightSourceInvalid)
    assert "canary" not in str(told.value)
    assert "\n" not in str(told.value)


def test_upload_exists_and_fetch_again(s3, tmp_path):
    local = tmp_path / "model.bin"
    local.write_bytes(b"weights")
    ref = S3Ref.from_uri("s3://files/deep/model.bin")
    assert exists_s3(ref) is False
    assert upload_s3(local, "s3://files/deep/model.bin") == ref
    assert exists_s3("s3://files/deep/model.bin") is True
    for cache in (True, False):
        path = fetch("s3://files/deep/model.bin", cache=cache)
        assert (path.name, path.read_bytes()) == ("model.bin", b"weights")
    assert fetch(ref).read_bytes() == b"weights"


def test_moto_in_the_process_serves_as_s3_does(monkeypatch, make_content, tmp_path):
    from moto import mock_aws

    from thalamus_lite.weights.origins.s3_client import _shared, client_for

    # None of these outlives moto.
    monkeypatch.setattr(_shared, "clients", {})
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    content = make_content(300_000)
    with mock_aws():
        client_for(None, None).create_bucket(Bucket="files")
        (tmp_path / "m").write_bytes(content)
        upload_s3(tmp_path / "m", "s3://files/deep/model.bin")
        for cache in (True, False):
            assert fetch("s3://files/deep/model.bin", cache=cache).read_bytes() == content
        with get_cache().acquire(S3Weight(bucket="files", prefix="deep")) as lease:
            assert (lease.path / "model.bin").read_bytes() == content


def test_upload_of_a_file_that_is_not_there_is_a_file_not_found_too(s3, tmp_path):
    with pytest.raises(WeightSourceInvalid, match="there is no file") as caught:
        upload_s3(tmp_path / "missing", "s3://files/x")
    assert isinstance(caught.value, FileNotFoundError)
    assert str(tmp_path / "missing") in str(caught.value)


@pytest.mark.parametrize("path", ["", "/", "/download/?id=3", "/%2e%2e", "/a%2fb"])
def test_filename_takes_the_place_of_a_name_that_is_none(fault_server, path):
    for cache in (True, False):
        found = fetch(fault_server.url + path, filename="w.bin", cache=cache)
        assert (found.name, found.read_bytes()) == ("w.bin", fault_server.content)


@pytest.mark.parametrize("cache", [True, False])
def test_url_without_a_file_name_is_a_download(fault_server, cache):
    assert fetch(fault_server.url + "/files/?id=3", cache=cache).name == "download"


def test_spaces_in_a_url_are_encoded_as_browsers_do(fault_server):
    assert fetch(fault_server.url + "/my model.pt").name == "my model.pt"
    assert fault_server.requests[0].path == "/my%20model.pt"


def test_bucket_that_is_not_there_is_no_false(s3, tmp_path):
    (tmp_path / "x").write_bytes(b"x")
    with pytest.raises(WeightNotFound):
        upload_s3(tmp_path / "x", "s3://no-such-bucket/x")
    with pytest.raises(WeightNotFound):
        fetch("s3://files/missing")


def test_denied_is_not_taken_for_missing(rclone, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", rclone)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "stranger")
    with pytest.raises(WeightAccessDenied):
        exists_s3("s3://files/x")


def test_cache_is_the_one_that_the_environment_describes(monkeypatch, tmp_path):
    first = get_cache()
    assert first is get_cache()
    assert first.cache_dir == tmp_path / "cache"
    monkeypatch.setenv("THALAMUS_CACHE_DIR", str(tmp_path / "other"))
    assert get_cache().cache_dir == tmp_path / "other"
