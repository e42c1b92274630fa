"""/health /ready /status /capacity /metrics."""

from __future__ import annotations

import asyncio
import os
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from lifecycle_kit import BEYOND_EXCEPTION

from thalamus_lite import (
    CapacityResponse,
    HealthResponse,
    ModelCapacity,
    ReadyResponse,
    StatusResponse,
    Thalamus,
)
from thalamus_lite.testing import AsyncClient, Client

if TYPE_CHECKING:
    from types import ModuleType

STATUS_FIELDS = {
    "id", "version", "ready", "is_default", "is_default_version", "critical", "state", "error",
}  # fmt: skip


def test_health_lists_every_version(client: Client) -> None:
    found = client.get("/health").json()
    assert HealthResponse.model_validate(found).status == "ok"
    models = {(one["id"], one["version"]): one for one in found["models"]}
    assert {("echo", "1.9.0"), ("echo", "1.10.0"), ("inline", "1.0.0")} <= models.keys()
    assert all(one.keys() == STATUS_FIELDS for one in models.values())
    echo = models["echo", "1.10.0"]
    assert (echo["ready"], echo["is_default"], echo["is_default_version"]) == (True, True, True)
    assert (echo["state"], echo["error"], echo["critical"]) == ("ready", None, True)
    assert models["echo", "1.9.0"]["is_default_version"] is False
    assert models["inline", "1.0.0"]["is_default"] is False


def test_ready_is_200_with_the_same_list(client: Client) -> None:
    answer = client.get("/ready")
    assert answer.status == 200
    assert ReadyResponse.model_validate(answer.json()).ready is True
    assert answer.json()["models"] == client.get("/health").json()["models"]


def test_status_names_its_process(client: Client) -> None:
    found = client.get("/status").json()
    StatusResponse.model_validate(found)
    assert found["pid"] == os.getpid()
    assert found["uptime_seconds"] >= 0
    assert found["cache"].keys() == {
        "size_bytes", "file_count", "max_size_bytes", "hit_rate", "downloads",
    }  # fmt: skip
    assert found["gpu"].keys() >= {"available", "device_count", "devices"}


async def test_ready_is_503_while_a_critical_model_is_not(zoo: ModuleType) -> None:
    async with AsyncClient(zoo.make_app()) as client:
        await client.post("/models/echo/unload", json={"version": "1.9.0"})
        answer = await client.get("/ready")
        assert answer.status == 503
        assert answer.json()["ready"] is False
        assert answer.headers["retry-after"] == "1"
        states = {(m["id"], m["version"]): m["state"] for m in answer.json()["models"]}
        assert states["echo", "1.9.0"] == "unloaded"
        await client.post("/models/echo/load")
        assert (await client.get("/ready")).status == 200


async def test_ready_does_not_wait_for_a_model_that_is_not_critical(zoo: ModuleType) -> None:
    async with AsyncClient(zoo.make_app()) as client:
        await client.post("/models/inline/unload")
        assert (await client.get("/ready")).status == 200


@pytest.mark.parametrize("ready", [False, None, "raises"])
async def test_model_that_says_it_is_not_ready_is_believed(ready: Any) -> None:
    app = Thalamus()

    @app.model(model_id="moody")
    class Moody:
        @property
        def is_ready(self) -> bool:
            if ready == "raises":
                raise RuntimeError("how should I know")
            return ready  # type: ignore[no-any-return]

        def predict(self, inputs: list[int]) -> list[int]:
            return inputs

    async with AsyncClient(app) as client:
        assert (await client.get("/ready")).status == 503
        assert (await client.get("/health")).status == 200
        capacity = (await client.get("/capacity")).json()["models"]["moody@1.0.0"]
        assert (capacity["accepting"], capacity["reason"]) == (False, "model_not_ready")


@pytest.mark.parametrize("place", ["is_ready", "capacity", "look-up"])
@pytest.mark.parametrize(
    "error", [*BEYOND_EXCEPTION, KeyboardInterrupt()], ids=lambda error: type(error).__name__
)
async def test_probes_bear_whatever_a_models_word_raises(error: BaseException, place: str) -> None:
    app = Thalamus()

    class Model:
        def predict(self, inputs: list[int]) -> list[int]:
            return inputs

    class Unready(Model):
        @property
        def is_ready(self) -> bool:
            raise error

    class Unsure(Model):
        def capacity(self) -> ModelCapacity:
            raise error

    class Unseen(Unsure):
        def __getattribute__(self, name: str) -> Any:
            if name == "capacity":
                raise error
            return super().__getattribute__(name)

    classes = {"is_ready": Unready, "capacity": Unsure, "look-up": Unseen}
    app.model(model_id="m")(classes[place])
    async with AsyncClient(app) as client:
        assert (await client.get("/health")).status == 200
        assert (await client.get("/status")).status == 200
        assert (await client.get("/ready")).status == (503 if place == "is_ready" else 200)
        found = (await client.get("/capacity")).json()
        assert found["accepting"] is False
        reason = "model_not_ready" if place == "is_ready" else "capacity_hook_error"
        assert found["models"]["m@1.0.0"]["reason"] == reason


def test_capacity_gives_the_declared_numbers(client: Client) -> None:
    found = client.get("/capacity").json()
    CapacityResponse.model_validate(found)
    assert found.keys() == {
        "accepting", "remaining_requests", "models", "inflight_requests", "uptime_seconds",
    }  # fmt: skip
    assert (found["accepting"], found["remaining_requests"]) == (True, 1)
    assert found["models"]["slow@1.0.0"] == {
        "accepting": True,
        "remaining_requests": 4,
        "ideal_batch_size": 2,
        "max_batch_size": 2,
        "reason": None,
    }
    assert found["models"]["inline@1.0.0"]["max_batch_size"] == 1
    assert found["models"]["echo@1.10.0"]["ideal_batch_size"] == 8


async def test_capacity_follows_the_requests_under_way(zoo: ModuleType) -> None:
    app = zoo.make_app()
    async with AsyncClient(app) as client:
        body = {"model": "slow", "inputs": [{"text": "wait"}]}
        lines = [client.begin("POST", "/predict", json=body)]
        try:
            assert await asyncio.to_thread(app.blocker.entered.wait, 10)
            found = (await client.get("/capacity")).json()
            assert found["inflight_requests"] == 1
            assert found["models"]["slow@1.0.0"]["remaining_requests"] == 3
            assert found["accepting"] is True
        finally:
            app.blocker.open.set()
        assert (await lines[0].answer()).status == 200


async def test_model_without_room_is_at_capacity_and_holds_the_top_level(zoo: ModuleType) -> None:
    app, blocker = Thalamus(), zoo.Blocker()

    @app.model(model_id="narrow", default=True, max_concurrent_requests=2)
    class Narrow:
        def predict(self, inputs: list[int]) -> list[int]:
            blocker.wait()
            return inputs

    @app.model(model_id="wide", critical=False, max_concurrent_requests=5)
    class Wide:
        def predict(self, inputs: list[int]) -> list[int]:
            return inputs

    async with AsyncClient(app) as client:

        async def capacity() -> dict[str, Any]:
            found: dict[str, Any] = (await client.get("/capacity")).json()
            return found

        assert ((await capacity())["accepting"], (await capacity())["remaining_requests"]) == (
            True,
            2,
        )
        lines = []
        try:
            for left in (1, 0):
                lines.append(client.begin("POST", "/predict", json={"inputs": [1]}))
                await asyncio.sleep(0)
                found = (await capacity())["models"]["narrow@1.0.0"]
                assert found["remaining_requests"] == left
                assert found["accepting"] is (left > 0)
                assert found["reason"] == (None if left else "at_capacity")
            whole = await capacity()
            assert (whole["accepting"], whole["remaining_requests"]) == (False, 0)
            assert whole["inflight_requests"] == 2
            assert whole["models"]["wide@1.0.0"]["remaining_requests"] == 5
        finally:
            blocker.open.set()
        for line in lines:
            assert (await line.answer()).status == 200
        assert (await capacity())["accepting"] is True


class Extended(ModelCapacity):
    """As a user's own class may be: with a field that is no JSON."""

    load: Decimal = Decimal("0.5")


class Hooked:
    """What each model's ``capacity()`` answers, and what ``/capacity`` is to make of it."""

    CASES: tuple[tuple[Any, bool, int, str | None], ...] = (
        (ModelCapacity(remaining_requests=5, ideal_batch_size=4, max_batch_size=8, reason="vram"),
         True, 5, "vram"),
        (Extended(remaining_requests=3, ideal_batch_size=4, max_batch_size=8), True, 3, None),
        (ModelCapacity.model_construct(remaining_requests="many", ideal_batch_size=4),
         False, 0, "capacity_hook_error"),
        ({"accepting": False, "remaining_requests": 0, "ideal_batch_size": 1, "max_batch_size": 1},
         False, 0, None),
        (RuntimeError("no gauge"), False, 0, "capacity_hook_error"),
        (None, False, 0, "capacity_hook_error"),
        ("nonsense", False, 0, "capacity_hook_error"),
        ({"remaining_requests": "many"}, False, 0, "capacity_hook_error"),
    )  # fmt: skip


@pytest.mark.parametrize(("said", "accepting", "remaining", "reason"), Hooked.CASES)
async def test_capacity_hook_is_the_models_own_word(
    said: Any, accepting: bool, remaining: int, reason: str | None
) -> None:
    app = Thalamus()

    @app.model(model_id="m", max_batch_size=8)
    class Hook:
        def capacity(self) -> ModelCapacity:
            if isinstance(said, Exception):
                raise said
            return said  # type: ignore[no-any-return]

        def predict(self, inputs: list[int]) -> list[int]:
            return inputs

    async with AsyncClient(app) as client:
        whole = (await client.get("/capacity")).json()
        found = whole["models"]["m@1.0.0"]
        assert (found["accepting"], found["remaining_requests"]) == (accepting, remaining)
        assert found["reason"] == reason
        assert set(found) == set(ModelCapacity.model_fields)
        assert whole["accepting"] is accepting
        assert whole["remaining_requests"] == remaining


async def test_capacity_never_loads_a_model(zoo: ModuleType) -> None:
    async with AsyncClient(zoo.make_app(lazy_load=True)) as client:
        found = (await client.get("/capacity")).json()
        assert {one["reason"] for one in found["models"].values()} == {"model_not_loaded"}
        assert (found["accepting"], found["remaining_requests"]) == (False, 0)
        states = {m["state"] for m in (await client.get("/health")).json()["models"]}
        assert states == {"registered"}


async def test_probes_see_a_model_that_was_registered_after_the_start(zoo: ModuleType) -> None:
    app = zoo.make_app()
    async with AsyncClient(app) as client:

        @app.model(model_id="newcomer", critical=False)
        class Newcomer:
            def predict(self, inputs: list[int]) -> list[int]:
                return inputs

        for path in ("/health", "/ready", "/status", "/capacity", "/metrics", "/schema"):
            answer = await client.get(path)
            assert answer.status == 200, path
            assert "newcomer" in answer.text, path
        answer = await client.post("/predict", json={"model": "newcomer", "inputs": [1]})
        assert answer.json()["outputs"] == [1]


def test_metrics_are_prometheus_text(client: Client) -> None:
    answer = client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "# TYPE thalamus_requests_total counter" in answer.text


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/openmetrics-text", "application/openmetrics-text"),
        (
            "application/openmetrics-text; version=1.0.0,text/plain;q=0.5",
            "application/openmetrics-text",
        ),
        ("Application/OpenMetrics-Text", "application/openmetrics-text"),
        # As Prometheus asks.
        (
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
            "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
            "application/openmetrics-text",
        ),
        ("application/openmetrics-text;q=0", "text/plain"),
        ("application/openmetrics-text;q=0.3, text/plain", "text/plain"),
        ("application/openmetrics-texts", "text/plain"),
        ("text/plain;x=application/openmetrics-text", "text/plain"),
        (
            "application/openmetrics-text; version=9\u00e9; escaping=\u00e9",
            "application/openmetrics-text",
        ),
        ("text/plain; version=1.0.0; escaping=x", "text/plain"),
        ("*/*", "text/plain"),
        ("", "text/plain"),
        ("\u00ff;;;,,=", "text/plain"),
    ],
)
def test_metrics_honour_accept(accept: str, kind: str, client: Client) -> None:
    answer = client.get("/metrics", headers={"accept": accept})
    assert answer.status == 200
    assert answer.headers["content-type"].startswith(kind)
    assert answer.text.endswith("# EOF\n") is (kind != "text/plain")
    assert "\u00e9" not in answer.headers["content-type"]


async def test_metrics_honour_accept_in_several_headers(
    zoo: ModuleType, driver: ModuleType
) -> None:
    headers = [(b"accept", b"application/openmetrics-text"), (b"accept", b"text/plain;q=0.5")]
    async with AsyncClient(zoo.make_app()) as client:
        answer = await driver.call(client.app, "GET", "/metrics", headers)
    assert answer.header("content-type").startswith("application/openmetrics-text")


@pytest.mark.parametrize("path", ["/health", "/ready", "/status", "/metrics", "/openapi.json"])
def test_head_is_get_without_its_body(path: str, client: Client) -> None:
    got, head = client.get(path), client.request("HEAD", path)
    assert head.status == got.status
    assert head.body == b""
    assert head.headers["content-type"] == got.headers["content-type"]
    assert int(head.headers["content-length"]) > 0
