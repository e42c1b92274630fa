"""Weights behind URLs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

from thalamus_lite.errors import WeightUnreachable
from thalamus_lite.weights.names import check_names, public_url, url_identity
from thalamus_lite.weights.origin import RemoteFile, RemoteFiles
from thalamus_lite.weights.origins.http_body import check_encoding, opened
from thalamus_lite.weights.origins.http_client import Broken, HTTPClient, refusal, strong_etag
from thalamus_lite.weights.origins.patterns import select
from thalamus_lite.weights.transfer.answers import RangesRefused, check_sizes
from thalamus_lite.weights.transfer.ranges import parse_content_range, parse_length, range_header
from thalamus_lite.weights.transfer.retry import call

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thalamus_lite.weights.origin import OriginOptions, RangeBody
    from thalamus_lite.weights.origins.addresses import Guard
    from thalamus_lite.weights.origins.http_client import Answer
    from thalamus_lite.weights.sources import HTTPWeight, WeightSource

# What a server may compress on the way it may also serve with another length and another ETag.
_PLAIN = {"Accept-Encoding": "identity"}

# HEAD is an optional courtesy: application servers leave it out, and a signature for GET is none
# for HEAD. These statuses to a HEAD say nothing about the file.
_HEAD_SAYS_NOTHING = frozenset({204, 400, 403, 404, 405, 406, 500, 501})

# A server may ignore a range (RFC 9110 §14.2); some do not even do that.
_RANGE_NOT_UNDERSTOOD = frozenset({400, 501})


@dataclass(frozen=True, slots=True)
class _Described:
    """What a server says of a URL. ``version`` is any sign of a change, the weak ones included."""

    size: int | None
    etag: str
    version: str


class HTTPOrigin:
    """An `Origin` over urllib3. ``guard`` overrides what the options say about addresses."""

    def __init__(self, options: OriginOptions, guard: Guard | None = None) -> None:
        self._client = HTTPClient(options, guard)

    def identity(self, source: WeightSource) -> str:
        urls = cast("HTTPWeight", source).urls
        if len(urls) == 1:
            return f"http:{url_identity(urls[0])}"
        joined = "\n".join(url_identity(url) for url in urls)
        return f"http:{len(urls)} URLs#{_digest(joined)}"

    def list(self, source: WeightSource) -> RemoteFiles:
        """One HEAD a URL, and a GET of one byte where that does not do."""
        wanted = cast("HTTPWeight", source)
        urls = self._wanted(wanted)
        described = [call(partial(self._describe, url)) for url in urls]
        return self._files(wanted, urls, [one for one in described if one is not None])

    def revalidate(self, source: WeightSource, validator: str) -> RemoteFiles | None:
        """Asked once, without retries: the cache has a copy to serve meanwhile."""
        wanted = cast("HTTPWeight", source)
        urls = self._wanted(wanted)
        known = strong_etag(validator) if len(urls) == 1 else ""
        described = [self._describe(url, known) for url in urls]
        if any(one is None for one in described):
            return None
        found = self._files(wanted, urls, [one for one in described if one is not None])
        return None if validator and found.validator == validator else found

    def open(self, file: RemoteFile, start: int = 0, stop: int | None = None) -> RangeBody:
        headers = dict(_PLAIN)
        wanted = range_header(start, stop)
        if wanted is not None:
            headers["Range"] = wanted
            if file.validator:
                headers["If-Range"] = file.validator
        answer = self._client.get(file.locator, headers)
        if wanted is not None and answer.status in _RANGE_NOT_UNDERSTOOD:
            answer.close()
            # An expired signature is answered 400 as well, and is no reason to start over.
            answer = self._client.get(file.locator, _PLAIN)
            if answer.status == 200:
                answer.close()
                raise RangesRefused
        return opened(answer, file, public_url(file.locator))

    def _wanted(self, source: HTTPWeight) -> Sequence[str]:
        """The source's URLs, those that patterns leave out not even asked for."""
        return select(source.urls, source.allow_patterns, source.file_name, "the URLs")

    def _files(
        self, source: HTTPWeight, urls: Sequence[str], described: Sequence[_Described]
    ) -> RemoteFiles:
        names = [source.file_name(url) for url in urls]
        check_names(names, "give each of the URLs a weight of its own")
        files = tuple(
            RemoteFile(name, url, one.size, one.etag, {})
            for name, url, one in zip(names, urls, described, strict=True)
        )
        check_sizes(files, source.name)
        versions = [one.version for one in described]
        if len(versions) == 1:
            version = versions[0]
        elif all(versions):
            version = _digest("\n".join(f"{n}\0{v}" for n, v in zip(names, versions, strict=True)))
        else:
            version = ""
        return RemoteFiles(files, source.is_directory, version, immutable=False)

    def _describe(self, url: str, known: str = "") -> _Described | None:
        """What the server says of ``url``; None: it is still the one with the ETag ``known``."""
        extra = {"If-None-Match": known} if known else {}
        try:
            answer = self._client.send("HEAD", url, {**_PLAIN, **extra})
        except Broken:
            return self._describe_by_get(url)
        try:
            if answer.status == 304 and known:
                return None
            if answer.status == 200:
                described = self._read(answer, public_url(url))
                # An empty file is what a HEAD answered carelessly looks like, so it is asked again.
                if described.size:
                    return described
            elif answer.status not in _HEAD_SAYS_NOTHING:
                raise refusal(answer, public_url(url))
        finally:
            answer.close()
        return self._describe_by_get(url)

    def _describe_by_get(self, url: str) -> _Described:
        answer = self._client.send("GET", url, {**_PLAIN, "Range": "bytes=0-0"})
        if answer.status in _RANGE_NOT_UNDERSTOOD:
            answer.close()
            answer = self._client.send("GET", url, _PLAIN)
        try:
            if answer.status not in (200, 206, 416):
                raise refusal(answer, public_url(url))
            return self._read(answer, public_url(url))
        finally:
            answer.close()

    @staticmethod
    def _read(answer: Answer, where: str) -> _Described:
        check_encoding(answer, where)
        size = parse_length(answer.header("Content-Length")) if answer.status == 200 else None
        found = parse_content_range(answer.header("Content-Range"))
        if found is not None:
            size = found.total
        if answer.status == 416 and size != 0:
            raise WeightUnreachable(f"{where}: the server refuses to send the first byte of it")
        etag = strong_etag(answer.header("ETag"))
        weak = answer.header("ETag") or answer.header("Last-Modified") or ""
        return _Described(size, etag, etag or (f"{weak} {size}" if weak else ""))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
