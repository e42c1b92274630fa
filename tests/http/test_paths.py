"""The whole matrix of spellings: what is not exactly a public path never answers without a key."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import Mount

from thalamus_lite.testing import AsyncClient

if TYPE_CHECKING:
    from types import ModuleType

PUBLIC = ["/health", "/ready", "/status", "/metrics", "/openapi.json"]
CLOSED = {
    "/predict": "POST",
    "/capacity": "GET",
    "/schema": "GET",
    "/schema/echo": "GET",
    "/schema/echo/versions": "GET",
    "/cache/clear": "POST",
    "/models/echo/load": "POST",
    "/models/echo/unload": "POST",
}
ANSWER = {"inputs": [{"text": "served"}]}
# What each of them answers with 200.
BODIES = {path: ANSWER if path == "/predict" else {} for path in CLOSED}


def spellings(path: str) -> list[str]:
    """Other ways to write a path that some server, proxy or framework has taken for it."""
    name = path.lstrip("/")
    last = name[-1]
    found = [
        f"/{path}", f"//{path}", f"{path}/", f"{path}//", f"/.{path}", f"/x/..{path}", f"{path}/.",
        f"{path}/..", f"/health/..{path}", f"/health/../..{path}", f"/health/%2e%2e{path}",
        f"/health/..%2f{name}", f"/%2e%2e{path}", f"/..;{path}", f"/health;{path}", f"{path};x=1",
        f"{path}%00", f"{path}%20", f"{path} ", f"{path}%0a", f"{path}%0d%0aX: 1", f"{path}%23",
        f"{path}#", f"{path}%3f", f"/%2f{name}", f"%2f{name}", f"/%2F{name}", f"/\\{name}",
        f"\\{name}", f"/%5c{name}", f"{name}", f"/health?{path}", f"/health%3f{path}",
        f"/health/{name}", f"/health%2f{name}", f"/metrics/../{name}", path.upper(),
        path.title(), path.swapcase(), f"/{name[:-1]}%{ord(last):02x}",
        f"/{name[:-1]}%{ord(last):02X}", f"/%{ord(name[0]):02x}{name[1:]}",
        f"/%25{ord(name[0]):02x}{name[1:]}", f"/{name}\u200b", f"/{name[:-1]}\uff45",
        f"http://host/health/..{path}", f"http://user@host{path}", f"http://{path}",
        f"ftp://host{path}", f"/http://host{path}", f"//host{path}", f"*{path}",
        f"/{name}.json", f"/{name}.", f"/.{name}", f"/{name}~", f"/api{path}",
        "/".join(["", *["x"] * 5000, name]), path + "a" * 100_000,
    ]  # fmt: skip
    return [spelling for spelling in found if spelling != path]


def is_public(target: str) -> bool:
    """By the table: the path as sent, without its query."""
    return target.partition("?")[0] in PUBLIC


async def served(driver: ModuleType, app: Any, method: str, target: str, **scope: Any) -> Any:
    return await driver.call(
        app, method, target, [(b"content-type", b"application/json")], driver.body(ANSWER), **scope
    )


async def test_no_spelling_opens_a_closed_path(zoo: ModuleType, driver: ModuleType) -> None:
    async with AsyncClient(zoo.make_app()) as client:
        tried = 0
        for path in CLOSED:
            for target, method in itertools.product(
                [path, *spellings(path)], ["GET", "POST", "HEAD", "PUT", "get", "\x00"]
            ):
                answer = await served(driver, client.app, method, target)
                tried += 1
                if is_public(target):
                    # ``/health?/predict`` is ``/health``.
                    assert answer.status in (200, 405), (method, target)
                    assert b"served" not in answer.body.lower()
                else:
                    assert answer.status == 401, (method, target)
        assert tried > 2000


async def test_with_the_key_other_spellings_are_not_found(
    zoo: ModuleType, driver: ModuleType
) -> None:
    async with AsyncClient(zoo.make_app()) as client:
        for path, method in CLOSED.items():
            for target in spellings(path):
                answer = await driver.call(
                    client.app, method, target, [driver.KEY], driver.body(ANSWER)
                )
                if is_public(target):
                    continue
                # An id is matched as it was sent: ``ech%6f`` is nobody's.
                assert answer.status == 404, target
                assert answer.json()["code"] in ("not_found", "model_not_found"), target


async def test_only_the_exact_public_paths_are_public(zoo: ModuleType, driver: ModuleType) -> None:
    async with AsyncClient(zoo.make_app()) as client:
        for path in PUBLIC:
            assert (await driver.call(client.app, "GET", path, [])).status == 200
            for target in spellings(path):
                answer = await driver.call(client.app, "GET", target, [])
                assert answer.status == (200 if is_public(target) else 401), target


@pytest.mark.parametrize("host", ["http://host", "https://10.0.0.1:8000", "HTTP://[::1]"])
async def test_absolute_form_is_the_path_behind_its_host(
    host: str, zoo: ModuleType, driver: ModuleType
) -> None:
    async with AsyncClient(zoo.make_app()) as client:
        for path in PUBLIC:
            assert (await driver.call(client.app, "GET", host + path, [])).status == 200
            for target in spellings(path):
                if target.startswith("/"):
                    answer = await driver.call(client.app, "GET", host + target, [])
                    assert answer.status == (200 if is_public(target) else 401), target
        for path, method in CLOSED.items():
            assert (await served(driver, client.app, method, host + path)).status == 401
            answer = await driver.call(
                client.app, method, host + path, [driver.KEY], driver.body(BODIES[path])
            )
            assert answer.status == 200, path


async def test_host_header_chooses_nothing(zoo: ModuleType, driver: ModuleType) -> None:
    async with AsyncClient(zoo.make_app()) as client:
        for host in (b"x/health/?", b"x/health", b"/health", b"x/health#", b"\xff", b"", b"x\x00"):
            answer = await driver.call(
                client.app, "POST", "/predict", [(b"host", host)], driver.body(ANSWER)
            )
            assert answer.status == 401
        for name in (
            b"x-original-url",
            b"x-rewrite-url",
            b"x-forwarded-prefix",
            b"x-forwarded-path",
        ):
            answer = await driver.call(
                client.app, "POST", "/predict", [(name, b"/health")], driver.body(ANSWER)
            )
            assert answer.status == 401


ROOTS = ["", "/", "/api", "/api/", "/health", "/predict", "/api/v1", "api", "//", "/%61pi"]


async def test_no_root_path_opens_a_closed_path(zoo: ModuleType, driver: ModuleType) -> None:
    """Both ways that servers go: the path with its root in front, and without."""
    async with AsyncClient(zoo.make_app()) as client:
        for root, path in itertools.product(ROOTS, CLOSED):
            for full in (path, root + path, root.rstrip("/") + path, root + root + path):
                for raw in (full.encode(), path.encode(), None):
                    answer = await served(
                        driver, client.app, "POST", full, root_path=root, path=full, raw_path=raw
                    )
                    assert answer.status == 401, (root, full, raw)


@pytest.mark.parametrize("root", ["/api", "/api/", "/a/b"])
async def test_routes_are_below_the_root(root: str, zoo: ModuleType, driver: ModuleType) -> None:
    async with AsyncClient(zoo.make_app()) as client:
        below = root.rstrip("/") + "/health"
        for path in (below, "/health"):
            assert (await driver.call(client.app, "GET", path, [], root_path=root)).status == 200
        for path in (root, root.rstrip("/"), below + "/", below + "x", root.rstrip("/") + "health"):
            assert (await driver.call(client.app, "GET", path, [], root_path=root)).status == 401


_SEGMENTS = st.sampled_from(
    ["health", "predict", "ready", "schema", "..", ".", "", "%2e%2e", "%2f", "echo", "Health",
     "?", "#", ";", "%00", "models", "unload", "\\", "*", "http:", "x"]
)  # fmt: skip


@given(st.lists(_SEGMENTS, max_size=6).map("/".join), st.sampled_from(["GET", "POST", "HEAD"]))
def test_any_path_made_of_such_pieces_needs_a_key(target: str, method: str) -> None:
    from thalamus_lite.http.request import Request, RequestIds
    from thalamus_lite.http.router import Access, Route, Router

    async def nothing(_: Any) -> Any:
        return {}

    router = Router(
        [Route("GET", path, nothing, Access.PUBLIC) for path in PUBLIC]
        + [Route(how, path, nothing) for path, how in CLOSED.items()]
    )
    path, _, query = target.partition("?")
    scope = {"method": method, "path": path, "raw_path": path.encode(), "headers": []}
    found = router.find(Request({**scope, "query_string": query.encode()}, nothing, RequestIds()))
    origin_form = re.sub(r"^http://[A-Za-z.:]+(?=/)", "", path)
    assert (found.access == Access.PUBLIC) == (origin_form in PUBLIC)


@pytest.mark.parametrize("prefix", ["/api", "/health", "/predict", "/a/b"])
async def test_mount_opens_nothing(prefix: str, zoo: ModuleType, driver: ModuleType) -> None:
    app = zoo.make_app()
    parent = Starlette(routes=[Mount(prefix, app=app)], lifespan=app.lifespan)
    async with AsyncClient(parent):
        assert (await driver.call(parent, "GET", prefix + "/health", [])).status == 200
        for path, method in CLOSED.items():
            body = driver.body(BODIES[path])
            allowed = await driver.call(parent, method, prefix + path, [driver.KEY], body)
            assert allowed.status == 200, path
            for target in [prefix + path, *(prefix + other for other in spellings(path))]:
                answer = await served(driver, parent, method, target)
                opened = is_public(target.removeprefix(prefix))
                assert opened or answer.status in (401, 404), target
                assert b"SERVED" not in answer.body


@pytest.mark.parametrize("prefix", ["/acme%20inc", "/caf%C3%A9", "/%61cme", "/100%25"])
async def test_mount_below_a_prefix_that_is_encoded_opens_nothing(
    prefix: str, zoo: ModuleType, driver: ModuleType
) -> None:
    app = zoo.make_app()
    parent = Starlette(routes=[Mount("/{tenant}", app=app)], lifespan=app.lifespan)
    parent.router.redirect_slashes = False
    async with AsyncClient(parent):
        assert (await driver.call(parent, "GET", prefix + "/health", [])).status == 200
        for path, method in CLOSED.items():
            body = driver.body(BODIES[path])
            allowed = await driver.call(parent, method, prefix + path, [driver.KEY], body)
            assert allowed.status == 200, path
            for target in [prefix + path, *(prefix + other for other in spellings(path))]:
                answer = await served(driver, parent, method, target)
                opened = is_public(target.removeprefix(prefix))
                assert opened or answer.status in (401, 404), target
                assert b"SERVED" not in answer.body


@given(st.lists(_SEGMENTS, min_size=1, max_size=6).map("/".join))
def test_what_is_cut_off_is_the_root_and_nothing_else(target: str) -> None:
    """Whatever stands below an encoded root is seen as it would be without one."""
    from thalamus_lite.http.request import Request, RequestIds

    async def nothing() -> Any:
        return {}

    def seen(raw: str, root: str) -> str:
        scope = {
            "method": "GET", "path": unquote(raw), "raw_path": raw.encode(), "root_path": root,
            "headers": [],
        }  # fmt: skip
        return Request(scope, nothing, RequestIds()).path

    path = "/" + target.partition("?")[0]
    assert seen("/a%20b" + path, "/a b") == path
