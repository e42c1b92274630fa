"""urllib3's pools, taught three things.

No query is in a log, no address is dialled that was not checked, and no head takes for ever.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from thalamus_lite.errors import WeightSourceInvalid
from thalamus_lite.weights.forks import no_fork
from thalamus_lite.weights.names import has_host
from thalamus_lite.weights.origins.http_head import TimedResponse

if TYPE_CHECKING:
    import socket

    from thalamus_lite.weights.origins.addresses import Guard

# Carries the query from the pool to the connection, and never onto the wire.
_QUERY = "x-thalamus-query"


class _Connection(HTTPConnection):
    """Puts the query back."""

    response_class = TimedResponse

    def request(self, method: str, url: str, *args: Any, **kwargs: Any) -> None:
        headers = dict(kwargs.get("headers") or {})
        query = headers.pop(_QUERY, None)
        kwargs["headers"] = headers
        super().request(method, url if query is None else f"{url}?{query}", *args, **kwargs)


class _SecureConnection(_Connection, HTTPSConnection):
    """The same over TLS."""


class _QuietPool(HTTPConnectionPool):
    """urllib3 logs each request's target at DEBUG, and a signature is part of a query.

    A fork waits for whoever is in the queue of free connections: a child clears it away.
    """

    ConnectionCls = _Connection

    def _get_conn(self, timeout: float | None = None) -> Any:
        with no_fork():
            return super()._get_conn(timeout)

    def _put_conn(self, conn: Any) -> None:
        with no_fork():
            super()._put_conn(conn)

    def urlopen(self, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        target, mark, query = url.partition("?")
        if mark:
            kwargs["headers"] = {**(kwargs.get("headers") or {}), _QUERY: query}
        return super().urlopen(method, target, *args, **kwargs)


class _QuietSecurePool(_QuietPool, HTTPSConnectionPool):
    """The same over TLS."""

    ConnectionCls = _SecureConnection


class _Guarded(HTTPConnection):
    """Dials only what its guard lets through."""

    guard: Guard

    def _new_conn(self) -> socket.socket:
        name: str = self._dns_host
        failure: Exception | None = None
        # Dialling the addresses one by one keeps the name for TLS and the Host header, and leaves
        # no second resolution between the check and the connection.
        for address in self.guard.addresses(name, self.port):
            self._dns_host = address
            try:
                return super()._new_conn()
            except (ConnectTimeoutError, NewConnectionError) as error:
                failure = error
            finally:
                self._dns_host = name
        raise failure or NewConnectionError(self, "the host has no address")


def guard_connections(manager: urllib3.PoolManager, guard: Guard) -> None:
    """Have the connections of ``manager`` dial only what ``guard`` lets through."""
    # Classes, because a pool makes its connections itself and takes no arguments for them.
    pools: dict[str, Any] = manager.pool_classes_by_scheme
    guarded = {}
    for scheme, pool in pools.items():
        connection = type("_GuardedConnection", (_Guarded, pool.ConnectionCls), {"guard": guard})
        guarded[scheme] = type("_GuardedPool", (pool,), {"ConnectionCls": connection})
    manager.pool_classes_by_scheme = guarded


def basic_auth(login: str) -> str:
    """The header's value; in UTF-8 (RFC 7617 §2.1), since a password may hold any character."""
    return "Basic " + base64.b64encode(login.encode("utf-8", "surrogateescape")).decode()


class Pools:
    """The pool manager for a URL: direct, or through the proxy that the environment names.

    A proxy is not held against the guard, since it is the operator's own and mostly private; the
    target's name is checked by `Guard.addresses` before the proxy is asked.
    """

    def __init__(self, guard: Guard | None, timeout: urllib3.Timeout, connections: int) -> None:
        self._guard = guard
        self._kwargs: dict[str, Any] = {"timeout": timeout, "maxsize": connections}
        self._direct = self._prepared(urllib3.PoolManager(**self._kwargs), guard)
        self._proxied: dict[str, urllib3.PoolManager] = {}

    def pool_for(self, url: str) -> urllib3.PoolManager:
        parts = urlsplit(url)
        host = parts.hostname or ""
        proxies = getproxies()
        proxy = proxies.get(parts.scheme) or proxies.get("all")
        if not proxy or proxy_bypass(host):
            return self._direct
        if self._guard is not None:
            self._guard.addresses(host, parts.port or 0)
        if proxy not in self._proxied:
            self._proxied[proxy] = self._prepared(self._proxy(proxy), None)
        return self._proxied[proxy]

    def _proxy(self, url: str) -> urllib3.PoolManager:
        # A secret made with echo ends in a newline.
        url = url.strip()
        url = url if "://" in url else f"http://{url}"
        if not has_host(url):
            raise WeightSourceInvalid(
                "the proxy of the environment is not a usable URL: check http_proxy, https_proxy"
                " and all_proxy"
            )
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https"):
            raise WeightSourceInvalid(
                f"the proxy of the environment is of kind {parts.scheme}, which is not supported:"
                " set http_proxy and https_proxy to an http:// proxy"
            )
        login = None
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        bare = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        headers = {"proxy-authorization": basic_auth(login)} if login else None
        return urllib3.ProxyManager(bare, proxy_headers=headers, **self._kwargs)

    @staticmethod
    def _prepared(manager: urllib3.PoolManager, guard: Guard | None) -> urllib3.PoolManager:
        manager.pool_classes_by_scheme = {"http": _QuietPool, "https": _QuietSecurePool}
        if guard is not None:
            guard_connections(manager, guard)
        return manager
