"""Every route by every way to be refused: one envelope, a fixed sentence, the request's id."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from thalamus_lite.testing import AsyncClient, Client

if TYPE_CHECKING:
    from types import ModuleType

PUBLIC = ["/health", "/ready", "/status", "/metrics", "/openapi.json"]
ROUTES = {
    **dict.fromkeys(PUBLIC, "GET"),
    "/capacity": "GET",
    "/schema": "GET",
    "/schema/echo": "GET",
    "/schema/echo/versions": "GET",
    "/predict": "POST",
    "/cache/clear": "POST",
    "/models/echo/load": "POST",
    "/models/echo/unload": "POST",
}
CLOSED = [path for path in ROUTES if path not in PUBLIC]
WITH_BODY = ["/predict", "/models/echo/load", "/models/echo/unload"]
HI = {"inputs": [{"text": "hi"}]}


def check(answer: Any, status: int, code: str, sentence: str) -> None:
    assert answer.status == status, answer.text
    found = answer.json()
    assert (found["code"], found["error"]) == (code, sentence)
    assert found.keys() - {"details"} == {"error", "code", "request_id"}
    assert found["request_id"] == answer.headers["x-request-id"] == "asked-1"
    assert answer.headers["content-type"] == "application/json"
    assert ("retry-after" in answer.headers) is (status in (429, 503))


ID = {"x-request-id": "asked-1"}


@pytest.mark.parametrize("path", CLOSED)
def test_closed_route_without_a_key(path: str, client: Client) -> None:
    for key in ("", "wrong", "\u00e9", "test-api-key-for-testing "):
        answer = client.request(ROUTES[path], path, headers={**ID, "x-api-key": key})
        check(answer, 401, "invalid_api_key", "Invalid or missing API key")
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("key", [None, "", " ", "\t"])
async def test_server_without_a_key_is_closed_but_not_dead(
    key: str | None, zoo: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THALAMUS_API_KEY", key or "")
    async with AsyncClient(zoo.make_app(), api_key=None) as client:
        for path in CLOSED:
            for offered in (
                {},
                {"x-api-key": ""},
                {"x-api-key": "any"},
                {"authorization": "Bearer "},
            ):
                answer = await client.request(ROUTES[path], path, headers={**ID, **offered})
                sentence = "Service authentication not configured"
                check(answer, 503, "auth_not_configured", sentence)
        for path in PUBLIC:
            assert (await client.get(path)).status == 200
        assert (await client.request("OPTIONS", "/predict")).status == 204


@pytest.mark.parametrize("path", ROUTES)
def test_route_by_another_method(path: str, client: Client) -> None:
    allowed = {"GET", "HEAD", "OPTIONS"} if ROUTES[path] == "GET" else {"POST", "OPTIONS"}
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "get", "BREW"):
        if method in allowed:
            continue
        answer = client.request(method, path, headers=ID)
        check(answer, 405, "method_not_allowed", "This route does not allow that method")
        assert set(answer.headers["allow"].split(", ")) == allowed
        # Who has no key learns nothing of a closed route, its methods included.
        if path in CLOSED:
            bare = client.request(method, path, headers={**ID, "x-api-key": ""})
            check(bare, 401, "invalid_api_key", "Invalid or missing API key")


@pytest.mark.parametrize("path", ROUTES)
def test_route_asked_for_its_options(path: str, client: Client) -> None:
    for headers in ({"x-api-key": ""}, {"x-api-key": "wrong"}, {}):
        answer = client.request("OPTIONS", path, headers={**ID, **headers})
        assert (answer.status, answer.body) == (204, b"")
        assert ROUTES[path] in answer.headers["allow"].split(", ")
        assert answer.headers["x-request-id"] == "asked-1"
        assert "content-type" not in answer.headers


@pytest.mark.parametrize("path", [path for path in ROUTES if ROUTES[path] == "GET"])
def test_route_asked_for_its_head(path: str, client: Client) -> None:
    answer = client.request("HEAD", path, headers=ID)
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["content-length"]) > 0
    if path in CLOSED:
        bare = client.request("HEAD", path, headers={"x-api-key": ""})
        assert (bare.status, bare.body) == (401, b"")


@pytest.mark.parametrize("path", ["/", "/nowhere", "/predict/", "/v1/predict", "/health/x"])
def test_route_that_is_not_there(path: str, client: Client) -> None:
    for method in ("GET", "POST", "HEAD", "DELETE"):
        answer = client.request(method, path, headers=ID)
        assert answer.status == 404
        if method != "HEAD":
            check(answer, 404, "not_found", "There is no such route")


@pytest.mark.parametrize("path", WITH_BODY)
@pytest.mark.parametrize(
    ("headers", "content", "status", "code", "sentence"),
    [
        ({}, b"{", 400, "invalid_json", "The request body is not valid JSON"),
        ({}, b"[]", 422, "validation_error", "The request does not match the schema"),
        ({"content-type": "text/csv"}, b"{}", 415, "unsupported_media_type",
         "Send application/json without a content encoding"),
        ({"content-encoding": "gzip"}, b"{}", 415, "unsupported_media_type",
         "Send application/json without a content encoding"),
        ({"content-length": "999999999"}, b"{}", 413, "body_too_large",
         "The request body is larger than this server accepts"),
        ({"content-length": "two"}, b"{}", 400, "bad_request",
         "The request cannot be understood"),
    ],
)  # fmt: skip
def test_body_that_is_refused(
    path: str, headers: dict[str, str], content: bytes, status: int, code: str, sentence: str,
    client: Client,
) -> None:  # fmt: skip
    answer = client.post(path, content=content, headers={**ID, **headers})
    check(answer, status, code, sentence)
    assert (answer.headers.get("connection") == "close") is (status == 413)


@pytest.mark.parametrize("path", [path for path in ROUTES if path not in WITH_BODY])
def test_body_where_none_is_read_changes_nothing(path: str, client: Client) -> None:
    answer = client.request(
        ROUTES[path], path, content=b"\xff" * 1000, headers={"content-type": "image/png"}
    )
    assert answer.status == 200


@pytest.mark.parametrize("path", ROUTES)
def test_id_is_made_where_none_or_an_unsafe_one_was_sent(path: str, client: Client) -> None:
    seen = set()
    for given in (None, "", "x" * 129, "\u00e9", "a\tb"):
        headers = {} if given is None else {"x-request-id": given}
        body = json.dumps(HI).encode() if path == "/predict" else b""
        answer = client.request(ROUTES[path], path, content=body, headers=headers)
        made = answer.headers["x-request-id"]
        assert made != given
        assert made.isalnum()
        seen.add(made)
    assert len(seen) == 5
