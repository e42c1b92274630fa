"""The head of an answer, within a time limit of its own.

A socket's timeout bounds each read, and a server that sends a byte now and then keeps it for ever.
Once a body is there, the engine watches its speed; until then this does.
"""

from __future__ import annotations

import http.client
import io
import time
from typing import TYPE_CHECKING, Any

from thalamus_lite.weights.transfer.giving_up import go_on

if TYPE_CHECKING:
    import socket

HEAD_S = 30.0
"""From the first byte of a head to its last. The first comes within the socket's own timeout."""

_INTERIM = 16
_LOOK_S = 0.25


class TimedResponse(http.client.HTTPResponse):
    """http.client's, with a limit on the time that its head takes.

    All interim answers (1xx, RFC 9110 §15.2) are passed over; http.client knows 100 alone.
    """

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        buffered: Any = self.fp
        self.reader = _Reader(buffered.detach(), sock)
        self.fp = io.BufferedReader(self.reader)

    def begin(self) -> None:
        super().begin()
        self.reader.until = None

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(_INTERIM):
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if status == http.HTTPStatus.SWITCHING_PROTOCOLS or not 100 <= status < 200:
                return version, status, reason
            http.client.parse_headers(self.fp)
            self.reader.expect()
        raise http.client.HTTPException("the server sends interim answers only")


class _Reader(io.RawIOBase):
    def __init__(self, plain: io.RawIOBase, sock: socket.socket) -> None:
        self._plain = plain
        self._sock = sock
        self._timeout_s = sock.gettimeout()
        self._begun = False
        self.until: float | None = None
        """The time at which reads end, whatever has come; None: after the socket's timeout each."""
        self.expect()

    def expect(self) -> None:
        """A head may begin within the socket's timeout, from now on."""
        self._begun = False
        self.until = time.monotonic() + (HEAD_S if self._timeout_s is None else self._timeout_s)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self.until is None:
            return self._plain.readinto(buffer)
        now = time.monotonic()
        one = HEAD_S if self._timeout_s is None else self._timeout_s
        count = self._received(buffer, min(self.until, now + one))
        if not self._begun:
            self._begun = True
            self.until = time.monotonic() + HEAD_S
        return count

    def close(self) -> None:
        self._plain.close()
        super().close()

    def _received(self, buffer: Any, until: float) -> int:
        try:
            while (left := until - time.monotonic()) > 0:
                go_on()
                self._sock.settimeout(min(left, _LOOK_S))
                try:
                    return self._sock.recv_into(buffer)
                except TimeoutError:
                    continue
            raise TimeoutError("the head of the answer did not come in time")
        finally:
            self._sock.settimeout(self._timeout_s)


def limit(response: Any, seconds: float) -> None:
    """What is left of urllib3's ``response`` comes within ``seconds``, or a read of it fails."""
    reader = getattr(getattr(response, "_original_response", None), "reader", None)
    if reader is not None:
        reader.until = time.monotonic() + seconds
