"""Starting and stopping: by lifespan, by a parent's, by the first request; failing; again."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from thalamus_lite import Thalamus
from thalamus_lite.errors import ConfigurationError
from thalamus_lite.testing import TEST_API_KEY, AsyncClient

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from thalamus_lite.http.asgi import Message


pytestmark = pytest.mark.usefixtures("no_lane_left")


class Life:
    """What became of one model's instances."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.fails = 0

    def app(self, **options: Any) -> Thalamus:
        life, app = self, Thalamus(**options)

        @app.model(model_id="m")
        class Model:
            def load(self, weights: dict[str, Path], device: str) -> None:
                life.events.append("load")
                if life.fails:
                    life.fails -= 1
                    raise OSError("no such weights\nsecond line")

            def predict(self, inputs: list[int]) -> list[int]:
                return inputs

            def unload(self) -> None:
                life.events.append("unload")

        return app


async def drive(app: Any, *received: str) -> list[Message]:
    """A lifespan with these messages; what the app sent. Raises what the app raised."""
    left = [{"type": f"lifespan.{name}"} for name in received]
    sent: list[Message] = []

    async def receive() -> Message:
        return left.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await app({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)
    return sent


async def test_lifespan_loads_and_unloads() -> None:
    life = Life()
    sent = await drive(life.app(), "startup", "shutdown")
    assert [message["type"] for message in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert life.events == ["load", "unload"]


async def test_same_app_can_be_started_again() -> None:
    life = Life()
    app = life.app()
    for _ in range(3):
        async with AsyncClient(app) as client:
            assert (await client.post("/predict", json={"inputs": [1]})).status == 200
    assert life.events == ["load", "unload"] * 3


async def test_failed_start_is_told_and_raised_and_can_be_repeated() -> None:
    life = Life()
    life.fails = 1
    app = life.app()
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    before = threading.active_count()
    with pytest.raises(OSError, match="no such weights"):
        await app({"type": "lifespan"}, receive, send)
    assert sent == [{"type": "lifespan.startup.failed", "message": "OSError: no such weights"}]
    async with AsyncClient(app) as client:
        assert (await client.get("/ready")).status == 200
    assert threading.active_count() <= before + 1


async def test_setting_that_cannot_be_read_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THALAMUS_MAX_BODY_MB", "lots")
    with pytest.raises(ConfigurationError, match="THALAMUS_MAX_BODY_MB"):
        await drive(Life().app(), "startup", "shutdown")


async def test_environment_is_read_at_each_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THALAMUS_API_KEY", "first")
    app = Life().app()
    for key in ("first", "second"):
        monkeypatch.setenv("THALAMUS_API_KEY", key)
        async with AsyncClient(app, api_key=None) as client:
            for other in ("first", "second"):
                answer = await client.get("/schema", headers={"x-api-key": other})
                assert answer.status == (200 if other == key else 401)


async def test_first_request_starts_an_app_without_a_lifespan() -> None:
    life = Life()
    app = life.app()
    client = AsyncClient(app, lifespan=False)
    async with client:
        answers = await asyncio.gather(*(client.get("/ready") for _ in range(5)))
        assert [answer.status for answer in answers] == [200] * 5
        assert life.events == ["load"]
        async with app.lifespan():
            # It runs already: the parent takes it over, and stops it.
            assert (await client.get("/ready")).status == 200
        assert life.events == ["load", "unload"]


async def test_start_at_a_request_that_fails_is_503_and_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("thalamus_lite.serving.backoff.FIRST_S", 0.0)
    life = Life()
    life.fails = 1
    app = life.app()
    async with AsyncClient(app, lifespan=False) as client:
        answer = await client.get("/health", headers={"x-request-id": "mine"})
        assert (answer.status, answer.json()["code"]) == (503, "startup_failed")
        assert int(answer.headers["retry-after"]) >= 1
        assert "weights" not in answer.text
        assert answer.headers["x-request-id"] == answer.json()["request_id"] == "mine"
        life.fails = 1
        head = await client.request("HEAD", "/health")
        assert (head.status, head.body) == (503, b"")
        assert (await client.get("/health")).status == 200
        assert life.events == ["load"] * 3
        async with app.lifespan():
            pass


async def test_client_that_leaves_does_not_take_the_start_with_it(zoo: ModuleType) -> None:
    life = Life()
    app = life.app()
    async with AsyncClient(app, lifespan=False) as client:
        first = asyncio.ensure_future(client.get("/health"))
        await asyncio.sleep(0)
        first.cancel()
        assert (await client.get("/ready")).status == 200
        assert life.events == ["load"]
        async with app.lifespan():
            pass


@pytest.mark.parametrize("parent", [Starlette, FastAPI])
async def test_parent_that_hands_its_lifespan_down_starts_and_stops_it(parent: Any) -> None:
    life = Life()
    app = life.app()
    outer = parent(lifespan=app.lifespan)
    outer.mount("/ml", app)
    async with AsyncClient(outer) as client:
        assert life.events == ["load"]
        answer = await client.post("/ml/predict", json={"inputs": [1, 2]})
        assert answer.json()["outputs"] == [1, 2]
        assert (await client.get("/ml/health")).status == 200
        assert (await client.get("/health")).status == 404
    assert life.events == ["load", "unload"]


@pytest.mark.parametrize("parent", [Starlette, FastAPI])
async def test_parent_that_does_not_has_it_start_at_the_first_request(parent: Any) -> None:
    life = Life()
    app = life.app()
    outer = parent()
    outer.mount("/ml", app)
    async with AsyncClient(outer) as client:
        assert life.events == []
        assert (await client.post("/ml/predict", json={"inputs": [1]})).status == 200
        assert life.events == ["load"]
        async with app.lifespan():
            pass
    assert life.events == ["load", "unload"]


async def test_mounts_may_be_nested(zoo: ModuleType) -> None:
    app = zoo.make_app()
    outer = Starlette(
        routes=[Mount("/a", app=Starlette(routes=[Mount("/b", app=app)]))], lifespan=app.lifespan
    )
    async with AsyncClient(outer) as client:
        assert (await client.get("/a/b/health")).status == 200
        assert (await client.get("/a/b/schema/echo?version=1.9.0")).json()["version"] == "1.9.0"
        answer = await client.post("/a/b/predict", json={"inputs": [{"text": "x"}]})
        assert answer.json()["outputs"][0]["text"] == "X"


async def test_middleware_wraps_the_app_like_any_other(zoo: ModuleType) -> None:
    from starlette.middleware.cors import CORSMiddleware

    app = CORSMiddleware(
        zoo.make_app(), allow_origins=["https://page"], allow_headers=["x-api-key"]
    )
    async with AsyncClient(app) as client:
        headers = {"origin": "https://page", "access-control-request-method": "POST"}
        answer = await client.request("OPTIONS", "/predict", headers=headers)
        assert answer.headers["access-control-allow-origin"] == "https://page"
        answer = await client.post(
            "/predict", json={"inputs": [{"text": "x"}]}, headers={"origin": "https://page"}
        )
        assert answer.status == 200
        assert answer.headers["access-control-allow-origin"] == "https://page"


async def test_websocket_is_closed() -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await Life().app()({"type": "websocket", "path": "/predict"}, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]


async def test_unknown_scope_is_refused() -> None:
    async def never(*_: Any) -> Any:
        raise AssertionError("nothing is received or sent")

    with pytest.raises(NotImplementedError, match="'telepathy'"):
        await Life().app()({"type": "telepathy"}, never, never)


async def test_noncritical_model_that_fails_leaves_the_others_serving() -> None:
    life = Life()
    app = life.app()

    @app.model(model_id="broken", critical=False)
    class Broken:
        def load(self, weights: dict[str, Path], device: str) -> None:
            raise OSError("gone")

        def predict(self, inputs: list[int]) -> list[int]:
            return inputs

    async with AsyncClient(app) as client:
        assert (await client.get("/ready")).status == 200
        answer = await client.post("/predict", json={"model": "m", "inputs": [1]})
        assert answer.status == 200


async def test_background_start_listens_at_once() -> None:
    app, door = Thalamus(load="background"), threading.Event()

    @app.model(model_id="m")
    class Slow:
        def load(self, weights: dict[str, Path], device: str) -> None:
            door.wait(30)

        def predict(self, inputs: list[int]) -> list[int]:
            return inputs

    async with AsyncClient(app) as client:
        try:
            assert (await client.get("/health")).status == 200
            assert (await client.get("/ready")).status == 503
            assert (await client.get("/metrics")).status == 200
        finally:
            door.set()
        async with asyncio.timeout(10):
            while True:
                if (await client.get("/ready")).status == 200:
                    break
                await asyncio.sleep(0.002)


def test_key_of_the_test_client_is_the_documented_one() -> None:
    assert TEST_API_KEY == "test-api-key-for-testing"
