"""Which handler serves a path: exact ones first, templates after, nothing by accident."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalamus_lite.errors import MethodNotAllowed, RouteNotFound
from thalamus_lite.http.request import Request, RequestIds
from thalamus_lite.http.response import Response
from thalamus_lite.http.router import Access, Route, Router

if TYPE_CHECKING:
    from conftest import Make


def handler(name: str) -> Any:
    async def handle(request: Request) -> Response:
        return Response(name.encode())

    handle.__name__ = name
    return handle


ROUTER = Router(
    [
        Route("GET", "/health", handler("health"), Access.PUBLIC),
        Route("GET", "/schema", handler("schemas")),
        Route("GET", "/schema/{id}", handler("schema")),
        Route("GET", "/schema/{id}/versions", handler("versions")),
        Route("GET", "/schema/special", handler("special")),
        Route("POST", "/models/{id}/load", handler("load"), Access.ADMIN),
        Route("GET", "/both", handler("read")),
        Route("POST", "/both", handler("write")),
    ]
)


@pytest.mark.parametrize(
    ("method", "path", "name", "params"),
    [
        ("GET", "/health", "health", {}),
        ("HEAD", "/health", "health", {}),
        ("GET", "/schema", "schemas", {}),
        ("GET", "/schema/bert", "schema", {"id": "bert"}),
        ("GET", "/schema/a.b_c-1", "schema", {"id": "a.b_c-1"}),
        ("GET", "/schema/..", "schema", {"id": ".."}),
        ("GET", "/schema/special", "special", {}),
        ("GET", "/schema/bert/versions", "versions", {"id": "bert"}),
        ("POST", "/models/m/load", "load", {"id": "m"}),
        ("GET", "/both", "read", {}),
        ("POST", "/both", "write", {}),
    ],
)
def test_path_finds_its_handler(
    method: str, path: str, name: str, params: dict[str, str], make_request: Make
) -> None:
    request = make_request(method, path)
    assert ROUTER.find(request).handler(method).__name__ == name
    assert request.params == params


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "health",
        "//health",
        "/health/",
        "/Health",
        "/health ",
        "/health\n",
        "/health\x00",
        "/healthz",
        "/x/health",
        "/schema/",
        "/schema/a/b",
        "/schema/a b",
        "/schema/a%62",
        "/schema/\u00e9",
        "/schema/a\n",
        "/schema//versions",
        "/schema/x/versions/",
        "/models/m",
        "/models//load",
        "/{id}",
        "/schema/{id}",
    ],
)
def test_other_spellings_find_nothing_and_need_a_key(path: str, make_request: Make) -> None:
    resource = ROUTER.find(make_request("GET", path))
    assert resource.access == Access.KEY
    with pytest.raises(RouteNotFound):
        resource.handler("GET")


@pytest.mark.parametrize(
    ("path", "method", "allow"),
    [
        ("/health", "POST", "GET, HEAD, OPTIONS"),
        ("/health", "get", "GET, HEAD, OPTIONS"),
        ("/both", "DELETE", "GET, HEAD, OPTIONS, POST"),
        ("/models/m/load", "GET", "OPTIONS, POST"),
        ("/models/m/load", "HEAD", "OPTIONS, POST"),
        ("/schema/x", "PATCH", "GET, HEAD, OPTIONS"),
    ],
)
def test_other_methods_are_told_which_are_allowed(
    path: str, method: str, allow: str, make_request: Make
) -> None:
    resource = ROUTER.find(make_request(method, path))
    assert resource.allow == allow
    with pytest.raises(MethodNotAllowed) as caught:
        resource.handler(method)
    assert caught.value.allow == allow


def test_access_is_the_routes_own(make_request: Make) -> None:
    for path, access in {
        "/health": Access.PUBLIC,
        "/schema": Access.KEY,
        "/schema/x": Access.KEY,
        "/models/x/load": Access.ADMIN,
    }.items():
        assert ROUTER.find(make_request("GET", path)).access == access


@given(st.text(max_size=30))
def test_only_the_exact_public_path_is_public(path: str) -> None:
    async def receive() -> dict[str, Any]:
        raise AssertionError("a router reads no body")

    scope = {"method": "GET", "path": path, "headers": []}
    found = ROUTER.find(Request(scope, receive, RequestIds()))
    assert (found.access == Access.PUBLIC) == (path == "/health")
