"""Any request at all: never an unhandled exception, never an unexpected 5xx.

100,000 requests by default; ``THALAMUS_SOAK=1`` makes it a million.
"""

from __future__ import annotations

import json
import os
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thalamus_lite.testing import TEST_API_KEY, Client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

_TIMES = 10 if os.environ.get("THALAMUS_SOAK") == "1" else 1
SEEDS = 4
REQUESTS = 100_000 * _TIMES // SEEDS

KNOWN_STATUSES = {200, 204, 400, 401, 404, 405, 406, 413, 415, 422, 429}
# The models at fault say 500 model_error on purpose; nothing else may.
EXPECTED_5XX = {(500, "model_error")}

# What the zoo's models say when they raise.
SECRET = b"the-exception-says-4711"
METHODS = ["GET", "POST", "POST", "POST", "HEAD", "OPTIONS", "PUT", "get", "", "\x00", "A" * 100]
PATHS = [
    "/predict", "/predict", "/predict", "/health", "/ready", "/status", "/metrics", "/capacity",
    "/schema", "/schema/echo", "/schema/echo/versions", "/openapi.json", "/cache/clear",
    "/models/echo/load", "/models/inline/unload", "/models/inline/load", "/", "", "//", "/x",
    "/schema/", "/schema/%00", "/predict/", "/models//load", "/\u00e9", "/%ff%fe", "/a" * 50,
]  # fmt: skip
QUERIES = [
    "", "", "", "version=1.9.0", "version=%ff", "version=" + "9" * 5000, "&" * 100, "a=1&" * 40,
    "=", "version=1&version=2", "\xff", "version=%00", "version=1!1", "version=latest", "%",
    "version=%2",
]  # fmt: skip
HEADERS = [
    (b"content-type", [b"application/json", b"text/plain", b"", b"\xff", b"application/x+json"]),
    (b"content-encoding", [b"gzip", b"identity", b"", b"\x80"]),
    (b"content-length", [b"0", b"5", b"-1", b"9" * 30, b"x", b"", b"1_0", b"\xb2", b"00"]),
    (b"accept", [b"text/event-stream", b"*/*", b"application/openmetrics-text", b"\xff", b",;=,",
                 b"application/openmetrics-text; version=\xe9;escaping=\xe9", b"a" * 5000]),
    (b"x-request-id", [b"a", b"", b"a\x00b", b"\xff", b"x" * 500, b"a b", b'"\\']),
    (b"traceparent", [b"00-ab-cd-01", b"\xff", b"x" * 500, b""]),
    (b"x-timeout-ms", [b"1000", b"0", b"-1", b"nan", b"inf", b"1e400", b"\xff", b"", b"86400000"]),
    (b"authorization", [b"Bearer " + TEST_API_KEY.encode(), b"Bearer", b"Basic x", b"\xff", b""]),
    (b"x-api-key", [TEST_API_KEY.encode(), b"wrong", b"", b"\xff" * 100, bytes(range(1, 256))]),
    (b"host", [b"", b"x/health/?", b"\xff", b"[::1"]),
    (b"transfer-encoding", [b"chunked", b"identity", b"x"]),
    (b"", [b"", b"x"]),
    (b"\xff\x00", [b"\x00"]),
]  # fmt: skip
SCALARS = [
    None, True, 0, -1, 1.5, 2**64, 10**30, "", "x", "echo", "words", "faulty", "latest", "1.9.0",
    "raises", "nan", "none", "\x00", "\U0001f600", "v1.10.0", "a b c", "async.words",
]  # fmt: skip
FIELDS = ["model", "version", "inputs", "text", "", "x"]
RAW = [
    b"", b"{", b"[]", b"null", b"NaN", b"\xff", b"\xef\xbb\xbf{}", b'"\\ud800"', b"[" * 1500,
    b"9" * 400, b'{"inputs":[', b'{"a":1,"a":2}', b"[" * 900 + b"]" * 900, b"\x00", b"1e999",
    b"1" + b"0" * 5000,
]  # fmt: skip


def value(random: Random, depth: int = 0) -> Any:
    kind = random.random()
    if depth > 3 or kind < 0.5:
        return random.choice(SCALARS)
    if kind < 0.7:
        return [value(random, depth + 1) for _ in range(random.randrange(4))]
    return {random.choice(FIELDS): value(random, depth + 1) for _ in range(random.randrange(4))}


def record(random: Random) -> Any:
    if random.random() < 0.95:
        return {
            "text": random.choice(["x", "raises", "nan", "exits", "a boom", "short", "", "y" * 99])
        }
    return value(random)


def content(random: Random) -> bytes:
    kind = random.random()
    if kind < 0.15:
        return random.choice(RAW)
    if kind < 0.3:
        return json.dumps(value(random)).encode()
    body: dict[str, Any] = {
        "inputs": [record(random) for _ in range(random.choice([0, 1, 1, 1, 2, 3]))]
    }
    if random.random() < 0.6:
        body["model"] = random.choice(["echo", "faulty", "inline", "words", "async.words", "ghost"])
    if random.random() < 0.2:
        body["version"] = random.choice(["1.9.0", "latest", "7", "9" * 5000, "", None])
    if random.random() < 0.1:
        body[random.choice(FIELDS)] = value(random)
    raw = json.dumps(body).encode()
    if random.random() < 0.1 and raw:
        at = random.randrange(len(raw))
        raw = raw[:at] + bytes([random.randrange(256)]) + raw[at + random.randrange(2) :]
    return raw


def messages(random: Random) -> list[dict[str, Any]]:
    raw = content(random)
    kind = random.random()
    if kind < 0.7:
        return [{"type": "http.request", "body": raw, "more_body": False}]
    if kind < 0.8:
        # The client leaves before, or in the middle.
        cut = random.randrange(len(raw) + 1)
        found = [{"type": "http.request", "body": raw[:cut], "more_body": True}]
        return found if random.random() < 0.5 else []
    step = random.randrange(1, 20)
    parts = [raw[at : at + step] for at in range(0, len(raw), step)] or [b""]
    return [
        {"type": "http.request", "body": piece, "more_body": at + 1 < len(parts)}
        for at, piece in enumerate(parts)
    ]


def request(random: Random) -> dict[str, Any]:
    """A request, sane in most of its parts, so that each layer is reached."""
    path = "/predict" if random.random() < 0.5 else random.choice(PATHS)
    headers = []
    if random.random() < 0.85:
        headers.append((b"x-api-key", TEST_API_KEY.encode()))
    for _ in range(random.choice([0, 0, 0, 0, 0, 1, 1, 4])):
        name, values = random.choice(HEADERS)
        headers.append((name, random.choice(values)))
    encoded = path.encode()
    raw_path = random.choice([encoded, encoded, encoded, encoded, None, b"%2e" + encoded])
    scope: dict[str, Any] = {
        "http_version": random.choice(["1.0", "1.1", "2", "3"]),
        "root_path": random.choice(["", "", "", "/", "/api", "/predict", "x", "/predic"]),
        "query_string": random.choice(QUERIES).encode("latin-1"),
        "path": path,
        "client": random.choice([None, ("1.2.3.4", 5)]),
    }
    scope["raw_path"] = raw_path
    method = "POST" if path == "/predict" and random.random() < 0.8 else random.choice(METHODS)
    return {"method": method, "headers": headers, "messages": messages(random), **scope}


def judge(answer: Any, asked: dict[str, Any]) -> None:
    status = answer.status
    if status == 499:
        return
    body = answer.json() if _is_json(answer) else None
    if status >= 500:
        code = body["code"] if body is not None else None
        assert (status, code) in EXPECTED_5XX or asked["path"] == "/ready", (answer, asked)
    else:
        assert status in KNOWN_STATUSES, (answer, asked)
    if status >= 400 and asked["method"] != "HEAD" and "/ready" not in asked["path"]:
        assert body is not None, (answer, asked)
        assert body.keys() - {"details"} == {"error", "code", "request_id"}, (answer, asked)
        assert body["request_id"] == answer.header("x-request-id")
    assert answer.header("x-request-id"), (answer, asked)
    assert SECRET not in answer.body, "an exception's own text"


def _is_json(answer: Any) -> bool:
    return answer.header("content-type") == "application/json" and bool(answer.body)


@pytest.fixture(scope="module")
def client(zoo: ModuleType) -> Iterator[Client]:
    with Client(zoo.make_app()) as client:
        yield client


async def run_all(app: Any, driver: ModuleType, random: Random, count: int) -> dict[int, int]:
    statuses: dict[int, int] = {}
    for _ in range(count):
        asked = request(random)
        try:
            answer = await driver.call(app, target=b"/", **asked)
        except Exception as error:
            raise AssertionError(f"unhandled {error!r} for {asked}") from error
        judge(answer, asked)
        statuses[answer.status] = statuses.get(answer.status, 0) + 1
    return statuses


@pytest.mark.parametrize("seed", range(SEEDS))
def test_any_request_has_an_answer(
    seed: int, client: Client, zoo: ModuleType, driver: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL", "thalamus_lite")
    statuses = client._do(run_all(client._client.app, driver, Random(seed), REQUESTS))
    # The fuzzer reaches every layer: what it asks is not all turned away at the door.
    assert statuses.keys() >= KNOWN_STATUSES - {429} | {500, 499}, statuses
    assert statuses[200] > REQUESTS / 20
    capacity = client.get("/capacity").json()
    assert capacity["inflight_requests"] == 0


_BYTES = st.binary(max_size=30)
_SCOPE = st.fixed_dictionaries(
    {
        "method": st.sampled_from(["GET", "POST", "HEAD", "OPTIONS"]) | st.text(max_size=5),
        "path": st.sampled_from(PATHS) | st.text(max_size=20),
        "raw_path": st.none() | _BYTES,
        "query_string": _BYTES,
        "root_path": st.sampled_from(["", "/", "/api"]) | st.text(max_size=5),
        "headers": st.lists(
            st.tuples(
                st.sampled_from([name for name, _ in HEADERS]) | _BYTES.map(bytes.lower), _BYTES
            ),
            max_size=5,
        ),
        "keyed": st.booleans(),
        "parts": st.lists(_BYTES, max_size=4),
        "ends": st.booleans(),
    }
)


@settings(max_examples=1000 * _TIMES, suppress_health_check=[HealthCheck.function_scoped_fixture],
          deadline=None)  # fmt: skip
@given(_SCOPE)
def test_any_scope_has_an_answer(client: Client, driver: ModuleType, asked: dict[str, Any]) -> None:
    parts = [
        {"type": "http.request", "body": part, "more_body": True} for part in asked.pop("parts")
    ]
    if asked.pop("ends"):
        parts.append({"type": "http.request", "body": b"", "more_body": False})
    if asked.pop("keyed"):
        asked["headers"] = [*asked["headers"], driver.KEY]
    answer = client._do(driver.call(client._client.app, target=b"/", messages=parts, **asked))
    judge(answer, asked)
