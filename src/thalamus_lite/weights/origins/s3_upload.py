"""Files to S3."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import zlib
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from thalamus_lite.errors import WeightError, WeightNotFound, WeightSourceInvalid
from thalamus_lite.weights.origins.s3_errors import ask, required
from thalamus_lite.weights.transfer.retry import RetryPolicy, call

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MiB = 1024 * 1024
_MAX_PARTS = 10_000
_BLOCK = MiB


@dataclass(frozen=True, slots=True)
class UploadOptions:
    """S3 takes at most 5 GB in one request, and parts of 5 MiB or more in several."""

    multipart_from: int = 5 * 10**9
    part_bytes: int = 64 * MiB
    retry: RetryPolicy = field(default_factory=RetryPolicy)


class LocalFileMissing(WeightSourceInvalid, FileNotFoundError):
    """There is nothing to upload."""


def upload(
    client: Any, local: Path, bucket: str, key: str, options: UploadOptions | None = None
) -> None:
    """Put a local file there, with a checksum that S3 verifies and keeps.

    Raises:
        WeightSourceInvalid: the file cannot be read; `LocalFileMissing` if it does not exist.
        WeightError: S3 refuses it, or stays unreachable. No parts are left behind.
    """
    options = options or UploadOptions()
    job = _Upload(client, bucket, key, options)
    try:
        with open(local, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size >= options.multipart_from:
                job.in_parts(file.fileno(), size)
            else:
                job.at_once(file.fileno(), size)
    except FileNotFoundError as error:
        raise LocalFileMissing(f"there is no file {local} to upload: check its path") from error
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else type(error).__name__
        raise WeightSourceInvalid(f"{local} cannot be read: {reason}") from error


def exists(client: Any, bucket: str, key: str) -> bool:
    """Whether the object is there. Only a 404 says that it is not; all else is raised."""
    try:
        call(partial(ask, client.head_object, f"s3://{bucket}/{key}", Bucket=bucket, Key=key))
    except WeightNotFound:
        return False
    return True


class _Upload:
    def __init__(self, client: Any, bucket: str, key: str, options: UploadOptions) -> None:
        self._client = client
        self._options = options
        self._where = f"s3://{bucket}/{key}"
        self._target = {"Bucket": bucket, "Key": key}

    def at_once(self, fd: int, size: int) -> None:
        # The checksum goes in a header of its own rather than as botocore's trailer, which many
        # servers that are not AWS do not understand; those ignore a header.
        digest = hashlib.sha256()
        for block in _blocks(fd, 0, size):
            digest.update(block)
        checksum = base64.b64encode(digest.digest()).decode()
        self._ask(
            "put_object",
            window=(fd, 0, size),
            ChecksumAlgorithm="SHA256",
            ChecksumSHA256=checksum,
        )

    def in_parts(self, fd: int, size: int) -> None:
        length = max(self._options.part_bytes, -(-size // _MAX_PARTS))
        # Of the checksums over a whole multipart object only the CRCs exist, and zlib has this one.
        kind: dict[str, Any] = {"ChecksumAlgorithm": "CRC32", "ChecksumType": "FULL_OBJECT"}
        begun = required(self._ask("create_multipart_upload", **kind), "UploadId", self._where)
        try:
            parts, whole = [], 0
            for number, start in enumerate(range(0, size, length), 1):
                stop = min(start + length, size)
                one = 0
                for block in _blocks(fd, start, stop):
                    one, whole = zlib.crc32(block, one), zlib.crc32(block, whole)
                named: dict[str, Any] = {"PartNumber": number, "ChecksumCRC32": _base64(one)}
                sent = self._ask("upload_part", window=(fd, start, stop), UploadId=begun, **named)
                parts.append({**named, "ETag": required(sent, "ETag", self._where)})
            self._ask(
                "complete_multipart_upload",
                UploadId=begun,
                MultipartUpload={"Parts": parts},
                ChecksumCRC32=_base64(whole),
                ChecksumType="FULL_OBJECT",
            )
        except BaseException:
            self._abort(begun)
            raise

    def _abort(self, begun: str) -> None:
        # Parts that stay are invisible and paid for; but the first error is the one to tell.
        try:
            self._ask("abort_multipart_upload", UploadId=begun)
        except WeightError:
            return

    def _ask(
        self, operation: str, *, window: tuple[int, int, int] | None = None, **kwargs: Any
    ) -> Any:
        def once() -> Any:
            if window is not None:
                kwargs["Body"] = _Window(*window)
            return ask(getattr(self._client, operation), self._where, **self._target, **kwargs)

        return call(once, self._options.retry)


class _Window(io.RawIOBase):
    """Bytes ``[start, stop)`` of a file as a file of its own: botocore rewinds what it sends."""

    def __init__(self, fd: int, start: int, stop: int) -> None:
        self._fd = fd
        self._start = start
        self._length = stop - start
        self._position = 0

    def __len__(self) -> int:
        return self._length

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        left = max(0, self._length - self._position)
        view = memoryview(buffer)[:left]
        count = os.preadv(self._fd, [view], self._start + self._position) if left else 0
        self._position += count
        return count


def _blocks(fd: int, start: int, stop: int) -> Iterator[bytes]:
    while start < stop:
        block = os.pread(fd, min(_BLOCK, stop - start), start)
        if not block:
            raise OSError(0, "the file became shorter while it was uploaded")
        yield block
        start += len(block)


def _base64(crc: int) -> str:
    return base64.b64encode(crc.to_bytes(4, "big")).decode()
