"""API keys. Everything is closed unless a route says that it is public.

A key is compared as bytes, in constant time, whatever bytes the client sent. Several keys may be
valid at once, one a line of ``THALAMUS_API_KEY_FILE``, which is read again when it changes: that is
how keys are rotated.
"""

from __future__ import annotations

import errno
import logging
import os
from hmac import compare_digest
from typing import TYPE_CHECKING

from thalamus_lite.errors import AuthNotConfigured, ConfigurationError, InvalidApiKey
from thalamus_lite.http.router import Access

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from thalamus_lite.http.request import Request
    from thalamus_lite.settings import Settings

_log = logging.getLogger("thalamus_lite")

RECHECK_S = 1.0
"""How often a key file's change is looked for."""

# No descriptor or memory to look with says nothing of the file.
_TROUBLE_OF_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})

_SINGLE = frozenset({b"x-api-key", b"authorization"})


class KeyFile:
    """The keys in a file, one a line; blank lines and lines that start with ``#`` are skipped."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock
        self._stamp: tuple[int, int, int] | None = None
        self._next_check = 0.0
        self._keys: tuple[bytes, ...] = ()
        try:
            self._read()
        except OSError as error:
            raise ConfigurationError(
                f"THALAMUS_API_KEY_FILE cannot be read ({error.strerror}): name a readable file"
            ) from error

    def keys(self) -> tuple[bytes, ...]:
        now = self._clock()
        if now >= self._next_check:
            self._next_check = now + RECHECK_S
            had = bool(self._keys)
            try:
                self._read()
            except OSError as error:
                if error.errno in _TROUBLE_OF_OURS:
                    return self._keys
                # A file that is gone takes its keys with it: revoking by deleting must work.
                self._keys = ()
                self._stamp = None
            if had and not self._keys:
                _log.warning(
                    "THALAMUS_API_KEY_FILE is gone or holds no key any more: none of it is taken"
                )
        return self._keys

    def _read(self) -> None:
        stat = self._path.stat()
        stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if stamp == self._stamp:
            return
        lines = (line.strip() for line in self._path.read_bytes().splitlines())
        self._keys = tuple(line for line in lines if line and not line.startswith(b"#"))
        self._stamp = stamp


class Gate:
    """Lets a request pass, or raises."""

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self._key = _encoded(settings.api_key)
        self._admin = _encoded(settings.admin_key)
        self._file = (
            None if settings.api_key_file is None else KeyFile(settings.api_key_file, clock)
        )

    def missing(self) -> str | None:
        """What the operator should know of keys that are not there; None: all are."""
        shut = "or every protected route answers 503"
        if self._file is None:
            return None if self._key else f"no key is configured: set THALAMUS_API_KEY, {shut}"
        if self._file.keys():
            return None
        if self._key:
            return "THALAMUS_API_KEY_FILE holds no key: only that of THALAMUS_API_KEY is taken"
        return f"THALAMUS_API_KEY_FILE holds no key: write one, {shut}"

    def check(self, request: Request, access: str) -> None:
        """
        Raises:
            AuthNotConfigured: the server has no key, so nobody may pass.
            InvalidApiKey: the client's key is missing, wrong, or sent in two ways that differ.
        """
        if access == Access.PUBLIC:
            return
        keys = self._keys(access)
        if not keys:
            raise AuthNotConfigured
        offered = _offered(request)
        if offered is None:
            raise InvalidApiKey
        for key in keys:
            if compare_digest(offered, key):
                return
        raise InvalidApiKey

    def _keys(self, access: str) -> tuple[bytes, ...]:
        if access == Access.ADMIN and self._admin:
            return self._admin
        if self._file is None:
            return self._key
        return self._key + self._file.keys()


def _encoded(key: str | None) -> tuple[bytes, ...]:
    # os.environ decodes with surrogateescape; this gives back the bytes that the operator set.
    return () if key is None else (os.fsencode(key),)


def _offered(request: Request) -> bytes | None:
    """The client's one key, or None when it sent none, or several."""
    headers = request.headers
    if len(headers) != len(request.scope["headers"]):
        sent = [name for name, _ in request.scope["headers"] if name in _SINGLE]
        if len(sent) > len(set(sent)):
            return None
    key = headers.get(b"x-api-key")
    authorization = headers.get(b"authorization")
    if authorization is None:
        return key
    scheme, _, token = authorization.partition(b" ")
    bearer = token.strip() if scheme.lower() == b"bearer" else None
    if key is None:
        return bearer
    if bearer is None:
        # Another scheme, such as a proxy's Basic, is not ours to judge.
        return key
    return key if compare_digest(key, bearer) else None
