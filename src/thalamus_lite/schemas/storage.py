"""References to objects in S3 and on the web, as model inputs."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, field_validator

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]*[a-z0-9]")
_S3 = "s3://"


class S3Ref(BaseModel):
    """An object in S3."""

    bucket: str = Field(min_length=3, max_length=63)
    key: str = Field(min_length=1)
    region: str | None = None

    @field_validator("bucket")
    @classmethod
    def _is_bucket(cls, value: str) -> str:
        if not _BUCKET.fullmatch(value):
            raise ValueError("Invalid S3 bucket name")
        return value

    @property
    def uri(self) -> str:
        return f"{_S3}{self.bucket}/{self.key}"

    @classmethod
    def from_uri(cls, uri: str) -> S3Ref:
        """The reference that ``s3://bucket/key`` names.

        Raises:
            ValueError: not an ``s3://`` URI, or without a bucket or a key.
        """
        if not uri.startswith(_S3):
            raise ValueError(f"Invalid S3 URI: {uri}")
        bucket, _, key = uri[len(_S3) :].partition("/")
        if not bucket or not key:
            raise ValueError(f"Invalid S3 URI, write s3://bucket/key: {uri}")
        return cls(bucket=bucket, key=key)


class Url(BaseModel):
    """An HTTP or HTTPS URL."""

    url: str

    @field_validator("url")
    @classmethod
    def _is_http(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError("URL must be http:// or https://")
        return value


class S3PresignedUrl(BaseModel):
    """A presigned S3 URL: whoever holds it may read the object."""

    url: str

    @field_validator("url")
    @classmethod
    def _is_presigned(cls, value: str) -> str:
        if not value.startswith("https://"):
            raise ValueError("Presigned URL must be https://")
        host = urlsplit(value).hostname or ""
        # https://s3.region.amazonaws.com/bucket/key has no label before the service's.
        if not any(mark in f".{host}" for mark in (".s3.", ".s3-")):
            raise ValueError("Not an S3 URL")
        if "X-Amz-Signature" not in value:
            raise ValueError("Missing signature parameter")
        return value
