"""Which handler serves a method and a path: an exact table first, templates after.

A template's ``{name}`` stands for one path segment of ``[A-Za-z0-9._-]``, which is what model ids
are made of: ``/schema/{id}`` matches ``/schema/bert`` and neither ``/schema/`` nor
``/schema/a/b``. Nothing redirects, and a trailing slash is another path.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from thalamus_lite.errors import MethodNotAllowed, RouteNotFound

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from thalamus_lite.http.request import Request
    from thalamus_lite.http.response import EventStream, Response

    Handler = Callable[[Request], Awaitable["Response | EventStream"]]

_PARAMETER = re.compile(r"\{([a-z_]+)\}")


class Access:
    """Who may call a route."""

    PUBLIC = "public"
    KEY = "key"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    path: str
    handler: Handler
    access: str = Access.KEY


class _Matched(Protocol):
    def __call__(self, path: str, /) -> re.Match[str] | None: ...


@dataclass(slots=True)
class Resource:
    """One path and what it answers to."""

    handlers: dict[str, Handler] = field(default_factory=dict)
    allow: str = "OPTIONS"
    access: str = Access.KEY

    def add(self, route: Route) -> None:
        self.handlers[route.method] = route.handler
        if route.method == "GET":
            self.handlers["HEAD"] = route.handler
        self.allow = ", ".join(sorted({*self.handlers, "OPTIONS"}))
        self.access = route.access

    def handler(self, method: str) -> Handler:
        """
        Raises:
            RouteNotFound: nothing is here.
            MethodNotAllowed: the path answers to other methods.
        """
        handler = self.handlers.get(method)
        if handler is None:
            raise MethodNotAllowed(self.allow) if self.handlers else RouteNotFound
        return handler


# An unknown path needs a key like any other: strangers learn nothing about which paths exist.
_NOWHERE = Resource()


class Router:
    """Built once from all routes."""

    def __init__(self, routes: list[Route]) -> None:
        self.routes = tuple(routes)
        self._exact: dict[str, Resource] = {}
        templates: dict[str, Resource] = {}
        for route in routes:
            table = templates if "{" in route.path else self._exact
            table.setdefault(route.path, Resource()).add(route)
        self._templates: list[tuple[_Matched, Resource]] = [
            (_compile(path), resource) for path, resource in templates.items()
        ]

    def find(self, request: Request) -> Resource:
        """The resource at the request's path; sets the request's ``params``, and its ``path`` where
        the target was in absolute form.
        """
        path = request.path
        resource = self._exact.get(path)
        if resource is not None:
            return resource
        if "://" in path:
            path = request.path = request.origin_form()
            resource = self._exact.get(path)
            if resource is not None:
                return resource
        for matches, candidate in self._templates:
            match = matches(path)
            if match is not None:
                request.params = match.groupdict()
                return candidate
        return _NOWHERE


def _compile(template: str) -> _Matched:
    """``/schema/{id}`` becomes a full match with one named group a parameter."""
    pattern = ""
    last = 0
    for parameter in _PARAMETER.finditer(template):
        pattern += re.escape(template[last : parameter.start()])
        pattern += f"(?P<{parameter[1]}>[A-Za-z0-9._-]+)"
        last = parameter.end()
    pattern += re.escape(template[last:])
    return re.compile(pattern).fullmatch
