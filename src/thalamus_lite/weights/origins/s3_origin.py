"""Weights on S3, and on everything that speaks like it."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import re
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from urllib3 import HTTPHeaderDict

from thalamus_lite.errors import WeightAccessDenied, WeightNotFound, WeightUnreachable
from thalamus_lite.weights.names import check_names, public_url
from thalamus_lite.weights.origin import RemoteFile, RemoteFiles
from thalamus_lite.weights.origins.addresses import Guard
from thalamus_lite.weights.origins.http_body import HTTPBody
from thalamus_lite.weights.origins.patterns import select
from thalamus_lite.weights.origins.s3_client import (
    ClientOptions,
    chosen_endpoint,
    client_for,
)
from thalamus_lite.weights.origins.s3_errors import ask, required
from thalamus_lite.weights.origins.s3_upload import exists, upload
from thalamus_lite.weights.transfer.answers import check_sizes
from thalamus_lite.weights.transfer.giving_up import go_on
from thalamus_lite.weights.transfer.ranges import range_header
from thalamus_lite.weights.transfer.retry import METADATA, RetryPolicy, call

if TYPE_CHECKING:
    from collections.abc import Mapping

    from thalamus_lite.weights.origin import OriginOptions, RangeBody
    from thalamus_lite.weights.sources import S3Weight, WeightSource

__all__ = ["S3Origin", "client_for", "exists", "upload"]

_log = logging.getLogger("thalamus_lite")

# S3's names of full-object checksums, ours, and their bytes.
_CHECKSUMS = {
    "ChecksumSHA1": ("sha1", 20),
    "ChecksumSHA256": ("sha256", 32),
    "ChecksumCRC64NVME": ("crc64nvme", 8),
    "ChecksumCRC32C": ("crc32c", 4),
    "ChecksumCRC32": ("crc32", 4),
}
_HEX = frozenset({"sha1", "sha256"})
_ONCE = RetryPolicy(attempts=1)

# S3 itself puts 1000 keys on a page. Some servers send empty ones, over objects that were deleted.
_MOST_PAGES = 1_000
_MOST_KEYS = 200_000


class S3Origin:
    """An `Origin` over botocore. A locator is ``[region, endpoint, bucket, key, version]``."""

    def __init__(self, options: OriginOptions, guard: Guard | None = None) -> None:
        guard = guard or (Guard() if options.deny_private_addresses else None)
        self._options = ClientOptions(options.timeout_s, guard)
        self._versionless: set[str] = set()

    def identity(self, source: WeightSource) -> str:
        wanted = cast("S3Weight", source)
        endpoint = chosen_endpoint(wanted.endpoint_url)
        where = public_url(endpoint).rstrip("/") if endpoint else "aws"
        return f"s3:{where}/{wanted.bucket}/{wanted.key or _folder(wanted.prefix)}"

    def list(self, source: WeightSource) -> RemoteFiles:
        wanted = cast("S3Weight", source)
        if wanted.is_directory:
            return self._listing(wanted, METADATA)
        return call(lambda: self._object(wanted))

    def revalidate(self, source: WeightSource, validator: str) -> RemoteFiles | None:
        """Asked once, without retries: the cache has a copy to serve meanwhile."""
        wanted = cast("S3Weight", source)
        found = self._listing(wanted, _ONCE) if wanted.is_directory else self._object(wanted)
        return None if found.validator == validator else found

    def open(self, file: RemoteFile, start: int = 0, stop: int | None = None) -> RangeBody:
        wanted = range_header(start, stop)
        answer, where = self._ask("get_object", file, {"Range": wanted} if wanted else {})
        # Below botocore's stream lies urllib3's, whose reads return what there is and can be ended
        # from another thread.
        told = answer["ResponseMetadata"]
        # Not the stream's own headers: where moto takes botocore's place, it has none.
        headers = HTTPHeaderDict(told["HTTPHeaders"])
        return HTTPBody(answer["Body"]._raw_stream, where, told["HTTPStatusCode"], headers)

    def digests(self, file: RemoteFile) -> Mapping[str, str]:
        """What S3 knows of the object's bytes. A listing does not tell, so this is a HEAD."""
        if file.digests:
            return file.digests
        bucket = json.loads(file.locator)[2]
        head, _ = call(lambda: self._ask("head_object", file, {"ChecksumMode": "ENABLED"}))
        return _digests(head, bucket)

    def _ask(self, operation: str, file: RemoteFile, kwargs: dict[str, Any]) -> tuple[Any, str]:
        """Ask about the object as it was listed; also returns what it is called in errors."""
        region, endpoint, bucket, key, version = json.loads(file.locator)
        where = f"s3://{bucket}/{key}"
        ask_for = partial(ask, getattr(self._client(region, endpoint), operation), where)
        kwargs = {"Bucket": bucket, "Key": key, **kwargs}
        if file.validator:
            kwargs["IfMatch"] = file.validator
        if not version or bucket in self._versionless:
            return ask_for(**kwargs), where
        try:
            return ask_for(VersionId=version, **kwargs), where
        except WeightAccessDenied:
            if not file.validator:
                raise
        # To name a version takes a permission of its own (s3:GetObjectVersion). Without it the
        # ETag guards the bytes, and an object that changes is listed again.
        answer = ask_for(**kwargs)
        self._versionless.add(bucket)
        return answer, where

    def _object(self, source: S3Weight) -> RemoteFiles:
        bucket, key = source.bucket, source.key or ""
        client = self._client(source.region, source.endpoint_url)
        where = f"s3://{bucket}/{key}"
        head = ask(client.head_object, where, Bucket=bucket, Key=key, ChecksumMode="ENABLED")
        name = key.rpartition("/")[2]
        check_names([name])
        # "null" is the version of an object that was there before the bucket had versions.
        version = head.get("VersionId", "")
        version = "" if version == "null" else version
        locator = self._locator(source, key, version)
        etag = _quoted(head.get("ETag"))
        size = required(head, "ContentLength", where)
        file = RemoteFile(name, locator, size, etag, _digests(head, bucket))
        check_sizes([file], where)
        return RemoteFiles((file,), False, version or etag, immutable=False)

    def _listing(self, source: S3Weight, policy: RetryPolicy) -> RemoteFiles:
        prefix = _folder(source.prefix)
        where = f"s3://{source.bucket}/{prefix}"
        found = [
            (key[len(prefix) :], entry)
            for key, entry in self._entries(source, where, policy).items()
            # Consoles and sync tools mark an empty folder with an object of its name.
            if key != prefix and not (key.endswith("/") and not entry["Size"])
        ]
        if not found:
            raise WeightNotFound(f"there are no objects below {where}: check the bucket and prefix")
        found = select(found, source.allow_patterns, lambda item: item[0], where)
        check_names(name for name, _ in found)
        files = tuple(
            RemoteFile(
                relpath=name,
                locator=self._locator(source, entry["Key"], ""),
                size=entry["Size"],
                validator=_quoted(entry.get("ETag")),
                digests={},
            )
            for name, entry in sorted(found, key=lambda item: item[0])
        )
        check_sizes(files, where)
        lines = (f"{file.relpath}\0{file.size}\0{file.validator}" for file in files)
        version = hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()
        return RemoteFiles(files, True, version, immutable=False)

    def _entries(self, source: S3Weight, where: str, policy: RetryPolicy) -> dict[str, Any]:
        """All of a listing, by key: a part of it must not be taken for the folder."""
        client = self._client(source.region, source.endpoint_url)
        kwargs = {"Bucket": source.bucket, "Prefix": _folder(source.prefix)}
        found: dict[str, Any] = {}
        for _ in range(_MOST_PAGES):
            go_on()
            page = call(partial(ask, client.list_objects_v2, where, **kwargs), policy)
            entries = page.get("Contents", ())
            known = len(found)
            found |= {_key(entry, kwargs["Prefix"], where): entry for entry in entries}
            if not page.get("IsTruncated"):
                return found
            token = page.get("NextContinuationToken")
            if not token or token == kwargs.get("ContinuationToken"):
                break
            if (entries and len(found) == known) or len(found) > _MOST_KEYS:
                break
            kwargs["ContinuationToken"] = token
        raise WeightUnreachable(
            f"{where}: the server's listing does not come to an end ({len(found)} objects so far):"
            " check the endpoint_url, or name a smaller prefix"
        )

    def _client(self, region: str | None, endpoint: str | None) -> Any:
        return client_for(region, endpoint, self._options)

    @staticmethod
    def _locator(source: S3Weight, key: str, version: str) -> str:
        return json.dumps([source.region, source.endpoint_url, source.bucket, key, version])


def _folder(prefix: str | None) -> str:
    """``bert`` means ``bert/``: it must not bring ``bert-large/``."""
    return "" if not prefix else prefix.rstrip("/") + "/"


def _key(entry: Mapping[str, Any], prefix: str, where: str) -> str:
    key = str(required(entry, "Key", where))
    if not key.startswith(prefix):
        raise WeightUnreachable(
            f"{where}: the server lists objects that are not below the prefix: check endpoint_url"
        )
    required(entry, "Size", where)
    return key


def _quoted(etag: str | None) -> str:
    return f'"{bare}"' if (bare := (etag or "").strip('"')) else ""


def _digests(head: Mapping[str, Any], bucket: str) -> dict[str, str]:
    """The digests over the whole object that a HEAD tells.

    A multipart object's checksum may be one over its parts' checksums (``COMPOSITE``, or ``-N`` at
    its end). An ETag is an MD5 only of an object that was put in one piece, is not encrypted with a
    key of the customer's or of KMS, and does not lie in a directory bucket.
    """
    found = {}
    if head.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT":
        for theirs, (ours, length) in _CHECKSUMS.items():
            value = head.get(theirs, "")
            if not value or "-" in value:
                continue
            raw = _decoded(value)
            if len(raw) == length:
                found[ours] = raw.hex() if ours in _HEX else value
            else:
                # No object could match it, and what else is known of the bytes is still checked.
                _log.warning(
                    "an object in s3://%s has a malformed %s, which is ignored", bucket, ours
                )
    etag = (head.get("ETag") or "").strip('"')
    plain = head.get("ServerSideEncryption", "AES256") == "AES256"
    plain = plain and "SSECustomerAlgorithm" not in head and not bucket.endswith("--x-s3")
    if plain and re.fullmatch("[0-9a-f]{32}", etag):
        found["md5"] = etag
    return found


def _decoded(checksum: str) -> bytes:
    try:
        return base64.b64decode(checksum, validate=True)
    except ValueError:
        return b""
