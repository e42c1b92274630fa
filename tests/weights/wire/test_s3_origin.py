from __future__ import annotations

import base64
import hashlib
import logging
import sys
import threading
import time
import zlib
from dataclasses import replace

import pytest

from thalamus_lite.errors import (
    MissingExtra,
    UnsafeName,
    WeightAccessDenied,
    WeightChanged,
    WeightCorrupt,
    WeightNotFound,
    WeightSourceInvalid,
    WeightUnreachable,
)
from thalamus_lite.weights.origin import DownloadCancelled, OriginOptions
from thalamus_lite.weights.origins.addresses import Guard
from thalamus_lite.weights.origins.choice import origin_for
from thalamus_lite.weights.origins.s3_client import _shared
from thalamus_lite.weights.origins.s3_errors import ask
from thalamus_lite.weights.origins.s3_origin import (
    S3Origin,
    client_for,
    exists,
    upload,
)
from thalamus_lite.weights.origins.s3_upload import UploadOptions
from thalamus_lite.weights.sources import S3Weight
from thalamus_lite.weights.transfer.giving_up import until
from thalamus_lite.weights.transfer.retry import RetryPolicy, is_retryable

pytestmark = pytest.mark.usefixtures("s3_login")

BUCKET = "weights"
MiB = 1024 * 1024
_DENIED = (WeightAccessDenied, "credentials")


@pytest.fixture(params=["moto", "rclone"])
def endpoint(request):
    """Both servers, one after the other."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def client(endpoint):
    client = client_for("us-east-1", endpoint)
    if not any(found["Name"] == BUCKET for found in client.list_buckets()["Buckets"]):
        client.create_bucket(Bucket=BUCKET)
    yield client
    while found := client.list_objects_v2(Bucket=BUCKET).get("Contents"):
        for entry in found:
            client.delete_object(Bucket=BUCKET, Key=entry["Key"])


@pytest.fixture
def fault_server(steady_fault_server):
    steady_fault_server.reset()
    return steady_fault_server


@pytest.fixture
def origin():
    return S3Origin(OriginOptions())


@pytest.fixture
def patient(monkeypatch):
    slept = []
    monkeypatch.setattr("thalamus_lite.weights.transfer.giving_up.time.sleep", slept.append)
    return slept


@pytest.fixture
def moto_client(moto):
    client = client_for("us-east-1", moto)
    client.create_bucket(Bucket="plain")
    yield client
    for version in client.list_object_versions(Bucket="plain").get("Versions", ()):
        client.delete_object(Bucket="plain", Key=version["Key"], VersionId=version["VersionId"])
    client.delete_bucket(Bucket="plain")


def weight(endpoint, **kwargs):
    return S3Weight(**{"bucket": BUCKET, "endpoint_url": endpoint, "region": "us-east-1"} | kwargs)


def recorder(seen):
    def record(params, **_):
        seen.append(dict(params["headers"]))

    return record


def bring(bench, origin, source):
    (file,) = origin.list(source).files
    return bench.run(origin, file)


@pytest.mark.parametrize("size", [0, 1, 5_000, 200_000])
def test_object_comes_whole(client, endpoint, origin, bench, make_content, size):
    data = make_content(size)
    client.put_object(Bucket=BUCKET, Key="a/model.pt", Body=data)
    found = origin.list(weight(endpoint, key="a/model.pt"))
    assert (found.directory, found.immutable) == (False, False)
    assert found.files[0].relpath == "model.pt"
    bench.run(origin, found.files[0])
    assert bench.bytes() == data


def test_ranges_are_asked_for_with_a_precondition(
    moto_client, moto, origin, bench, make_content, spy
):
    asked = []
    spy(moto_client, "before-call.s3.GetObject", recorder(asked))
    moto_client.put_object(Bucket="plain", Key="m", Body=make_content(200_000))
    bring(bench, origin, weight(moto, bucket="plain", key="m"))
    assert {headers["If-Match"] for headers in asked} == {
        f'"{hashlib.md5(bench.bytes()).hexdigest()}"'
    }
    assert len({headers["Range"] for headers in asked}) == 13


def test_prefix_is_a_folder(client, endpoint, origin, bench):
    for key in ("bert/config.json", "bert/onnx/m.onnx", "bert-large/config.json", "bertie"):
        client.put_object(Bucket=BUCKET, Key=key, Body=key.encode())
    for prefix in ("bert", "bert/"):
        found = origin.list(weight(endpoint, prefix=prefix))
        assert [file.relpath for file in found.files] == ["config.json", "onnx/m.onnx"]
        assert found.directory
    for file in found.files:
        bench.run(origin, file)
        assert bench.bytes() == f"bert/{file.relpath}".encode()


def test_patterns_choose(client, endpoint, origin):
    for key in ("bert/config.json", "bert/onnx/m.onnx"):
        client.put_object(Bucket=BUCKET, Key=key, Body=b"x")
    found = origin.list(weight(endpoint, prefix="bert", allow_patterns=["*.onnx"]))
    assert [file.relpath for file in found.files] == ["onnx/m.onnx"]


def test_folder_markers_are_skipped(moto_client, moto, origin):
    for key, body in (("bert/", b""), ("bert/onnx/", b""), ("bert/a", b"x")):
        moto_client.put_object(Bucket="plain", Key=key, Body=body)
    found = origin.list(weight(moto, bucket="plain", prefix="bert"))
    assert [file.relpath for file in found.files] == ["a"]


@pytest.mark.parametrize("prefix", ["none", "bert/model"])
def test_empty_listing_is_an_error(client, endpoint, origin, prefix):
    client.put_object(Bucket=BUCKET, Key="bert/model.pt", Body=b"x")
    with pytest.raises(WeightNotFound, match=f"s3://{BUCKET}/{prefix}/"):
        origin.list(weight(endpoint, prefix=prefix))


def test_folder_of_markers_alone_is_empty(moto_client, moto, origin):
    moto_client.put_object(Bucket="plain", Key="bert/", Body=b"")
    with pytest.raises(WeightNotFound):
        origin.list(weight(moto, bucket="plain", prefix="bert"))


@pytest.mark.parametrize("key", ["bert/../../etc/x", "bert//x", "bert/a\\b", "bert/.", "bert/x/"])
def test_hostile_keys_are_refused(moto_client, moto, origin, key):
    moto_client.put_object(Bucket="plain", Key=key, Body=b"x")
    with pytest.raises(UnsafeName):
        origin.list(weight(moto, bucket="plain", prefix="bert"))


def test_keys_that_collide_are_refused(moto_client, moto, origin):
    for key in ("bert/A", "bert/a"):
        moto_client.put_object(Bucket="plain", Key=key, Body=b"x")
    with pytest.raises(UnsafeName, match="collide"):
        origin.list(weight(moto, bucket="plain", prefix="bert"))


def test_listing_goes_over_pages(moto_client, moto, origin, spy):
    for number in range(7):
        moto_client.put_object(Bucket="plain", Key=f"bert/{number}", Body=b"x")
    pages = []

    def three_a_page(params, **_):
        params["MaxKeys"] = 3
        pages.append(params.get("ContinuationToken"))

    spy(moto_client, "before-parameter-build.s3.ListObjectsV2", three_a_page)
    found = origin.list(weight(moto, bucket="plain", prefix="bert"))
    assert [file.relpath for file in found.files] == list("0123456")
    assert len(pages) == len(set(pages)) == 3


def test_validator_of_a_folder_changes_with_any_object(client, endpoint, origin):
    source = weight(endpoint, prefix="bert")
    client.put_object(Bucket=BUCKET, Key="bert/a", Body=b"1")
    first = origin.list(source).validator
    assert origin.revalidate(source, first) is None
    client.put_object(Bucket=BUCKET, Key="bert/a", Body=b"2")
    second = origin.revalidate(source, first)
    assert second is not None
    client.put_object(Bucket=BUCKET, Key="bert/b", Body=b"3")
    assert len({first, second.validator, origin.list(source).validator}) == 3


def test_object_is_revalidated(client, endpoint, origin):
    source = weight(endpoint, key="a")
    client.put_object(Bucket=BUCKET, Key="a", Body=b"1")
    known = origin.list(source).validator
    assert origin.revalidate(source, known) is None
    client.put_object(Bucket=BUCKET, Key="a", Body=b"2")
    assert origin.revalidate(source, known) is not None


def test_object_changed_between_listing_and_download_is_never_mixed(
    client, endpoint, origin, bench, make_content
):
    client.put_object(Bucket=BUCKET, Key="a", Body=make_content(200_000))
    (file,) = origin.list(weight(endpoint, key="a")).files
    client.put_object(Bucket=BUCKET, Key="a", Body=make_content(200_000, seed=1))
    with pytest.raises(WeightChanged):
        bench.run(origin, file)


def test_version_is_pinned(moto_client, moto, origin, bench):
    moto_client.put_bucket_versioning(Bucket="plain", VersioningConfiguration={"Status": "Enabled"})
    first = moto_client.put_object(Bucket="plain", Key="m", Body=b"first")["VersionId"]
    source = weight(moto, bucket="plain", key="m")
    found = origin.list(source)
    assert (found.validator, found.immutable) == (first, False)
    second = moto_client.put_object(Bucket="plain", Key="m", Body=b"other")["VersionId"]
    bench.run(origin, found.files[0])
    assert bench.bytes() == b"first"
    moved = origin.revalidate(source, first)
    assert moved is not None
    assert moved.validator == second
    moto_client.delete_object(Bucket="plain", Key="m", VersionId=first)
    with pytest.raises(WeightChanged):
        bench.run(origin, found.files[0])


@pytest.fixture
def versionless(fault_server, act, make_content):
    """A versioned bucket, and a policy of s3:GetObject alone."""
    fault_server.content = make_content(100_000)
    fault_server.paths["/b/k"] = act(headers={"x-amz-version-id": "v"})
    fault_server.targets["/b/k?versionId=v"] = act(status=403, body=xml("AccessDenied"))
    return fault_server


def test_version_that_may_not_be_named_is_told_by_its_etag(versionless, origin, bench):
    (file,) = origin.list(weight(versionless.url, bucket="b", key="k")).files
    bench.run(origin, replace(file, digests={}))
    assert bench.bytes() == versionless.content
    assert sum("versionId" in request.target for request in versionless.requests) == 1
    assert {request.headers.get("if-match") for request in versionless.gets()} == {'"v1"'}


def test_version_that_may_not_be_named_and_has_changed_is_told(versionless, act, origin, bench):
    (file,) = origin.list(weight(versionless.url, bucket="b", key="k")).files
    versionless.paths["/b/k"] = act(status=412, body=xml("PreconditionFailed"))
    with pytest.raises(WeightChanged):
        bench.run(origin, file)


def test_version_without_an_etag_is_asked_for_alone(versionless, origin, bench):
    versionless.etag = None
    (file,) = origin.list(weight(versionless.url, bucket="b", key="k")).files
    with pytest.raises(WeightAccessDenied):
        bench.run(origin, file)


def test_object_older_than_versioning_has_no_version(moto_client, moto, origin):
    moto_client.put_object(Bucket="plain", Key="m", Body=b"x")
    moto_client.put_bucket_versioning(Bucket="plain", VersioningConfiguration={"Status": "Enabled"})
    assert origin.list(weight(moto, bucket="plain", key="m")).validator.startswith('"')


@pytest.mark.parametrize("name", ["SHA256", "SHA1", "CRC32", "CRC32C", "CRC64NVME"])
def test_full_object_checksums_are_verified(moto_client, moto, origin, bench, name):
    moto_client.put_object(Bucket="plain", Key="m", Body=b"weights", ChecksumAlgorithm=name)
    (file,) = origin.list(weight(moto, bucket="plain", key="m")).files
    assert name.lower() in file.digests
    bench.run(origin, file)
    with pytest.raises(WeightCorrupt, match=name.lower()):
        bench.run(origin, replace(file, digests={name.lower(): "0" * 8}))


def test_checksum_that_cannot_be_computed_gives_way_to_the_next(
    moto_client, moto, origin, bench, monkeypatch
):
    moto_client.put_object(Bucket="plain", Key="m", Body=b"x", ChecksumAlgorithm="CRC64NVME")
    (file,) = origin.list(weight(moto, bucket="plain", key="m")).files
    monkeypatch.setitem(sys.modules, "awscrt.checksums", None)
    bench.run(origin, replace(file, digests={**file.digests, "crc64nvme": "wrong"}))
    with pytest.raises(WeightCorrupt, match="md5"):
        bench.run(origin, replace(file, digests={"crc64nvme": "x", "md5": "0" * 32}))


def test_listed_object_is_asked_for_its_digest_when_it_is_fetched(client, endpoint, origin):
    client.put_object(Bucket=BUCKET, Key="bert/a", Body=b"weights")
    (file,) = origin.list(weight(endpoint, prefix="bert")).files
    assert file.digests == {}
    assert origin.digests(file)["md5"] == hashlib.md5(b"weights").hexdigest()
    assert origin.digests(replace(file, digests={"md5": "x"})) == {"md5": "x"}


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ({"ETag": '"' + "a" * 32 + '"'}, {"md5": "a" * 32}),
        ({"ETag": '"' + "a" * 32 + '-3"'}, {}),
        ({"ETag": '"' + "a" * 32 + '"', "ServerSideEncryption": "AES256"}, {"md5": "a" * 32}),
        ({"ETag": '"' + "a" * 32 + '"', "ServerSideEncryption": "aws:kms"}, {}),
        ({"ETag": '"' + "a" * 32 + '"', "SSECustomerAlgorithm": "AES256"}, {}),
        ({"ChecksumCRC32": "AAAAAA==", "ChecksumType": "COMPOSITE"}, {}),
        ({"ChecksumCRC32": "AAAAAA==-3"}, {}),
        ({"ChecksumCRC32": "AAAAAA==", "ChecksumType": "FULL_OBJECT"}, {"crc32": "AAAAAA=="}),
        ({"ChecksumSHA256": base64.b64encode(b"a" * 32).decode()}, {"sha256": "61" * 32}),
        ({}, {}),
    ],
)
def test_only_digests_over_the_whole_object_count(head, expected):
    from thalamus_lite.weights.origins.s3_origin import _digests

    assert _digests(head, "bucket") == expected
    assert "md5" not in _digests(head, "bucket--use1-az4--x-s3")


@pytest.mark.parametrize("value", ["abc", "!!!!", "AAAA", "\xe4\xf6", "61" * 32])
@pytest.mark.parametrize("name", ["SHA1", "SHA256", "CRC64NVME", "CRC32C", "CRC32"])
def test_malformed_checksum_is_ignored_with_a_warning(name, value, caplog):
    from thalamus_lite.weights.origins.s3_origin import _digests

    head = {f"Checksum{name}": value, "ETag": '"' + "a" * 32 + '"'}
    assert _digests(head, "bucket") == {"md5": "a" * 32}
    assert name.lower() in caplog.text


def test_missing_objects_and_buckets_are_told(client, endpoint, origin):
    with pytest.raises(WeightNotFound, match=f"s3://{BUCKET}/none"):
        origin.list(weight(endpoint, key="none"))
    for source in ({"key": "k"}, {"prefix": "p"}):
        with pytest.raises(WeightNotFound):
            origin.list(weight(endpoint, bucket="missing-bucket", **source))


def test_wrong_credentials_are_told(rclone, origin, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "wrong")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    for source in ({"key": "k"}, {"prefix": "p"}):
        with pytest.raises(WeightAccessDenied, match="credentials") as caught:
            origin.list(weight(rclone, **source))
        assert "canary" not in str(caught.value)


def test_no_credentials_are_told(moto, origin, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(WeightAccessDenied, match="AWS_NO_SIGN_REQUEST"):
        origin.list(weight(moto, key="k"))


def test_public_bucket_needs_no_credentials(moto_client, moto, origin, bench, monkeypatch, spy):
    moto_client.put_object(Bucket="plain", Key="m", Body=b"x", ACL="public-read")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "1")
    headers = []
    unsigned = client_for("us-east-1", moto)
    spy(unsigned, "before-send.s3", lambda request, **_: headers.append(dict(request.headers)))
    bring(bench, origin, weight(moto, bucket="plain", key="m"))
    assert bench.bytes() == b"x"
    assert headers
    assert not any("Authorization" in sent for sent in headers)


def test_endpoint_of_the_environment_is_used(moto_client, moto, origin, monkeypatch):
    moto_client.put_object(Bucket="plain", Key="m", Body=b"x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto)
    source = S3Weight(bucket="plain", key="m")
    assert origin.list(source).files[0].size == 1
    assert origin.identity(source) == f"s3:{moto}/plain/m"


def test_client_is_made_once_per_region_and_endpoint(moto, monkeypatch):
    first = client_for("us-east-1", moto)
    assert client_for("us-east-1", moto) is first
    assert client_for("eu-west-1", moto) is not first
    assert client_for("eu-west-1", moto).meta.region_name == "eu-west-1"
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "1")
    assert client_for("us-east-1", moto) is not first


def test_server_that_never_answers_is_given_up(fault_server, act):
    fault_server.paths["/b/k"] = act(raw=b"", stall=True)
    origin = S3Origin(OriginOptions(timeout_s=0.2))
    began = time.monotonic()
    with pytest.raises(WeightUnreachable) as caught:
        origin.revalidate(weight(fault_server.url, bucket="b", key="k"), "x")
    assert is_retryable(caught.value)
    assert time.monotonic() - began < 20


def test_client_does_not_retry_by_itself(fault_server, act, origin):
    fault_server.paths["/b/k"] = act(status=503)
    with pytest.raises(WeightUnreachable) as caught:
        origin.revalidate(weight(fault_server.url, bucket="b", key="k"), "x")
    assert len(fault_server.requests) == 1
    assert getattr(caught.value, "retryable", False)


@pytest.mark.parametrize("where", [{"region": "no region"}, {"endpoint_url": "http://"}])
def test_client_that_cannot_be_made_is_told(origin, where):
    source = S3Weight.model_construct(
        bucket="b",
        key="k",
        prefix=None,
        sha256=None,
        **{"region": None, "endpoint_url": None} | where,
    )
    with pytest.raises(WeightSourceInvalid, match="region"):
        origin.list(source)


def test_missing_library_says_what_to_install(monkeypatch, origin):
    monkeypatch.setattr(_shared, "clients", {})
    for name in ("botocore", "botocore.session"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=r'pip install "thalamus-lite\[s3\]"'):
        origin.list(weight("http://127.0.0.1:1", key="k"))


def xml(code):
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>m</Message></Error>".encode()


@pytest.mark.parametrize(
    ("status", "code", "kind", "text", "retryable"),
    [
        (503, "SlowDown", WeightUnreachable, "fewer requests", True),
        (400, "RequestTimeout", WeightUnreachable, "waited too long", True),
        (500, "InternalError", WeightUnreachable, "server failed", True),
        (429, "", WeightUnreachable, "fewer requests", True),
        (403, "AccessDenied", WeightAccessDenied, "credentials", False),
        (403, "InvalidObjectState", WeightAccessDenied, "Glacier", False),
        (400, "ExpiredToken", WeightAccessDenied, "log in", False),
        (404, "NoSuchKey", WeightNotFound, "check the key", False),
        (404, "NoSuchBucket", WeightNotFound, "no such bucket", False),
        (400, "AuthorizationHeaderMalformed", WeightSourceInvalid, "region", False),
        (412, "PreconditionFailed", WeightChanged, "changed", False),
        (416, "InvalidRange", WeightChanged, "shorter", False),
        (409, "Odd", WeightUnreachable, "409 Odd", False),
    ],
)
def test_errors_of_s3_are_typed(fault_server, act, origin, status, code, kind, text, retryable):
    source = weight(fault_server.url, bucket="b", key="k")
    (file,) = origin.list(source).files
    fault_server.script.append(act(status=status, body=xml(code)))
    with pytest.raises(kind, match=text) as caught:
        origin.open(file)
    assert getattr(caught.value, "retryable", False) is retryable
    assert caught.value.__cause__ is None


def test_bucket_in_another_region_is_told(fault_server, act, origin):
    fault_server.paths["/b/k"] = act(status=301, body=b"")
    with pytest.raises(WeightSourceInvalid, match=r'region="eu-west-1"'):
        origin.list(weight(fault_server.url, bucket="b", key="k"))


def test_retry_after_reaches_the_engine(fault_server, act, origin, bench):
    (file,) = origin.list(weight(fault_server.url, bucket="b", key="k")).files
    fault_server.content = b"x" * 10
    slow = act(status=503, body=xml("SlowDown"), headers={"Retry-After": "9"})
    fault_server.script.append(slow)
    bench.run(origin, replace(file, size=10))
    assert bench.delays == [9.0]


@pytest.mark.parametrize(
    "fault", [{"cut": 70_000}, {"cut": 70_000, "reset": True}, {"raw": b"?\r\n"}]
)
def test_broken_answers_are_resumed(fault_server, act, origin, bench, make_content, fault):
    fault_server.content = make_content(200_000)
    bench.options = replace(bench.options, parallel_from=10**9)
    fault_server.script.append(act(**fault))
    bring(bench, origin, weight(fault_server.url, bucket="b", key="k"))
    assert bench.bytes() == fault_server.content
    assert bench.progress.retries == 1


def test_listing_is_tried_again_page_by_page(moto_client, moto, origin, patient, monkeypatch):
    moto_client.put_object(Bucket="plain", Key="bert/a", Body=b"x")
    real, failures = moto_client.list_objects_v2, [1, 2]

    class Flaky:
        meta = moto_client.meta

        def list_objects_v2(self, **kwargs):
            if failures:
                failures.pop()
                return client_for("us-east-1", "http://127.0.0.1:1").list_objects_v2(**kwargs)
            return real(**kwargs)

    monkeypatch.setattr("thalamus_lite.weights.origins.s3_origin.client_for", lambda *args: Flaky())
    found = origin.list(weight(moto, bucket="plain", prefix="bert"))
    assert [file.relpath for file in found.files] == ["a"]
    assert len(patient) == 2


class Pages:
    """A server whose listing consists of what ``page(n)`` returns, for n from 1 on."""

    def __init__(self, page):
        self.asked = 0
        self.page = page

    def list_objects_v2(self, **kwargs):
        self.asked += 1
        return self.page(self.asked)


def page_of(*keys, **more):
    return {"Contents": [{"Key": key, "Size": 1, "ETag": "e"} for key in keys], **more}


def more(token):
    return {"IsTruncated": True, "NextContinuationToken": token}


@pytest.mark.parametrize(
    ("page", "most"),
    [
        (lambda n: page_of(f"p/{n}", **more("again")), 2),
        (lambda n: page_of(f"p/{n}", IsTruncated=True), 1),
        (lambda n: page_of("p/same", **more(f"t{n}")), 2),
        (lambda n: page_of(**more(f"t{n}")), 1_000),
        (lambda n: page_of(f"p/{n}", **more(f"t{n}")), 1_000),
        (lambda n: page_of(*(f"p/{n}.{i}" for i in range(100_000)), **more(f"t{n}")), 3),
    ],
)
def test_listing_without_an_end_is_an_error(origin, monkeypatch, page, most):
    server = Pages(page)
    monkeypatch.setattr("thalamus_lite.weights.origins.s3_origin.client_for", lambda *args: server)
    with pytest.raises(WeightUnreachable, match="does not come to an end") as caught:
        origin.list(weight("http://h", prefix="p"))
    assert not is_retryable(caught.value)
    assert server.asked == most


def test_pages_without_an_object_are_passed_over(origin, monkeypatch):
    pages = [page_of(**more("1")), page_of(**more("2")), page_of("p/a", **more("3")), page_of()]
    server = Pages(lambda n: pages[n - 1])
    monkeypatch.setattr("thalamus_lite.weights.origins.s3_origin.client_for", lambda *args: server)
    found = origin.list(weight("http://h", prefix="p"))
    assert [file.relpath for file in found.files] == ["a"]


def test_nobody_waits_for_pages_that_are_not_wanted_any_more(origin, monkeypatch):
    cancel = threading.Event()

    def page(n):
        if n == 3:
            cancel.set()
        return page_of(f"p/{n}", **more(f"t{n}"))

    server = Pages(page)
    monkeypatch.setattr("thalamus_lite.weights.origins.s3_origin.client_for", lambda *args: server)
    with until(cancel), pytest.raises(DownloadCancelled):
        origin.list(weight("http://h", prefix="p"))
    assert server.asked == 3


@pytest.mark.parametrize(
    "entry",
    [
        "<Key>p/m</Key><Size>-5</Size>",
        "<Key>p/m</Key><Size>9223372036854775808</Size>",
        "<Key>p/m</Key><Size>five</Size>",
        "<Key>p/m</Key>",
        "<Size>5</Size>",
        "<Key>q/m</Key><Size>5</Size>",
        "<Key>p/m</Key><Size>5</Size><LastModified>yesterday</LastModified>",
    ],
)
def test_listing_that_makes_no_sense_is_typed(fault_server, act, origin, entry):
    body = f"<ListBucketResult><Contents>{entry}</Contents></ListBucketResult>".encode()
    fault_server.script.append(act(body=body))
    with pytest.raises(WeightUnreachable) as caught:
        origin.list(weight(fault_server.url, prefix="p"))
    assert not is_retryable(caught.value)


def test_object_of_a_negative_size_is_typed(origin, monkeypatch):
    class Negative:
        def head_object(self, **kwargs):
            return {"ContentLength": -5, "ETag": "e"}

    monkeypatch.setattr(
        "thalamus_lite.weights.origins.s3_origin.client_for", lambda *args: Negative()
    )
    with pytest.raises(WeightUnreachable, match="sizes that no files have"):
        origin.list(weight("http://h", key="k"))


def test_private_endpoint_is_refused_when_asked(moto):
    origin = S3Origin(OriginOptions(deny_private_addresses=True))
    with pytest.raises(WeightAccessDenied, match="private address"):
        origin.list(weight(moto, key="k"))


def test_connection_goes_to_the_address_that_was_checked(fault_server):
    guard = Guard(resolve=lambda host, port: ["127.0.0.1"], allowed=lambda address: True)
    origin = S3Origin(OriginOptions(timeout_s=5.0), guard)
    origin.list(weight(f"http://rebinding.example:{fault_server.port}", key="k"))
    assert fault_server.requests[0].headers["host"] == f"rebinding.example:{fault_server.port}"


def test_name_that_is_private_once_it_is_dialled_is_refused(fault_server):
    answers = iter(["93.184.216.34", "127.0.0.1"])
    origin = S3Origin(OriginOptions(), Guard(resolve=lambda host, port: [next(answers)]))
    with pytest.raises(WeightAccessDenied, match="private address"):
        origin.revalidate(weight(f"http://rebinding.example:{fault_server.port}", key="k"), "")
    assert fault_server.requests == []


def test_endpoint_behind_a_proxy_is_held_against_the_guard(fault_server, monkeypatch):
    monkeypatch.setenv("http_proxy", fault_server.url)
    origin = S3Origin(OriginOptions(), Guard(resolve=lambda host, port: ["10.0.0.1"]))
    with pytest.raises(WeightAccessDenied, match=r"proxied\.example is a private address"):
        origin.revalidate(weight("http://proxied.example", key="k"), "")
    assert fault_server.requests == []


def test_identity_is_public(origin, monkeypatch):
    source = S3Weight(
        bucket="b", key="a/k", endpoint_url="https://u:canary@Host.example/s3?x=canary"
    )
    assert origin.identity(source) == "s3:https://host.example/s3/b/a/k"
    assert origin.identity(S3Weight(bucket="b", prefix="bert")) == "s3:aws/b/bert/"
    assert isinstance(origin_for(source, OriginOptions()), S3Origin)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (
            "AWS_CONFIG_FILE",
            "[profile prod]\n[profile staging]\nendpoint_url = http://u:canary@staging.example/\n",
        ),
        (
            "AWS_SHARED_CREDENTIALS_FILE",
            "[prod]\n[staging]\nendpoint_url = http://staging.example\n",
        ),
        (
            "AWS_CONFIG_FILE",
            "[profile prod]\n[profile staging]\nservices = lab\nendpoint_url = http://other.example\n"
            "[services lab]\ns3 =\n  endpoint_url = http://staging.example\n",
        ),
    ],
)
def test_endpoint_of_a_profile_tells_its_objects_apart(origin, monkeypatch, tmp_path, file, text):
    (tmp_path / "file").write_text(text)
    monkeypatch.setenv(file, str(tmp_path / "file"))
    source = S3Weight(bucket="b", key="k", region="us-east-1")
    monkeypatch.setenv("AWS_PROFILE", "prod")
    assert origin.identity(source) == "s3:aws/b/k"
    monkeypatch.setenv("AWS_PROFILE", "staging")
    assert origin.identity(source) == "s3:http://staging.example/b/k"
    assert "staging.example" in client_for("us-east-1").meta.endpoint_url
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    assert origin.identity(source) == "s3:aws/b/k"
    monkeypatch.delenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(WeightSourceInvalid, match="AWS_PROFILE"):
        origin.identity(source)


@pytest.mark.parametrize(
    "text",
    [
        "endpoint_url = http://[::1\n",
        "endpoint_url =\n  a = b\n",
        "services = m\n[services m]\ns3 = http://host.example\n# endpoint_url\n",
        "services = m\n[services m]\ns3 =\n  endpoint_url = http://[::1\n",
        "endpoint_url = http://host.example\n[default\n",
    ],
)
def test_config_of_aws_that_is_malformed_is_told(origin, monkeypatch, tmp_path, text):
    (tmp_path / "config").write_text(f"[default]\n{text}")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    source = S3Weight(bucket="b", key="k", region="us-east-1")
    for method in (origin.identity, origin.list):
        with pytest.raises(WeightSourceInvalid, match="AWS_CONFIG_FILE"):
            method(source)


@pytest.mark.parametrize("url", ["http://[::1", "http://host:port", "host"])
def test_endpoint_of_the_environment_that_is_no_url_is_told(origin, monkeypatch, url):
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    with pytest.raises(WeightSourceInvalid, match="endpoint_url"):
        origin.identity(S3Weight(bucket="b", key="k"))


@pytest.mark.parametrize("file", ["$HOME/config", "~/config", "~/none"])
def test_identity_needs_no_library_where_no_file_chooses_an_endpoint(
    origin, monkeypatch, tmp_path, file
):
    for name in ("botocore", "botocore.session"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_CONFIG_FILE", file)
    config = tmp_path / "config"
    config.write_text("[default]\nregion = eu-west-1\n")
    assert origin.identity(S3Weight(bucket="b", key="k")) == "s3:aws/b/k"
    config.write_text("[default]\nendpoint_url = http://lab.example\n")
    if file != "~/none":
        with pytest.raises(MissingExtra):
            origin.identity(S3Weight(bucket="b", key="k"))


def test_nothing_secret_is_raised_or_logged_by_us(moto, origin, monkeypatch, caplog):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "canary")
    caplog.set_level(logging.INFO)
    with pytest.raises(WeightNotFound) as caught:
        origin.list(weight(moto, bucket="missing-bucket", key="k"))
    assert "canary" not in repr(caught.value) + caplog.text


@pytest.mark.parametrize("size", [0, 1, 3 * MiB])
def test_upload_at_once(client, endpoint, origin, bench, tmp_path, make_content, size):
    local = tmp_path / "model.pt"
    local.write_bytes(make_content(size))
    upload(client, local, BUCKET, "up/model.pt")
    assert client.get_object(Bucket=BUCKET, Key="up/model.pt")["Body"].read() == local.read_bytes()
    bring(bench, origin, weight(endpoint, key="up/model.pt"))


def test_upload_leaves_a_checksum(moto_client, moto, origin, tmp_path):
    local = tmp_path / "m"
    local.write_bytes(b"weights")
    upload(moto_client, local, "plain", "m")
    (file,) = origin.list(weight(moto, bucket="plain", key="m")).files
    assert file.digests["sha256"] == hashlib.sha256(b"weights").hexdigest()


PARTS = UploadOptions(multipart_from=6 * MiB, part_bytes=5 * MiB)


def test_upload_in_parts(client, endpoint, origin, bench, tmp_path, make_content):
    local = tmp_path / "model.pt"
    local.write_bytes(make_content(11 * MiB))
    upload(client, local, BUCKET, "model.pt", PARTS)
    assert client.get_object(Bucket=BUCKET, Key="model.pt")["Body"].read() == local.read_bytes()
    (file,) = origin.list(weight(endpoint, key="model.pt")).files
    assert file.validator.endswith('-3"') or "md5" in file.digests


def test_parts_carry_their_checksums_and_one_over_all(moto_client, tmp_path, make_content, spy):
    local = tmp_path / "m"
    data = make_content(11 * MiB)
    local.write_bytes(data)
    sent = []
    for name in ("UploadPart", "CompleteMultipartUpload"):
        spy(moto_client, f"before-call.s3.{name}", recorder(sent))
    upload(moto_client, local, "plain", "m", PARTS)
    crc = [base64.b64decode(headers["x-amz-checksum-crc32"]) for headers in sent]
    pieces = [data[i : i + 5 * MiB] for i in range(0, len(data), 5 * MiB)]
    assert crc == [zlib.crc32(piece).to_bytes(4, "big") for piece in [*pieces, data]]


def test_failed_upload_leaves_no_parts(moto_client, tmp_path, monkeypatch, make_content):
    local = tmp_path / "m"
    local.write_bytes(make_content(11 * MiB))
    real = type(moto_client).upload_part

    def second_fails(self, **kwargs):
        if kwargs["PartNumber"] == 2:
            kwargs["Bucket"] = "another-bucket"
        return real(self, **kwargs)

    monkeypatch.setattr(type(moto_client), "upload_part", second_fails)
    with pytest.raises(WeightNotFound):
        upload(moto_client, local, "plain", "m", PARTS)
    assert not moto_client.list_multipart_uploads(Bucket="plain").get("Uploads")

    def abort_fails(self, **kwargs):
        return client_for("us-east-1", "http://127.0.0.1:1").abort_multipart_upload(**kwargs)

    monkeypatch.setattr(type(moto_client), "abort_multipart_upload", abort_fails)
    with pytest.raises(WeightNotFound):
        upload(moto_client, local, "plain", "m", replace(PARTS, retry=RetryPolicy(attempts=1)))
    monkeypatch.undo()
    (left,) = moto_client.list_multipart_uploads(Bucket="plain")["Uploads"]
    moto_client.abort_multipart_upload(Bucket="plain", Key="m", UploadId=left["UploadId"])


def test_server_that_is_not_s3_is_told(fault_server, tmp_path, origin):
    local = tmp_path / "m"
    local.write_bytes(bytes(7 * MiB))
    client = client_for("us-east-1", fault_server.url)
    with pytest.raises(WeightUnreachable, match="does not answer as S3 does"):
        upload(client, local, "b", "k", PARTS)


def test_upload_is_tried_again_from_its_start(moto_client, tmp_path, monkeypatch, patient):
    local = tmp_path / "m"
    local.write_bytes(b"weights")
    away = client_for("us-east-1", "http://127.0.0.1:1")
    real, failures = moto_client.put_object, [1]

    class Flaky:
        def put_object(self, **kwargs):
            if failures:
                failures.pop()
                kwargs["Body"].read(3)
                return away.put_object(**kwargs)
            return real(**kwargs)

    upload(Flaky(), local, "plain", "m")
    assert moto_client.get_object(Bucket="plain", Key="m")["Body"].read() == b"weights"
    assert len(patient) == 1


def test_file_that_cannot_be_read_is_told(moto_client, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        upload(moto_client, tmp_path / "none", "plain", "m")
    local = tmp_path / "m"
    local.write_bytes(b"weights")
    monkeypatch.setattr("thalamus_lite.weights.origins.s3_upload.os.pread", lambda *args: b"")
    with pytest.raises(WeightSourceInvalid, match="cannot be read"):
        upload(moto_client, local, "plain", "m")


def test_only_a_404_means_that_it_does_not_exist(client, endpoint, monkeypatch, patient):
    client.put_object(Bucket=BUCKET, Key="here", Body=b"x")
    assert exists(client, BUCKET, "here")
    assert not exists(client, BUCKET, "not/here")
    with pytest.raises(WeightUnreachable):
        exists(client_for("us-east-1", "http://127.0.0.1:1"), BUCKET, "here")


def test_denied_object_is_not_a_missing_one(fault_server, act):
    fault_server.paths["/b/k"] = act(status=403, body=b"")
    with pytest.raises(WeightAccessDenied):
        exists(client_for("us-east-1", fault_server.url), "b", "k")


def test_window_of_a_file_is_a_file(tmp_path):
    from thalamus_lite.weights.origins.s3_upload import _Window

    path = tmp_path / "f"
    path.write_bytes(b"0123456789")
    with path.open("rb") as file:
        window = _Window(file.fileno(), 2, 7)
        assert (len(window), window.readable(), window.seekable()) == (5, True, True)
        assert (window.read(3), window.tell(), window.read(), window.read()) == (
            *(b"234", 3),
            *(b"56", b""),
        )
        assert [window.seek(-2, 2), window.seek(1, 1), window.seek(0)] == [3, 4, 0]
        assert window.read() == b"23456"
        window.close()


@pytest.mark.parametrize(
    ("make", "kind", "text"),
    [
        (
            lambda e: e.SSLError(
                endpoint_url="https://h?canary", error="CERTIFICATE_VERIFY_FAILED"
            ),
            *(WeightUnreachable, "AWS_CA_BUNDLE"),
        ),
        (lambda e: e.CredentialRetrievalError(provider="p", error_msg="canary"), *_DENIED),
        (lambda e: e.PartialCredentialsError(provider="p", cred_var="c"), *_DENIED),
        (lambda e: e.ParamValidationError(report="canary"), WeightSourceInvalid, "as a name"),
        (lambda e: e.ReadTimeoutError(endpoint_url="http://canary"), WeightUnreachable, "no conn"),
        (
            lambda e: e.ConnectTimeoutError(endpoint_url="http://canary"),
            WeightUnreachable,
            "no conn",
        ),
        (lambda e: e.ConnectionClosedError(endpoint_url="canary"), WeightUnreachable, "no conn"),
        (lambda e: e.UnsupportedS3ArnError(arn="canary", msg="canary"), WeightUnreachable, "Arn"),
    ],
)
def test_failures_of_botocore_are_typed(make, kind, text):
    from botocore import exceptions

    def operation():
        raise make(exceptions)

    with pytest.raises(kind, match=text) as caught:
        ask(operation, "s3://b/k")
    assert "canary" not in repr(caught.value)
