"""What hangs: predict, load, unload, in a lane and on the loop. Siblings go on; it may return."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from lifecycle_kit import (
    PATIENCE_S,
    Door,
    In,
    Out,
    answers,
    body,
    engine_of,
    runtime_of,
    state_of,
    until,
)

from thalamus_lite import Thalamus
from thalamus_lite.testing import AsyncClient


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    # The tests look by themselves, when they know what hangs: a machine that stalls is no hang.
    monkeypatch.setenv("THALAMUS_WATCHDOG_S", "3600")
    monkeypatch.setenv("THALAMUS_DRAIN_S", "0.2")
    monkeypatch.setattr("thalamus_lite.engine.SHUTDOWN_PATIENCE_S", 0.5)


class Zoo:
    """A model that hangs where ``where`` says, and one that does not."""

    def __init__(self, where: str = "predict", **options: Any) -> None:
        self.app = Thalamus()
        self.door = door = Door()

        class Hanging:
            def load(self, weights: dict[str, Path], device: str) -> None:
                if where == "load":
                    door.wait()

            def predict(self, inputs: list[In]) -> list[Out]:
                if where == "predict" and inputs[0].text == "hang":
                    door.wait()
                return [Out(text=item.text) for item in inputs]

            def unload(self) -> None:
                if where == "unload":
                    door.wait()

        @self.app.model(model_id="good", default=True)
        class Good:
            def predict(self, inputs: list[In]) -> list[Out]:
                return [Out(text=item.text) for item in inputs]

        self.app.model(model_id="m", critical=where != "load", **options)(Hanging)


def look(app: Thalamus) -> str:
    """What the watchdog does; the state of the model m then."""
    service = engine_of(app).service
    service.batcher.check_lanes(0.0)
    for runtime in service.runtimes.values():
        runtime.check_hooks(0.0)
    return state_of(app, "m@1.0.0")


async def test_watchdog_looks_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THALAMUS_WATCHDOG_S", "0.05")
    for where in ("predict", "unload"):
        zoo = Zoo(where)
        async with AsyncClient(zoo.app) as client:
            path = "/predict" if where == "predict" else "/models/m/unload"
            client.begin("POST", path, json=body("hang", model="m") if "/p" in path else None)
            await until(lambda app=zoo.app: state_of(app, "m@1.0.0") == "quarantined")
            zoo.door.open()
            await until(lambda app=zoo.app: state_of(app, "m@1.0.0") in ("ready", "unloaded"))


async def test_hung_lane_ends_at_deadlines_then_in_quarantine_and_siblings_are_served() -> None:
    zoo = Zoo(max_batch_size=1)
    async with AsyncClient(zoo.app) as client:
        hung = client.begin(
            "POST", "/predict", json=body("hang", model="m"), headers={"X-Timeout-Ms": "30"}
        )
        await zoo.door.reached()
        queued = client.begin("POST", "/predict", json=body("waits", model="m"))
        await until(lambda: runtime_of(zoo.app, "m@1.0.0").inflight == 2)
        answer = await hung.answer()
        assert (answer.status, answer.json()["code"]) == (504, "deadline_exceeded")
        assert look(zoo.app) == "quarantined"
        turned_away = await queued.answer()
        assert (turned_away.status, turned_away.json()["code"]) == (503, "lane_hung")
        assert (await client.get("/ready")).status == 503
        refused = await client.post("/predict", json=body("x", model="m"))
        assert (refused.status, refused.json()["code"]) == (503, "lane_hung")
        assert "retry-after" in refused.headers
        assert answers(await client.post("/predict", json=body("x"))) == ["x"]
        unload = await client.post("/models/m/unload")
        assert (unload.status, unload.json()["code"]) == (503, "lane_hung")
        capacity = (await client.get("/capacity")).json()["models"]["m@1.0.0"]
        assert (capacity["accepting"], capacity["reason"]) == (False, "model_not_ready")
        assert runtime_of(zoo.app, "m@1.0.0").device == "cpu"

        zoo.door.open()
        await until(lambda: state_of(zoo.app, "m@1.0.0") == "ready")
        assert (await client.get("/ready")).status == 200
        assert answers(await client.post("/predict", json=body("y", model="m"))) == ["y"]
        assert (await client.post("/models/m/unload")).json()["unloaded"] is True


async def test_waiting_request_with_a_deadline_is_kept_for_a_lane_that_may_come_back() -> None:
    zoo = Zoo(max_batch_size=1)
    async with AsyncClient(zoo.app) as client:
        client.begin("POST", "/predict", json=body("hang", model="m"))
        await zoo.door.reached()
        queued = client.begin(
            "POST", "/predict", json=body("waits", model="m"), headers={"X-Timeout-Ms": "30000"}
        )
        await until(lambda: runtime_of(zoo.app, "m@1.0.0").inflight == 2)
        assert look(zoo.app) == "quarantined"
        zoo.door.open()
        assert answers(await queued.answer()) == ["waits"]


async def test_slow_answer_of_a_lane_given_up_for_hung_still_reaches_its_client() -> None:
    zoo = Zoo()
    async with AsyncClient(zoo.app) as client:
        line = client.begin("POST", "/predict", json=body("hang", model="m"))
        await zoo.door.reached()
        assert look(zoo.app) == "quarantined"
        zoo.door.open()
        assert answers(await line.answer()) == ["hang"]


async def test_client_that_leaves_a_hung_lane_is_no_longer_in_flight() -> None:
    zoo = Zoo()
    async with AsyncClient(zoo.app) as client:
        line = client.begin("POST", "/predict", json=body("hang", model="m"))
        await zoo.door.reached()
        assert look(zoo.app) == "quarantined"
        await line.hang_up()
        assert engine_of(zoo.app).service.inflight == 0
        zoo.door.open()


async def test_model_with_another_lane_stays_ready() -> None:
    zoo = Zoo(lanes=2, max_batch_size=1)
    async with AsyncClient(zoo.app) as client:
        line = client.begin("POST", "/predict", json=body("hang", model="m"))
        await zoo.door.reached()
        group = runtime_of(zoo.app, "m@1.0.0").group
        assert group is not None
        assert look(zoo.app) == "ready"
        assert len(group.hung) == 1
        for text in "abc":
            assert answers(await client.post("/predict", json=body(text, model="m"))) == [text]
        zoo.door.open()
        assert answers(await line.answer()) == ["hang"]
        await until(lambda: not group.hung)


async def test_unload_that_waits_for_a_hung_predict_is_answered_and_ends_later() -> None:
    zoo = Zoo()
    async with AsyncClient(zoo.app) as client:
        line = client.begin("POST", "/predict", json=body("hang", model="m"))
        await zoo.door.reached()
        unload = client.begin("POST", "/models/m/unload")
        await until(lambda: state_of(zoo.app, "m@1.0.0") == "draining")
        assert look(zoo.app) == "quarantined"
        answer = await unload.answer()
        assert (answer.status, answer.json()["code"]) == (503, "lane_hung")
        assert runtime_of(zoo.app, "m@1.0.0").device == "cpu"
        load = await client.post("/models/m/load")
        assert (load.status, load.json()["code"]) == (503, "lane_hung")
        zoo.door.open()
        assert answers(await line.answer()) == ["hang"]
        await until(lambda: state_of(zoo.app, "m@1.0.0") == "unloaded")


async def test_hung_unload_keeps_the_device_and_is_reported_until_it_returns() -> None:
    zoo = Zoo("unload")
    async with AsyncClient(zoo.app) as client:
        unload = client.begin("POST", "/models/m/unload")
        await zoo.door.reached()
        assert look(zoo.app) == "quarantined"
        answer = await unload.answer()
        assert (answer.status, answer.json()["code"]) == (503, "lane_hung")
        runtime = runtime_of(zoo.app, "m@1.0.0")
        assert runtime._loaded is not None
        assert len(runtime._loaded.reservations) == 1
        assert (await client.get("/ready")).status == 503
        refused = await client.post("/predict", json=body("x", model="m"))
        assert (refused.status, refused.json()["code"]) == (503, "lane_hung")
        assert answers(await client.post("/predict", json=body("x"))) == ["x"]
        zoo.door.open()
        await until(lambda: state_of(zoo.app, "m@1.0.0") == "unloaded")
        assert runtime._loaded is None
        assert answers(await client.post("/predict", json=body("x", model="m"))) == ["x"]


async def test_load_that_waits_for_an_unload_that_hangs_is_told_so() -> None:
    zoo = Zoo("unload")
    async with AsyncClient(zoo.app) as client:
        client.begin("POST", "/models/m/unload")
        await zoo.door.reached()
        load = client.begin("POST", "/models/m/load")
        # It waits by then.
        await asyncio.sleep(0.01)
        assert look(zoo.app) == "quarantined"
        async with asyncio.timeout(PATIENCE_S):
            answer = await load.answer()
        assert (answer.status, answer.json()["code"]) == (503, "lane_hung")
        zoo.door.open()
        await until(lambda: state_of(zoo.app, "m@1.0.0") == "unloaded")


async def test_hung_load_is_reported_does_not_block_others_and_is_waited_for() -> None:
    zoo = Zoo("load")
    zoo.app.load_mode = "lazy"
    async with AsyncClient(zoo.app) as client:
        line = client.begin("POST", "/predict", json=body("x", model="m"))
        await zoo.door.reached()
        assert look(zoo.app) == "quarantined"
        answer = await client.post("/models/m/unload")
        assert (answer.status, answer.json()["code"]) == (503, "lane_hung")
        # A slow load is no reason to turn anybody away.
        late = client.begin("POST", "/predict", json=body("y", model="m"))
        zoo.door.open()
        assert answers(await line.answer()) == ["x"]
        assert answers(await late.answer()) == ["y"]
        assert state_of(zoo.app, "m@1.0.0") == "ready"


async def test_hung_loads_do_not_keep_other_models_from_loading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("THALAMUS_LOAD_CONCURRENCY", "1")
    zoo = Zoo("load")
    zoo.app.load_mode = "lazy"
    async with AsyncClient(zoo.app) as client:
        line = client.begin("POST", "/predict", json=body("x", model="m"))
        await zoo.door.reached()
        assert look(zoo.app) == "quarantined"
        assert answers(await client.post("/predict", json=body("x"))) == ["x"]
        zoo.door.open()
        assert answers(await line.answer()) == ["x"]
        # The turn that was given up is not given back a second time.
        assert engine_of(zoo.app).service.context.load_slots._value == 1


@pytest.mark.parametrize("where", ["predict", "load", "unload"])
async def test_shutdown_is_bounded_whatever_hangs(where: str) -> None:
    zoo = Zoo(where)
    if where == "load":
        zoo.app.load_mode = "background"
    async with asyncio.timeout(10):
        async with AsyncClient(zoo.app) as client:
            if where == "predict":
                line = client.begin("POST", "/predict", json=body("hang", model="m"))
            if where in ("predict", "load"):
                await zoo.door.reached()
        if where == "predict":
            answer = await line.answer()
            assert (answer.status, answer.json()["code"]) == (503, "draining")
    # What it held is given back when it comes back after all.
    zoo.door.open()


async def test_hung_coroutine_is_cancelled_at_its_deadline() -> None:
    app = Thalamus()
    cancelled = asyncio.Event()

    @app.model(model_id="m")
    class Model:
        async def predict(self, inputs: list[In]) -> list[Out]:
            if inputs[0].text == "hang":
                try:
                    await asyncio.Event().wait()
                finally:
                    cancelled.set()
            return [Out(text=item.text) for item in inputs]

    async with AsyncClient(app) as client:
        answer = await client.post("/predict", json=body("hang"), headers={"X-Timeout-Ms": "100"})
        assert (answer.status, answer.json()["code"]) == (504, "deadline_exceeded")
        await cancelled.wait()
        assert answers(await client.post("/predict", json=body("x"))) == ["x"]
        assert state_of(app, "m@1.0.0") == "ready"


@pytest.mark.parametrize("hook", ["predict", "preprocess"])
async def test_hung_coroutine_without_a_deadline_is_quarantined(hook: str) -> None:
    app = Thalamus()
    door = Door()

    @app.model(model_id="m")
    class Model:
        def preprocess(self, inputs: list[In]) -> list[In]:
            if hook == "preprocess":
                door.wait()
            return inputs

        async def predict(self, inputs: list[In]) -> list[Out]:
            await asyncio.to_thread(door.wait)
            return [Out(text=item.text) for item in inputs]

    async with AsyncClient(app) as client:
        line = client.begin("POST", "/predict", json=body("x"))
        await door.reached()
        assert look(app) == "quarantined"
        door.open()
        assert answers(await line.answer()) == ["x"]
        assert state_of(app, "m@1.0.0") == "ready"


async def test_coroutine_that_will_not_be_cancelled_does_not_keep_the_shutdown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("thalamus_lite.batching.tasks.CLOSE_PATIENCE_S", 0.1)
    app = Thalamus()
    release = asyncio.Event()

    @app.model(model_id="m")
    class Model:
        async def predict(self, inputs: list[In]) -> list[Out]:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue
            return []

    async with asyncio.timeout(10):
        async with AsyncClient(app) as client:
            line = client.begin("POST", "/predict", json=body("x"))
            await until(lambda: engine_of(app).service.inflight)
        assert (await line.answer()).status == 503
    release.set()
    await asyncio.sleep(0)


@pytest.mark.parametrize("kind", ["lane", "loop"])
async def test_stream_that_hangs_is_quarantined_and_one_with_a_slow_reader_is_not(
    kind: str,
) -> None:
    app = Thalamus()
    door = Door()

    if kind == "lane":

        @app.model(model_id="m")
        class Model:
            def predict(self, inputs: list[In]) -> Iterator[Out]:
                if inputs[0].text == "hang":
                    door.wait()
                for number in range(200):
                    yield Out(text=str(number))

    else:

        @app.model(model_id="m")
        class AsyncModel:
            async def predict(self, inputs: list[In]) -> AsyncIterator[Out]:
                if inputs[0].text == "hang":
                    await asyncio.to_thread(door.wait)
                for number in range(200):
                    yield Out(text=str(number))

    from lifecycle_kit import Line

    async with AsyncClient(app) as client:
        slow = Line(app, body("x"), accept="text/event-stream")
        group = runtime_of(app, "m@1.0.0").group
        assert group is not None
        await until(lambda: group.live)
        (pending,) = group.live
        await slow.blocked(pending.channel)
        assert look(app) == "ready"
        await slow.end()
        assert slow.text.count("data:") == 201
        line = client.begin("POST", "/predict", json=body("hang"))
        await door.reached()
        assert look(app) == "quarantined"
        door.open()
        assert len(answers(await line.answer())) == 200


async def test_lane_hook_of_a_coroutine_model_that_hangs_ends_in_quarantine() -> None:
    app = Thalamus()
    door = Door()

    @app.model(model_id="m")
    class Model:
        def preprocess(self, inputs: list[In]) -> list[In]:
            if inputs[0].text == "hang":
                door.wait()
            return inputs

        async def predict(self, inputs: list[In]) -> list[Out]:
            return [Out(text=item.text) for item in inputs]

    async with AsyncClient(app) as client:
        for _ in range(3):
            answer = await client.post(
                "/predict", json=body("hang"), headers={"X-Timeout-Ms": "20"}
            )
            assert answer.json()["code"] == "deadline_exceeded"
        # The lane is not free while the hook is in it: the other two wait, and nothing piles up.
        assert door.entered == 1
        assert look(app) == "quarantined"
        assert (await client.get("/ready")).status == 503
        refused = await client.post("/predict", json=body("x"))
        assert refused.json()["code"] == "lane_hung"
        door.open()
        await until(lambda: state_of(app, "m@1.0.0") == "ready")
        assert answers(await client.post("/predict", json=body("x"))) == ["x"]


async def test_unload_of_a_coroutine_that_hangs_is_told_so() -> None:
    app = Thalamus()
    gate = asyncio.Event()

    @app.model(model_id="m", max_concurrent_requests=2)
    class Model:
        async def predict(self, inputs: list[In]) -> list[Out]:
            await gate.wait()
            return [Out(text=item.text) for item in inputs]

    async with AsyncClient(app) as client:
        hung = client.begin("POST", "/predict", json=body("x"))
        await until(lambda: runtime_of(app, "m@1.0.0").inflight == 1)
        await asyncio.sleep(0.01)
        unload = client.begin("POST", "/models/m/unload")
        await until(lambda: state_of(app, "m@1.0.0") == "draining")
        look(app)
        answer = await unload.answer()
        assert (answer.status, answer.json()["code"]) == (503, "lane_hung")
        gate.set()
        assert answers(await hung.answer()) == ["x"]
        await until(lambda: state_of(app, "m@1.0.0") == "unloaded")


async def test_coroutine_that_hangs_at_warm_up_does_not_keep_others_from_loading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("THALAMUS_LOAD_CONCURRENCY", "1")
    app = Thalamus(load="background")
    gate = asyncio.Event()

    @app.model(model_id="m", examples=[{"text": "x"}])
    class Model:
        async def predict(self, inputs: list[In]) -> list[Out]:
            await gate.wait()
            return [Out(text=item.text) for item in inputs]

    @app.model(model_id="good")
    class Good:
        def predict(self, inputs: list[In]) -> list[Out]:
            return [Out(text=item.text) for item in inputs]

    async with AsyncClient(app) as client:
        await until(lambda: look(app) == "quarantined")
        await until(lambda: state_of(app, "good@1.0.0") == "ready")
        assert answers(await client.post("/predict", json=body("x", model="good"))) == ["x"]
        gate.set()
        await until(lambda: state_of(app, "m@1.0.0") == "ready")
