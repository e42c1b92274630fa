from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from thalamus_lite.errors import (
    MissingExtra,
    WeightAccessDenied,
    WeightCorrupt,
    WeightNotFound,
    WeightOffline,
    WeightSourceInvalid,
    WeightUnreachable,
)
from thalamus_lite.weights.origin import DownloadCancelled, OriginOptions, RemoteFile
from thalamus_lite.weights.origins.addresses import Guard
from thalamus_lite.weights.origins.hub_guard import guarded
from thalamus_lite.weights.origins.hub_local import LocalBody, Verified
from thalamus_lite.weights.origins.hub_origin import HubOrigin
from thalamus_lite.weights.sources import HFWeight
from thalamus_lite.weights.transfer.giving_up import until


@pytest.fixture
def repo(hub, make_repo, make_content):
    files = {
        "config.json": b'{"a": 1}',
        "model.safetensors": make_content(150_000),
        "onnx/model.onnx": make_content(2_000),
        "onnx/config.json": b"{}",
    }
    hub.repos["owner/bert"] = make_repo(files, lfs=frozenset({"model.safetensors"}))
    return hub.repos["owner/bert"]


@pytest.fixture
def origin(hub):
    return HubOrigin(OriginOptions(timeout_s=5.0), endpoint=hub.url)


def bring(bench, origin, source):
    (file,) = origin.list(source).files
    return bench.run(origin, file)


def test_lfs_file_is_listed_with_its_sha256(origin, repo):
    found = origin.list(HFWeight(repo="owner/bert", filename="model.safetensors"))
    (file,) = found.files
    sha256 = hashlib.sha256(repo.files["model.safetensors"]).hexdigest()
    assert (file.relpath, file.size, file.digests) == (
        "model.safetensors",
        150_000,
        {"sha256": sha256},
    )
    assert (found.validator, found.directory, found.immutable) == (repo.commit, False, False)


def test_small_file_is_listed_with_its_blob(origin, repo):
    (file,) = origin.list(HFWeight(repo="owner/bert", filename="config.json")).files
    assert file.digests == {"git_sha1": repo.etag("config.json")}
    assert file.size == 8


def test_full_commit_is_never_asked_again(origin, repo):
    found = origin.list(HFWeight(repo="owner/bert", filename="config.json", revision=repo.commit))
    assert found.immutable
    assert origin.list(HFWeight(repo="owner/bert", revision=repo.commit)).immutable


def test_snapshot_lists_all_files(origin, repo):
    found = origin.list(HFWeight(repo="owner/bert"))
    assert [file.relpath for file in found.files] == list(repo.files)
    assert found.directory
    assert found.validator == repo.commit
    digests = {file.relpath: file.digests for file in found.files}
    assert digests["onnx/model.onnx"] == {"git_sha1": repo.etag("onnx/model.onnx")}
    assert digests["model.safetensors"] == {"sha256": repo.etag("model.safetensors")}


def test_patterns_choose_as_the_library_does(origin, repo):
    from huggingface_hub.utils import filter_repo_objects

    for patterns in (["*.json"], ["onnx/"], ["onnx/*", "config.json"], ["*"], ["[mc]o*"]):
        found = origin.list(HFWeight(repo="owner/bert", allow_patterns=patterns))
        expected = list(filter_repo_objects(repo.files, allow_patterns=patterns))
        assert [file.relpath for file in found.files] == expected


def test_patterns_that_choose_nothing_are_told(origin, repo):
    with pytest.raises(WeightNotFound, match="allow_patterns"):
        origin.list(HFWeight(repo="owner/bert", allow_patterns=["*.gguf"]))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "onnx/model.onnx"])
def test_file_comes_whole(origin, repo, bench, name):
    bring(bench, origin, HFWeight(repo="owner/bert", filename=name))
    assert bench.bytes() == repo.files[name]


def test_token_goes_to_the_hub_and_not_to_its_content_network(origin, hub, repo, bench):
    repo.private = True
    bring(bench, origin, HFWeight(repo="owner/bert", filename="model.safetensors"))
    assert hub.cdn_requests
    assert all("hf_canarytoken" not in repr(request) for request in hub.cdn_requests)
    sent = [headers.get("authorization") for headers in hub.asked("GET", "resolve")]
    assert set(sent) == {"Bearer hf_canarytoken"}


def test_redirect_is_remembered_for_the_ranges_of_a_file(origin, hub, repo, bench):
    bring(bench, origin, HFWeight(repo="owner/bert", filename="model.safetensors"))
    gets = [request for request in hub.cdn_requests if request[0] == "GET"]
    # Workers that start together may each ask once.
    assert len(hub.asked("GET", "resolve")) <= bench.options.connections < len(gets)


def test_expired_signature_is_renewed(origin, hub, repo, bench):
    source = HFWeight(repo="owner/bert", filename="model.safetensors")
    (file,) = origin.list(source).files
    origin.open(file, 0, 10).close()
    hub.cdn_failures.append(403)
    bench.run(origin, file)
    assert bench.bytes() == repo.files["model.safetensors"]


def test_damage_on_the_content_network_is_fetched_again(origin, hub, repo, bench):
    hub.cdn_damage = 1
    bring(bench, origin, HFWeight(repo="owner/bert", filename="model.safetensors"))
    assert bench.bytes() == repo.files["model.safetensors"]
    assert () in bench.saved


def test_damage_that_stays_is_an_error(origin, hub, repo, bench):
    hub.cdn_damage = 1000
    with pytest.raises(WeightCorrupt, match="sha256"):
        bring(bench, origin, HFWeight(repo="owner/bert", filename="model.safetensors"))


def test_git_blob_is_verified(origin, hub, repo, bench):
    (file,) = origin.list(HFWeight(repo="owner/bert", filename="config.json")).files
    repo.files["config.json"] = b'{"a": 2}'
    hub.repos["owner/bert"] = repo
    listed = json.loads(file.locator)
    object.__setattr__(file, "locator", json.dumps([listed[0], "main", listed[2]]))
    with pytest.raises(WeightCorrupt, match="git_sha1"):
        bench.run(origin, file)


def test_unchanged_branch_is_confirmed(origin, repo):
    for source in (
        HFWeight(repo="owner/bert"),
        HFWeight(repo="owner/bert", filename="config.json"),
    ):
        assert origin.revalidate(source, repo.commit) is None


def test_moved_branch_is_listed_anew(origin, repo):
    before = repo.commit
    repo.files["config.json"] = b"{}"
    for source in (
        HFWeight(repo="owner/bert"),
        HFWeight(repo="owner/bert", filename="config.json"),
    ):
        found = origin.revalidate(source, before)
        assert found is not None
        assert found.validator == repo.commit != before


@pytest.mark.parametrize(
    ("source", "kind", "text"),
    [
        (HFWeight(repo="owner/none"), WeightNotFound, "HF_TOKEN"),
        (HFWeight(repo="owner/none", filename="x"), WeightNotFound, "HF_TOKEN"),
        (HFWeight(repo="owner/bert", filename="x"), WeightNotFound, "no such file"),
        (HFWeight(repo="owner/bert", revision="v9"), WeightNotFound, "no such revision"),
        (HFWeight(repo="owner/bert", filename="x", revision="v9"), WeightNotFound, "revision"),
        (HFWeight(repo="owner/gated"), WeightAccessDenied, "gated"),
        (HFWeight(repo="owner/gated", filename="x"), WeightAccessDenied, "gated"),
        (HFWeight(repo="owner/empty"), WeightNotFound, "empty"),
    ],
)
def test_refusals_say_what_to_do(origin, hub, repo, make_repo, source, kind, text):
    hub.repos["owner/gated"] = make_repo({"x": b"1"}, gated=True)
    hub.repos["owner/empty"] = make_repo({})
    with pytest.raises(kind, match=text) as caught:
        origin.list(source)
    assert "hf_canarytoken" not in str(caught.value)


def test_private_repository_needs_a_token(origin, hub, repo, monkeypatch):
    repo.private = True
    monkeypatch.setenv("HF_TOKEN", "")
    with pytest.raises(WeightNotFound, match="private"):
        origin.list(HFWeight(repo="owner/bert"))


@pytest.mark.parametrize("filename", [None, "config.json"])
def test_listing_is_tried_again(origin, hub, repo, filename):
    hub.failures.extend([503, 429])
    with_patience = origin.list(HFWeight(repo="owner/bert", filename=filename))
    assert with_patience.validator == repo.commit


@pytest.mark.parametrize("filename", [None, "config.json"])
def test_revalidation_is_not(origin, hub, repo, filename):
    hub.failures.extend([503] * 20)
    with pytest.raises(WeightUnreachable):
        origin.revalidate(HFWeight(repo="owner/bert", filename=filename), "x")


def test_hub_that_is_away_is_unreachable(repo):
    origin = HubOrigin(OriginOptions(timeout_s=0.5), endpoint="http://127.0.0.1:1")
    for filename in (None, "config.json"):
        with pytest.raises(WeightUnreachable, match="no connection") as caught:
            origin.revalidate(HFWeight(repo="owner/bert", filename=filename), "x")
        assert getattr(caught.value, "retryable", False)


def test_private_addresses_are_refused_before_the_library_dials(hub, repo):
    origin = HubOrigin(OriginOptions(deny_private_addresses=True), endpoint=hub.url)
    source = HFWeight(repo="owner/bert", filename="config.json")
    for ask in (lambda: origin.list(source), lambda: origin.revalidate(source, "")):
        with pytest.raises(WeightAccessDenied, match="private address"):
            ask()
    assert hub.requests == []


def test_redirect_to_a_private_address_is_refused(hub, repo, bench):
    hub.cdn_url = hub.cdn_url.replace("127.0.0.1", "localhost")
    guard = Guard(
        resolve=lambda host, port: ["127.0.0.1" if host == "127.0.0.1" else "10.0.0.1"],
        allowed=lambda address: address == "127.0.0.1",
    )
    origin = HubOrigin(OriginOptions(), guard, hub.url)
    with pytest.raises(WeightAccessDenied, match="localhost is a private address"):
        bring(bench, origin, HFWeight(repo="owner/bert", filename="model.safetensors"))


@pytest.mark.parametrize("name", [None, "config.json"])
def test_redirect_that_the_library_follows_is_held_against_the_guard(hub, repo, fault_server, name):
    import huggingface_hub.utils

    hub.redirect_to = fault_server.url.replace("127.0.0.1", "localhost")
    guard = Guard(
        resolve=lambda host, port: ["127.0.0.1" if host == "127.0.0.1" else "10.0.0.1"],
        allowed=lambda address: address == "127.0.0.1",
    )
    origin = HubOrigin(OriginOptions(timeout_s=5.0), guard, hub.url)
    with pytest.raises((WeightAccessDenied, WeightUnreachable)):
        origin.list(HFWeight(repo="owner/bert", filename=name))
    assert fault_server.requests == []
    # The session is the user's as well, and their own calls go where they like.
    if name is None:
        huggingface_hub.utils.get_session().get(hub.redirect_to + "/users-own")
        assert fault_server.requests


def test_redirects_are_seen_through_older_versions_of_the_library_too(fault_server, act):
    import requests

    with requests.Session() as session:
        library = SimpleNamespace(utils=SimpleNamespace(get_session=lambda: session))
        fault_server.paths["/far"] = act(status=302, headers={"Location": "http://10.0.0.1/x"})
        fault_server.paths["/near"] = act(status=302, headers={"Location": "/there"})
        guard = Guard(allowed=lambda address: address == "127.0.0.1")
        with guarded(guard, library, fault_server.url), guarded(guard, library, fault_server.url):
            assert session.get(fault_server.url + "/near").status_code == 200
            with pytest.raises(WeightAccessDenied, match=r"10\.0\.0\.1 is a private address"):
                session.get(fault_server.url + "/far")
        assert len(session.hooks["response"]) == 1


def paged(act, fault_server, next_url):
    """A listing of one file, whose next page is at ``next_url``."""
    entry = {"type": "file", "path": "a", "size": 1, "oid": "0" * 40}
    info = {"id": "o/n", "sha": "a" * 40}
    fault_server.paths["/api/models/o/n/revision/main"] = act(body=json.dumps(info).encode())
    tree = act(body=json.dumps([entry]).encode(), headers={"Link": f'<{next_url}>; rel="next"'})
    fault_server.paths[f"/api/models/o/n/tree/{'a' * 40}"] = tree
    return tree


def test_token_does_not_follow_a_listing_to_another_host(fault_server, act, hub):
    other = fault_server.url.replace("127.0.0.1", "localhost")
    paged(act, fault_server, other + "/elsewhere")
    fault_server.paths["/elsewhere"] = act(body=b"[]")
    origin = HubOrigin(OriginOptions(timeout_s=5.0), endpoint=fault_server.url)
    found = origin.list(HFWeight(repo="o/n"))
    assert [file.relpath for file in found.files] == ["a"]
    sent = {request.path: "authorization" in request.headers for request in fault_server.requests}
    assert sent.pop("/elsewhere") is False
    assert set(sent.values()) == {True}


def test_listing_without_an_end_is_an_error(fault_server, act, hub, monkeypatch):
    monkeypatch.setattr("thalamus_lite.weights.origins.hub_guard._MOST_REQUESTS", 5)
    paged(act, fault_server, fault_server.url + f"/api/models/o/n/tree/{'a' * 40}?cursor=x")
    origin = HubOrigin(OriginOptions(timeout_s=5.0), endpoint=fault_server.url)
    with pytest.raises(WeightUnreachable, match="does not come to an end"):
        origin.list(HFWeight(repo="o/n"))
    assert len(fault_server.requests) == 1 + 5


def test_nobody_waits_for_pages_that_are_not_wanted_any_more(origin, hub, repo):
    cancel = threading.Event()
    cancel.set()
    with until(cancel), pytest.raises(DownloadCancelled):
        origin.list(HFWeight(repo="owner/bert"))
    assert hub.requests == []


@pytest.mark.parametrize("size", [-5, 2**63, "five", 0.5])
def test_size_that_no_file_has_is_typed(origin, hub, repo, monkeypatch, size):
    stub = sys.modules[type(hub).__module__]
    entries = stub._tree(repo)
    entries[0]["size"] = size
    monkeypatch.setattr(stub, "_tree", lambda repo: entries)
    with pytest.raises(WeightUnreachable, match="sizes that no files have"):
        origin.list(HFWeight(repo="owner/bert"))


def test_older_versions_of_the_library_keep_the_token_too(fault_server, act):
    import requests

    with requests.Session() as session:
        library = SimpleNamespace(utils=SimpleNamespace(get_session=lambda: session))
        page = act(headers={"Link": '<http://other.example/next>; rel="next"'})
        fault_server.paths["/tree"] = page
        with guarded(None, library, fault_server.url):
            assert session.get(fault_server.url + "/tree").status_code == 200
            with pytest.raises(WeightUnreachable, match="another host"):
                session.get(fault_server.url + "/tree", headers={"Authorization": "Bearer t"})


def test_private_addresses_are_refused_with_the_endpoint_of_the_library():
    code = (
        "from thalamus_lite import HFWeight\n"
        "from thalamus_lite.weights.origins.hub_origin import HubOrigin\n"
        "from thalamus_lite.weights.origin import OriginOptions\n"
        "HubOrigin(OriginOptions(deny_private_addresses=True)).list(HFWeight(repo='a/b'))\n"
    )
    environ = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:1"}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True)
    assert "WeightAccessDenied: 127.0.0.1 is a private address" in done.stderr


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"7", b'{"sha": {}}', b"null"])
def test_answer_that_makes_no_sense_is_typed(hub, repo, fault_server, act, body):
    fault_server.script.extend([act(body=body, ignore_range=True)] * 9)
    origin = HubOrigin(OriginOptions(timeout_s=5.0), endpoint=fault_server.url)
    with pytest.raises(WeightUnreachable, match="HF_ENDPOINT"):
        origin.list(HFWeight(repo="owner/bert"))


def test_offline_library_opens_no_connection(origin, hub, repo, monkeypatch):
    import huggingface_hub.utils._http as library

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("reset_sessions", "close_session"):
        if hasattr(library, name):
            getattr(library, name)()
    with pytest.raises(WeightOffline, match="HF_HUB_OFFLINE"):
        origin.list(HFWeight(repo="owner/bert", filename="config.json"))
    assert hub.requests == []


def test_name_that_the_library_refuses_is_told(origin, repo):
    source = HFWeight.model_construct(
        repo="a" * 200, filename="x", revision="main", sha256=None, allow_patterns=None
    )
    with pytest.raises(WeightSourceInvalid, match="refuses"):
        origin.list(source)


def test_server_that_is_not_a_hub_is_told(fault_server):
    origin = HubOrigin(OriginOptions(timeout_s=5.0), endpoint=fault_server.url)
    with pytest.raises(WeightUnreachable, match="HF_ENDPOINT"):
        origin.list(HFWeight(repo="owner/bert", filename="x"))


def library_copy(repo, name, data):
    """Put a file where huggingface-hub would have downloaded it to."""
    from huggingface_hub import constants

    root = Path(constants.HF_HUB_CACHE) / "models--owner--bert" / "snapshots" / repo.commit
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(data)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_copy_in_the_cache_of_the_library_is_taken(origin, hub, repo, bench, name):
    library_copy(repo, name, repo.files[name])
    (file,) = origin.list(HFWeight(repo="owner/bert", filename=name)).files
    hub.requests.clear()
    bench.run(origin, file)
    assert bench.bytes() == repo.files[name]
    assert hub.requests == hub.cdn_requests == []


@pytest.mark.parametrize("damage", [b"x", b""])
def test_damaged_copy_of_the_library_is_not_taken(origin, repo, bench, damage):
    data = repo.files["model.safetensors"]
    library_copy(repo, "model.safetensors", damage + data[1:])
    bring(bench, origin, HFWeight(repo="owner/bert", filename="model.safetensors"))
    assert bench.bytes() == data


def test_copy_that_vanishes_is_fetched(origin, repo, bench, monkeypatch):
    library_copy(repo, "config.json", repo.files["config.json"])

    def gone(*args):
        raise FileNotFoundError

    monkeypatch.setattr("thalamus_lite.weights.origins.hub_origin.LocalBody", gone)
    bring(bench, origin, HFWeight(repo="owner/bert", filename="config.json"))
    assert bench.bytes() == repo.files["config.json"]


def test_identity_names_endpoint_repository_and_revision(origin, hub, monkeypatch):
    source = HFWeight(repo="owner/bert", filename="x", revision="v1")
    assert origin.identity(source) == f"hf:{hub.url}/owner/bert@v1/x"
    default = HubOrigin(OriginOptions())
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert default.identity(HFWeight(repo="a/b")) == "hf:https://huggingface.co/a/b@main/"
    monkeypatch.setenv("HF_ENDPOINT", "https://user:secret@mirror.example/hf/?q=1")
    assert default.identity(HFWeight(repo="a/b")) == "hf:https://mirror.example/hf/a/b@main/"


def test_missing_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtra, match=r'pip install "thalamus-lite\[hf\]"'):
        HubOrigin(OriginOptions()).list(HFWeight(repo="owner/bert"))


def test_nothing_secret_is_logged(origin, hub, repo, bench, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG)
    # The library's own client logs every header at DEBUG; that is the operator's to switch off.
    for name in ("httpcore", "httpcore2", "httpcore2.http11", "httpcore.http11"):
        monkeypatch.setattr(logging.getLogger(name), "disabled", True)
    hub.cdn_failures.append(503)
    bring(bench, origin, HFWeight(repo="owner/bert", filename="model.safetensors"))
    assert any("urllib3" in record.name for record in caplog.records)
    assert "canary" not in caplog.text


def test_endpoint_and_token_come_from_the_environment(hub, repo, tmp_path):
    repo.private = True
    script = """
import hashlib, sys, threading
from pathlib import Path
from thalamus_lite.weights.origin import OriginOptions, PartFile
from thalamus_lite.weights.origins.choice import origin_for
from thalamus_lite.weights.sources import HFWeight
from thalamus_lite.weights.transfer.download import download
from thalamus_lite.weights.transfer.progress import DownloadProgress

source = HFWeight(repo="owner/bert", filename="model.safetensors")
origin = origin_for(source, OriginOptions())
(file,) = origin.list(source).files
part = PartFile(Path(sys.argv[1]), file.size, file.validator, (), print)
progress = DownloadProgress("x", terminal=False)
print(download(origin, file, part, progress=progress, cancel=threading.Event()).sha256)
"""
    environ = os.environ | {"HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token, "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-c", script, str(tmp_path / "part")]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    expected = hashlib.sha256(repo.files["model.safetensors"]).hexdigest()
    assert done.stdout.split() == [expected], done.stderr


@pytest.mark.parametrize(
    ("status", "kind", "text"),
    [
        (401, WeightAccessDenied, "HF_TOKEN"),
        (403, WeightAccessDenied, "HF_TOKEN"),
        (404, WeightNotFound, "check the names"),
        (418, WeightUnreachable, "refused"),
        (500, WeightUnreachable, "answered 500"),
    ],
)
@pytest.mark.parametrize("filename", [None, "config.json"])
def test_statuses_without_an_error_code_are_typed(origin, hub, repo, filename, status, kind, text):
    hub.failures.extend([status] * 3)
    with pytest.raises(kind, match=text) as caught:
        origin.revalidate(HFWeight(repo="owner/bert", filename=filename), "x")
    assert getattr(caught.value, "retryable", False) is (status == 500)


def test_hub_without_a_commit_is_none(origin, hub, repo, monkeypatch):
    monkeypatch.setattr(type(repo), "commit", "")
    with pytest.raises(WeightUnreachable, match="HF_ENDPOINT"):
        origin.list(HFWeight(repo="owner/bert"))


def test_bug_in_the_library_stays_the_cause(origin, repo, monkeypatch):
    def broken(*args, **kwargs):
        raise KeyError("a bug")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", broken)
    with pytest.raises(WeightUnreachable, match="KeyError") as caught:
        origin.list(HFWeight(repo="owner/bert", filename="config.json"))
    assert isinstance(caught.value.__cause__, KeyError)


def test_validator_that_is_no_digest_is_not_taken_for_one(origin, repo, monkeypatch):
    monkeypatch.setattr(type(repo), "etag", lambda self, path: "an-etag-of-a-mirror")
    (file,) = origin.list(HFWeight(repo="owner/bert", filename="config.json")).files
    assert file.digests == {}


def test_local_body_serves_ranges(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"0123456789")
    file = RemoteFile("f", "", 10, "v", {})
    body = LocalBody(str(path), file, 2, 7)
    assert (body.status, body.start, body.total, body.validator) == (206, 2, 10, "v")
    assert [body.read(3), body.read(3), body.read(3)] == [b"234", b"56", b""]
    body.close()
    body.close()
    whole = LocalBody(str(path), file, 0, None)
    assert (whole.status, whole.read(99)) == (200, b"0123456789")
    whole.close()


def test_local_copy_is_read_once_to_be_verified(tmp_path, monkeypatch):
    path = tmp_path / "f"
    path.write_bytes(b"0123456789")
    verified = Verified()
    file = RemoteFile("f", "", 10, "v", {"md5": hashlib.md5(b"0123456789").hexdigest()})
    assert verified.holds(str(path), file)
    monkeypatch.setattr("builtins.open", None)
    assert verified.holds(str(path), file)
    monkeypatch.undo()
    assert not verified.holds(str(path), RemoteFile("f", "", 10, "v", {}))
    assert not verified.holds(str(tmp_path / "none"), file)
    monkeypatch.setattr("thalamus_lite.weights.origins.hub_local.open", _refuse, raising=False)
    path.write_bytes(b"0123456788")
    assert not Verified().holds(str(path), file)


def _refuse(*args, **kwargs):
    raise PermissionError
