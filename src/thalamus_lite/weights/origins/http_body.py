"""An open answer over urllib3: a slow server is noticed, a fast one is not slowed down."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from urllib3.exceptions import HTTPError

from thalamus_lite.errors import WeightSourceInvalid
from thalamus_lite.weights.origins.http_client import refusal, strong_etag, translated
from thalamus_lite.weights.transfer.ranges import parse_content_range, parse_length
from thalamus_lite.weights.transfer.retry import Unanswered
from thalamus_lite.weights.transfer.verify import is_verifiable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from urllib3 import BaseHTTPResponse

    from thalamus_lite.weights.origin import RemoteFile
    from thalamus_lite.weights.origins.http_client import Answer

_GATHER_S = 0.02
_OPEN = frozenset({200, 206})


def opened(answer: Answer, file: RemoteFile, where: str) -> HTTPBody:
    """The answer's body, if it holds bytes of the file as they are.

    Raises:
        WeightSourceInvalid: it is compressed, or could end early without anybody noticing.
        WeightError: the status says that there is none.
    """
    try:
        if answer.status not in _OPEN:
            raise refusal(answer, where)
        check_encoding(answer, where)
        if not _is_framed(answer) and file.size is None and not is_verifiable(file):
            raise WeightSourceInvalid(
                f"{where}: the server gives neither a length nor a checksum, so a broken download"
                " would look complete: have it send a Content-Length, or name the file's sha256 in"
                " an HTTPWeight"
            )
    except BaseException:
        answer.close()
        raise
    response = answer.response
    return HTTPBody(response, where, response.status, response.headers, answer.broken)


def check_encoding(answer: Answer, where: str) -> None:
    """Refuse a body that was changed on the way."""
    for name, plain in (("Content-Encoding", ""), ("Transfer-Encoding", "chunked")):
        encoding = (answer.header(name) or "identity").strip().lower()
        if encoding not in ("identity", plain):
            raise WeightSourceInvalid(
                f"{where}: the server sends it with {name} {encoding[:20]!r}: have it serve the"
                " file as it is"
            )


def _is_framed(answer: Answer) -> bool:
    """Whether a broken answer is told from a complete one, by what http.client understands."""
    # Letter by letter: to http.client anything but this one word is no frame.
    if (answer.header("Transfer-Encoding") or "").lower() == "chunked":
        return True
    return parse_length(answer.header("Content-Length")) is not None


class HTTPBody:
    """A `RangeBody`.

    ``status`` says what the answer is, not what it calls itself: some servers send a range with 200
    and a ``Content-Range``. ``start`` is -1 when a range does not say, or contradicts, which it is.
    """

    def __init__(
        self,
        response: BaseHTTPResponse,
        where: str,
        status: int,
        headers: Mapping[str, str],
        broken: Callable[[], object] = bool,
    ) -> None:
        self._response = response
        self._where = where
        self._broken = broken
        self._failure: Exception | None = None
        self._aborted = False
        self.validator = strong_etag(headers.get("ETag"))
        length = parse_length(headers.get("Content-Length"))
        claimed = headers.get("Content-Range")
        self.status = 206 if claimed is not None else status
        self.start = 0
        self.total = length if self.status == 200 else None
        if self.status == 206:
            found = parse_content_range(claimed)
            self.start = -1
            if found is not None and found.start is not None and found.stop is not None:
                self.total = found.total
                if length in (None, found.stop - found.start):
                    self.start = found.start

    def read(self, n: int) -> bytes:
        """Up to ``n`` bytes: all of them from a fast server, what there is from a slow one.

        A read that waited for all of ``n`` could wait for hours on a server that trickles, each
        byte in time; a read that took what one packet brought would cost a write per packet.
        """
        if self._failure is not None:
            raise self._failure
        parts = [self._read1(n)]
        if not parts[0]:
            return b""
        left = n - len(parts[0])
        until = time.monotonic() + _GATHER_S
        while left and time.monotonic() < until:
            try:
                part = self._read1(left)
            except Exception as error:
                # What arrived before the connection broke is good; the next read tells.
                self._failure = error
                break
            if not part:
                break
            parts.append(part)
            left -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def abort(self) -> None:
        """End a read in progress in another thread. What it brings after this is not believed."""
        self._aborted = True
        # A connection that is closed, or returned to its pool, has no read in progress; nor has a
        # stand-in of moto's, which has no connection.
        if getattr(self._response, "_connection", None) is None:
            return
        of = getattr(getattr(self._response, "_sock_shutdown", None), "__self__", None)
        if isinstance(of, socket.socket):
            # Not the socket's own method: over TLS that takes the decryption away first, and the
            # read in progress goes on with the encrypted bytes.
            with suppress(OSError):
                socket.socket.shutdown(of, socket.SHUT_RD)

    def close(self) -> None:
        # A body that was read to its end has returned its connection already.
        self._response.close()

    def _read1(self, n: int) -> bytes:
        try:
            data = self._response.read1(n) or b""
        except HTTPError as error:
            self._broken()
            raise translated(error, self._where) from None
        # Where a body ends with its connection, an end that was made here is none of the file's.
        if self._aborted:
            self._broken()
            raise Unanswered(f"{self._where}: the answer came too slowly, and was broken off")
        return data
