"""An answer held against what was listed and what was asked; a listing against what can be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thalamus_lite.errors import WeightChanged, WeightUnreachable
from thalamus_lite.weights.transfer.retry import Unanswered
from thalamus_lite.weights.transfer.verify import is_verifiable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thalamus_lite.weights.origin import RangeBody, RemoteFile

# More than any disk, and their sum still fits into the index.
_MOST_BYTES = 2**60


class RangesRefused(Exception):
    """A range was asked; the whole file came, or a part of who knows which file."""


def judge(file: RemoteFile, body: RangeBody, start: int, *, whole: bool) -> None:
    """Accept an answer to a request for the bytes from ``start`` on, ``whole`` without a range.

    Raises:
        WeightChanged: it is another object.
        RangesRefused: see there.
        Unanswered: it holds other bytes than those that were asked for.
    """
    if file.validator and body.validator and body.validator != file.validator:
        raise WeightChanged(f"{file.relpath} changed on the server while it was downloaded")
    if file.size is not None and body.total is not None and body.total != file.size:
        raise WeightChanged(
            f"{file.relpath} has {body.total} bytes on the server, where {file.size} were announced"
        )
    silent = bool(file.validator) and not body.validator
    if not whole:
        if body.status == 200 or body.start != start:
            raise RangesRefused
        # RFC 9110 §15.3.7: a 206 names its ETag where a 200 would. Without one, the ranges could
        # be those of two objects.
        if silent:
            raise RangesRefused
    elif silent and not is_verifiable(file):
        raise WeightChanged(
            f"{file.relpath}: the server names the file's version (ETag) in its headers, but not"
            " where it sends the bytes, so these may be others: have it send the ETag with both, or"
            " name the file's sha256 in an HTTPWeight or S3Weight"
        )
    if body.start != start:
        raise Unanswered(
            f"{file.relpath}: the server sent bytes from {body.start} on, where it was asked for"
            f" bytes from {start} on"
        )


def check_sizes(files: Sequence[RemoteFile], where: str) -> None:
    """
    Raises:
        WeightUnreachable: no files have the sizes that the server gives.
    """
    sizes = [file.size for file in files if file.size is not None]
    # The Hub's are whatever its JSON holds.
    if any(type(size) is not int or size < 0 for size in sizes) or sum(sizes) > _MOST_BYTES:
        raise WeightUnreachable(
            f"{where}: the server gives sizes that no files have: check that it is the right server"
        )
