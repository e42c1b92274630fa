"""Requests as weights need them: redirects by hand, errors as sentences, nothing secret in either.

Of a URL only scheme, host and path are ever shown (`names.public_url`). Exceptions of urllib3 are
not chained: their texts may hold what ours leave out.
"""

from __future__ import annotations

import http
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

import urllib3
from urllib3 import exceptions

from thalamus_lite.errors import (
    WeightAccessDenied,
    WeightChanged,
    WeightError,
    WeightNotFound,
    WeightSourceInvalid,
    WeightUnreachable,
)
from thalamus_lite.weights.names import as_browsers, has_control, http_url, public_url
from thalamus_lite.weights.origins.addresses import Guard
from thalamus_lite.weights.origins.http_head import limit
from thalamus_lite.weights.origins.pools import Pools, basic_auth
from thalamus_lite.weights.transfer.retry import Unanswered, parse_retry_after

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from thalamus_lite.weights.origin import OriginOptions

MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_DRAIN_BYTES = 64 * 1024
# A rest that has not come by then costs more than a new connection.
_DRAIN_S = 0.1
_CONNECT_S = 10.0
_CONNECTIONS = 16
# A signed target lives for minutes to hours; asking again this often costs next to nothing.
_TARGET_TTL_S = 120.0
_TARGET_GONE = frozenset({400, 401, 403, 404, 410})

_RETRYABLE = frozenset({408, 425, 429})
_REFUSALS: dict[int, tuple[type[WeightError], str]] = {
    400: (WeightSourceInvalid, "the server does not understand the request: check the URL"),
    401: (WeightAccessDenied, "the server wants a login: check the credentials"),
    403: (WeightAccessDenied, "access is denied: check the credentials, or sign the URL again"),
    404: (WeightNotFound, "there is no such file: check the name"),
    410: (WeightNotFound, "the file is gone: check the name"),
    412: (WeightChanged, "the file changed on the server while it was downloaded"),
    416: (WeightChanged, "the file became shorter on the server while it was downloaded"),
}


class Broken(Unanswered):
    """The server closed the connection, where it should have answered."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A final answer; ``url`` is the one that gave it, after redirects.

    ``broken`` is to be called when its body breaks off: another server may do better.
    """

    response: urllib3.BaseHTTPResponse
    url: str
    broken: Callable[[], object] = bool

    @property
    def status(self) -> int:
        return self.response.status

    def header(self, name: str) -> str | None:
        return self.response.headers.get(name)

    def close(self) -> None:
        """Return the connection to its pool if little is left to read, and there; else close it."""
        left = getattr(self.response, "length_remaining", None)
        if left is None or left > _DRAIN_BYTES:
            self.response.close()
            return
        limit(self.response, _DRAIN_S)
        with suppress(exceptions.HTTPError):
            self.response.read(_DRAIN_BYTES)
        self.response.release_conn()


class HTTPClient:
    """Thread-safe. ``guard`` None takes the one that the options ask for."""

    def __init__(self, options: OriginOptions, guard: Guard | None = None) -> None:
        if guard is None and options.deny_private_addresses:
            guard = Guard()
        timeout = urllib3.Timeout(
            connect=min(options.timeout_s, _CONNECT_S), read=options.timeout_s
        )
        self._pools = Pools(guard, timeout, _CONNECTIONS)
        self._targets: dict[str, tuple[str, float]] = {}

    def send(self, method: str, url: str, headers: Mapping[str, str]) -> Answer:
        """Ask, and follow up to five redirects. Any status but a redirect comes back.

        Userinfo in ``url`` becomes basic authentication. It and any ``Authorization`` among the
        headers go to the URL's own scheme, host and port alone.

        Raises:
            Unanswered: no answer; another attempt may bring one.
            WeightUnreachable: a redirect that is not followed, or a certificate not trusted.
            WeightAccessDenied: a private address, where these are refused.
        """
        url, headers = _with_login(url, headers)
        home = authority(url)
        for _ in range(MAX_REDIRECTS + 1):
            response = self._once(method, url, headers)
            if response.status not in _REDIRECTS:
                return Answer(response, url)
            location = response.headers.get("Location")
            Answer(response, url).close()
            url = _redirected(url, location)
            if authority(url) != home:
                headers = {k: v for k, v in headers.items() if k.lower() != "authorization"}
        raise WeightUnreachable(
            f"{public_url(url)} is the end of more than {MAX_REDIRECTS} redirects: check the URL"
        )

    def get(self, url: str, headers: Mapping[str, str]) -> Answer:
        """``send("GET", ...)`` that remembers for a while where another host's redirect led.

        A large file is asked for in hundreds of ranges, and the host that redirects each of them
        counts requests.
        """
        forget = partial(self._targets.pop, url, None)
        target, until = self._targets.get(url, ("", 0.0))
        if target and time.monotonic() < until:
            bare = {k: v for k, v in headers.items() if k.lower() != "authorization"}
            # A failure of the target is none of the URL's: it may lead to another by now.
            with suppress(WeightUnreachable, WeightAccessDenied):
                answer = self.send("GET", target, bare)
                if not _has_failed(answer.status):
                    return replace(answer, broken=forget)
                answer.close()
        forget()
        answer = self.send("GET", url, headers)
        if answer.status < 300 and authority(answer.url) != authority(url):
            self._targets[url] = (answer.url, time.monotonic() + _TARGET_TTL_S)
        return replace(answer, broken=forget)

    def _once(self, method: str, url: str, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        try:
            return self._pools.pool_for(url).urlopen(
                method,
                url,
                redirect=False,
                headers=dict(headers),
                retries=False,
                preload_content=False,
                decode_content=False,
            )
        except exceptions.HTTPError as error:
            raise translated(error, public_url(url)) from None


def refusal(answer: Answer, where: str) -> WeightError:
    """The error for a status that is not the one hoped for."""
    status = answer.status
    if status in _RETRYABLE or status >= 500:
        wait = parse_retry_after(answer.header("Retry-After"), time.time())
        return Unanswered(f"{where}: the server answered {_phrase(status)}", retry_after_s=wait)
    kind, text = _REFUSALS.get(
        status, (WeightUnreachable, "the server's answer makes no sense here: check the URL")
    )
    return kind(f"{where}: {text} ({_phrase(status)})")


def translated(error: exceptions.HTTPError, where: str) -> WeightError:
    """urllib3's error as one of ours, in words of ours."""
    match error:
        case exceptions.NameResolutionError():
            return Unanswered(f"{where}: the host name does not resolve: check it, and the network")
        case exceptions.ProxyError():
            return Unanswered(f"{where}: the proxy cannot be reached: check http_proxy")
        case exceptions.SSLError() if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return WeightUnreachable(
                f"{where}: the server's certificate is not trusted: install its authority's"
                " certificate, and name it in SSL_CERT_FILE"
            )
        case exceptions.LocationParseError() | exceptions.LocationValueError():
            return WeightSourceInvalid(f"{where}: this is not a usable URL: check its host")
        # A kind of ConnectTimeoutError, for historical reasons.
        case exceptions.NewConnectionError():
            return Unanswered(f"{where}: no connection to the server: check the host and port")
        case exceptions.TimeoutError():
            return Unanswered(f"{where}: the server did not answer in time")
        case _:
            return Broken(f"{where}: the connection broke")


def strong_etag(value: str | None) -> str:
    """The ETag if it is a strong one (RFC 9110 §8.8.3), else ``""``."""
    value = (value or "").strip()
    strong = len(value) > 2 and value.startswith('"') and value.endswith('"')
    return value if strong else ""


def _has_failed(status: int) -> bool:
    return status in _TARGET_GONE or status in _RETRYABLE or status >= 500


def _phrase(status: int) -> str:
    try:
        return f"{status} {http.HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def authority(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: what an origin is, to a login."""
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    default = 443 if scheme == "https" else 80
    return scheme, (parts.hostname or "").lower(), parts.port or default


def _with_login(url: str, headers: Mapping[str, str]) -> tuple[str, Mapping[str, str]]:
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url, headers
    login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    if not parts.username:
        return bare, headers
    return bare, {**headers, "authorization": basic_auth(login)}


def _utf8(header: str) -> str:
    """A header's value that holds raw UTF-8: http.client reads all headers as latin-1."""
    return header.encode("latin-1", "replace").decode("utf-8", "surrogateescape")


def _redirected(url: str, location: str | None) -> str:
    """Where a redirect from ``url`` leads.

    Raises:
        WeightUnreachable: nowhere, to another scheme, or from https to http.
    """
    where = public_url(url)
    if not location:
        raise WeightUnreachable(f"{where} redirects to nowhere: the server is misconfigured")
    try:
        # urlsplit drops some of the controls.
        usable = not has_control(location)
        parts = urlsplit(http_url(urljoin(url, as_browsers(_utf8(location))), "redirects"))
    except ValueError:
        usable = False
    if not usable:
        raise WeightUnreachable(
            f"{where} redirects to something that is not an http:// or https:// URL: it is not"
            " followed"
        )
    if urlsplit(url).scheme == "https" and parts.scheme == "http":
        raise WeightUnreachable(
            f"{where} redirects from https to http: it is not followed, since anybody on the way"
            " could change the file"
        )
    # A login that a redirect brings along is the server's idea, not the user's.
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))
