"""Places of objects, as inputs of models name them."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from thalamus_lite import S3PresignedUrl, S3Ref, Url


def test_reference_reads_its_uri() -> None:
    ref = S3Ref.from_uri("s3://my-bucket/a/b c.png")
    assert (ref.bucket, ref.key, ref.region) == ("my-bucket", "a/b c.png", None)
    assert ref.uri == "s3://my-bucket/a/b c.png"
    assert S3Ref(bucket="abc", key="k", region="eu-west-1").region == "eu-west-1"


@pytest.mark.parametrize(
    "uri",
    ["", "my-bucket/key", "http://bucket/key", "S3://bucket/key", "s3://", "s3://bucket", "s3://bucket/",
     "s3:///key", "s3://ab/key", "s3://Bucket/key", "s3://a_b/key", "s3://-ab/key", "s3://ab-/key",
     "s3://" + "a" * 64 + "/key", "s3://bucket\n/key"],
)  # fmt: skip
def test_uri_that_names_no_object_is_refused(uri: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # its own, or pydantic's, which is one
        S3Ref.from_uri(uri)


@pytest.mark.parametrize("url", ["http://host/x", "https://host"])
def test_url_is_http(url: str) -> None:
    assert Url(url=url).url == url


@pytest.mark.parametrize("url", ["", "ftp://host", "//host", "javascript:alert(1)", "file:///etc"])
def test_other_schemes_are_no_url(url: str) -> None:
    with pytest.raises(ValidationError, match="URL must be http"):
        Url(url=url)


SIGNED = "?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=abc"


@pytest.mark.parametrize(
    "url",
    [
        f"https://bucket.s3.amazonaws.com/key{SIGNED}",
        f"https://bucket.s3.eu-west-1.amazonaws.com/key{SIGNED}",
        f"https://s3.eu-west-1.amazonaws.com/bucket/key{SIGNED}",
        f"https://bucket.s3-accelerate.amazonaws.com/key{SIGNED}",
    ],
)
def test_presigned_url_is_s3s_and_signed(url: str) -> None:
    assert S3PresignedUrl(url=url).url == url


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (f"http://bucket.s3.amazonaws.com/key{SIGNED}", "must be https"),
        (f"https://example.com/key{SIGNED}", "Not an S3 URL"),
        (f"https://example.com/.s3.{SIGNED}", "Not an S3 URL"),
        ("https://bucket.s3.amazonaws.com/key", "Missing signature"),
    ],
)
def test_other_urls_are_not_presigned(url: str, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        S3PresignedUrl(url=url)
