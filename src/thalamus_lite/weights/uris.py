"""Sources as they are written on a command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thalamus_lite.errors import WeightSourceInvalid
from thalamus_lite.weights.sources import HFWeight, HTTPWeight, S3Weight

if TYPE_CHECKING:
    from thalamus_lite.weights.sources import WeightSource

_FORMS = (
    "write s3://bucket/key, s3://bucket/prefix/, hf:owner/name[@revision][/file] or https://..."
)


def source_from_uri(uri: str) -> WeightSource:
    """The source that ``s3://bucket/key``, ``hf:owner/name@main/file`` or a URL means.

    An S3 key that ends in a slash is a prefix. A Hub repository has an owner here: otherwise
    ``hf:a/b`` could be a file as well.

    Raises:
        WeightSourceInvalid: it is none of these; the sentence shows their forms.
    """
    try:
        scheme, _, rest = uri.partition(":")
        if scheme == "s3" and rest.startswith("//"):
            return _s3(rest[2:])
        if scheme == "hf" and rest:
            return _hf(rest)
        return HTTPWeight(urls=(uri,))
    except ValueError:
        raise WeightSourceInvalid(f"this is not a source of weights: {_FORMS}") from None


def _s3(rest: str) -> S3Weight:
    bucket, _, key = rest.partition("/")
    if key.endswith("/"):
        return S3Weight(bucket=bucket, prefix=key)
    return S3Weight(bucket=bucket, key=key)


def _hf(rest: str) -> HFWeight:
    repo, at, after = rest.partition("@")
    if at:
        # A branch may hold a slash ("refs/pr/1"), and only the Hub could tell it from a folder.
        revision, _, filename = after.partition("/")
        return HFWeight(repo=repo, revision=revision, filename=filename or None)
    owner, _, name = repo.partition("/")
    name, _, filename = name.partition("/")
    return HFWeight(repo=f"{owner}/{name}" if name else owner, filename=filename or None)
