"""Starting: three load modes, critical and other models, failures at every step of a load."""

import asyncio
import gc
import logging
import threading
import weakref
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
    lanes_alive,
    runtime_of,
    state_of,
    until,
)
from pydantic import BaseModel

from thalamus_lite import FileWeight, GPURequirementError, Thalamus, engine
from thalamus_lite.devices.allocator import DeviceAllocator
from thalamus_lite.errors import WeightNotFound
from thalamus_lite.serving import backoff
from thalamus_lite.testing import AsyncClient


class Echo:
    def predict(self, inputs: list[In]) -> list[Out]:
        return [Out(text=item.text) for item in inputs]


class Doored(Echo):
    """Its load waits at a door of its class."""

    door: Door

    def load(self, weights: dict[str, Path], device: str) -> None:
        self.door.wait()


def doored() -> type[Doored]:
    return type("Doored", (Doored,), {"door": Door()})


class Failing(Echo):
    """Its load fails until ``well`` is set."""

    well = False
    loads = 0

    def load(self, weights: dict[str, Path], device: str) -> None:
        type(self).loads += 1
        if not self.well:
            raise RuntimeError("not today")


def failing() -> type[Failing]:
    return type("Failing", (Failing,), {})


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No back-off worth waiting for."""
    monkeypatch.setattr(backoff, "FIRST_S", 0.01)
    monkeypatch.setattr(backoff, "LONGEST_S", 0.02)


class Messages:
    """A lifespan driven by hand."""

    def __init__(self, app: Any) -> None:
        self.to_app: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        self.from_app: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        self.task = asyncio.ensure_future(
            app({"type": "lifespan"}, self.to_app.get, self.from_app.put)
        )

    async def say(self, what: str) -> dict[str, str]:
        self.to_app.put_nowait({"type": f"lifespan.{what}"})
        return await self.from_app.get()


async def test_default_start_waits_for_all_models() -> None:
    app = Thalamus()
    model = app.model(model_id="m")(doored())
    lifespan = Messages(app)
    answer = asyncio.ensure_future(lifespan.say("startup"))
    await model.door.reached()
    assert not answer.done()
    model.door.open()
    assert (await answer)["type"] == "lifespan.startup.complete"
    assert state_of(app, "m@1.0.0") == "ready"
    assert (await lifespan.say("shutdown"))["type"] == "lifespan.shutdown.complete"


async def test_models_load_side_by_side_as_many_as_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("THALAMUS_LOAD_CONCURRENCY", "3")
    app = Thalamus(load="background")
    door = Door()
    for number in range(5):
        app.model(model_id=f"m{number}")(type("M", (Doored,), {"door": door}))
    async with AsyncClient(app) as client:
        for _ in range(3):
            await door.reached()
        assert door.entered == 3
        door.open()
        await until(lambda: all(state_of(app, f"m{n}@1.0.0") == "ready" for n in range(5)))
        assert (await client.get("/ready")).status == 200


async def test_load_runs_off_the_event_loop_in_the_models_own_lane() -> None:
    app = Thalamus()
    threads: list[str] = []

    @app.model(model_id="m", lanes=2)
    class Model:
        def __init__(self) -> None:
            threads.append(threading.current_thread().name)

        def load(self, weights: dict[str, Path], device: str) -> None:
            threads.append(threading.current_thread().name)

        def predict(self, inputs: list[In]) -> list[Out]:
            return []

        def unload(self) -> None:
            threads.append(threading.current_thread().name)

    async with AsyncClient(app):
        pass
    assert threads == ["m@1.0.0/0.0"] * 3


async def test_background_start_takes_requests_at_once_and_is_not_ready() -> None:
    app = Thalamus(load="background")
    model = app.model(model_id="m")(doored())
    async with AsyncClient(app) as client:
        await model.door.reached()
        assert (await client.get("/health")).status == 200
        ready = await client.get("/ready")
        assert (ready.status, ready.json()["ready"]) == (503, False)
        refused = await client.post("/predict", json=body("x"))
        assert (refused.status, refused.json()["code"]) == (503, "model_loading")
        assert int(refused.headers["retry-after"]) >= 1
        model.door.open()
        await until(lambda: state_of(app, "m@1.0.0") == "ready")
        assert (await client.get("/ready")).status == 200
        assert answers(await client.post("/predict", json=body("x"))) == ["x"]


async def test_lazy_model_loads_once_for_all_who_wait_and_does_not_hold_ready_back() -> None:
    app = Thalamus(lazy_load=True)
    model = app.model(model_id="slow")(doored())
    app.model(model_id="other", default=True)(Echo)
    async with AsyncClient(app) as client:
        assert (await client.get("/ready")).status == 200
        waiting = [
            client.begin("POST", "/predict", json=body(str(n), model="slow")) for n in range(5)
        ]
        await model.door.reached()
        # Somebody else's model is not held up.
        assert answers(await client.post("/predict", json=body("x"))) == ["x"]
        model.door.open()
        assert [answers(await line.answer()) for line in waiting] == [[str(n)] for n in range(5)]
        assert model.door.entered == 1


async def test_deadline_of_a_request_ends_its_wait_for_a_load() -> None:
    app = Thalamus(lazy_load=True)
    model = app.model(model_id="m")(doored())
    async with AsyncClient(app) as client:
        answer = await client.post("/predict", json=body("x"), headers={"X-Timeout-Ms": "20"})
        assert (answer.status, answer.json()["code"]) == (504, "deadline_exceeded")
        await model.door.reached()
        model.door.open()
        assert answers(await client.post("/predict", json=body("x"))) == ["x"]


async def test_client_that_leaves_ends_its_wait_for_a_load() -> None:
    app = Thalamus(lazy_load=True)
    model = app.model(model_id="m")(doored())
    async with AsyncClient(app) as client:
        line = client.begin("POST", "/predict", json=body("x"))
        await model.door.reached()
        await line.hang_up()
        assert engine_of(app).service.inflight == 0
        model.door.open()


async def test_waits_for_a_load_are_bounded_by_the_queue() -> None:
    app = Thalamus(lazy_load=True)
    model = app.model(model_id="m", max_queue_size=3)(doored())
    async with AsyncClient(app) as client:
        first = client.begin("POST", "/predict", json=body("a", "b"))
        await model.door.reached()
        assert (await client.post("/predict", json=body("c", "d"))).status == 429
        assert (await client.post("/predict", json=body(*"abcd"))).status == 422
        model.door.open()
        assert answers(await first.answer()) == ["a", "b"]


class Tree(BaseModel):
    leaves: "list[Leaf]"  # type: ignore[name-defined]  # noqa: F821


async def test_type_that_is_never_completed_fails_the_start_and_names_its_model() -> None:
    class Later(BaseModel):
        inner: "Never"  # type: ignore[name-defined]  # noqa: F821

    app = Thalamus()

    @app.model(model_id="m", input_type=Later, output_type=Out)
    class Model:
        def predict(self, inputs: list[Any]) -> list[Out]:
            return []

    with pytest.raises(TypeError, match=r"m@1\.0\.0: the input type .*Later.* is not complete"):
        async with AsyncClient(app):
            pass


async def test_type_that_is_completed_before_the_start_will_do() -> None:
    app = Thalamus()

    @app.model(model_id="m", input_type=Tree, output_type=Out)
    class Model:
        def predict(self, inputs: list[Tree]) -> list[Out]:
            return [Out(text=str(len(item.leaves))) for item in inputs]

    Tree.model_rebuild(_types_namespace={"Leaf": In})
    async with AsyncClient(app) as client:
        answer = await client.post("/predict", json={"inputs": [{"leaves": [{"text": "x"}]}]})
        assert answers(answer) == ["1"]


async def test_critical_failure_fails_the_start_with_its_own_error() -> None:
    app = Thalamus()
    app.model(model_id="good")(Echo)
    app.model(model_id="bad")(failing())
    lifespan = Messages(app)
    answer = await lifespan.say("startup")
    assert answer == {"type": "lifespan.startup.failed", "message": "RuntimeError: not today"}
    with pytest.raises(RuntimeError, match="not today"):
        await lifespan.task
    assert app._starts.engine is None
    await until(lambda: not lanes_alive("good") and not lanes_alive("bad"))


async def test_other_failure_leaves_the_rest_serving_and_is_tried_again(quick: None) -> None:
    app = Thalamus()
    app.model(model_id="good", default=True)(Echo)
    bad = app.model(model_id="bad", critical=False)(failing())
    async with AsyncClient(app) as client:
        assert (await client.get("/ready")).status == 200
        status = {m["id"]: m for m in (await client.get("/health")).json()["models"]}
        assert (status["bad"]["state"], status["bad"]["error"]) in [
            ("failed", "model_load_failed"),
            ("loading", "model_load_failed"),
        ]
        assert answers(await client.post("/predict", json=body("x"))) == ["x"]
        await until(lambda: bad.loads >= 3)
        bad.well = True
        await until(lambda: state_of(app, "bad@1.0.0") == "ready")
        assert answers(await client.post("/predict", json=body("y", model="bad"))) == ["y"]
        assert runtime_of(app, "bad@1.0.0").error is None


async def test_failed_model_answers_503_until_its_next_try_and_says_when() -> None:
    app = Thalamus(lazy_load=True)
    bad = app.model(model_id="bad")(failing())
    async with AsyncClient(app) as client:
        first = await client.post("/predict", json=body("x"))
        assert (first.status, first.json()["code"]) == (503, "model_load_failed")
        assert "not today" not in first.text
        again = await client.post("/predict", json=body("x"))
        assert again.status == 503
        assert bad.loads == 1
        now = runtime_of(app, "bad@1.0.0").clock()
        runtime_of(app, "bad@1.0.0").clock = lambda: now + 1.5
        assert (await client.post("/predict", json=body("x"))).status == 503
        assert bad.loads == 2
        # Two failures: two seconds.
        runtime_of(app, "bad@1.0.0").clock = lambda: now + 1.6
        later = await client.post("/predict", json=body("x"))
        assert (later.status, later.headers["retry-after"], bad.loads) == (503, "2", 2)
        bad.well = True
        runtime_of(app, "bad@1.0.0").clock = lambda: now + 10.0
        assert answers(await client.post("/predict", json=body("x"))) == ["x"]


async def test_background_start_keeps_trying_critical_models_too(quick: None) -> None:
    app = Thalamus(load="background")
    bad = app.model(model_id="bad")(failing())
    async with AsyncClient(app) as client:
        await until(lambda: bad.loads >= 2)
        assert (await client.get("/ready")).status == 503
        bad.well = True
        await until(lambda: state_of(app, "bad@1.0.0") == "ready")
        assert (await client.get("/ready")).status == 200


async def test_start_that_failed_can_be_made_again_and_again() -> None:
    app = Thalamus()
    bad = app.model(model_id="bad")(failing())
    for _ in range(2):
        with pytest.raises(RuntimeError, match="not today"):
            async with AsyncClient(app):
                pass
    bad.well = True
    for _ in range(2):
        async with AsyncClient(app) as client:
            assert answers(await client.post("/predict", json=body("x"))) == ["x"]


async def test_environment_is_read_at_each_start(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Thalamus()
    app.model(model_id="m")(Echo)
    monkeypatch.setenv("THALAMUS_DRAIN_S", "never")
    with pytest.raises(ValueError, match="THALAMUS_DRAIN_S"):
        async with AsyncClient(app):
            pass
    monkeypatch.setenv("THALAMUS_DRAIN_S", "7")
    async with AsyncClient(app):
        assert engine_of(app).parts.settings.drain_s == 7


async def test_required_gpu_that_is_missing_fails_the_start_of_lazy_models_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = Thalamus(lazy_load=True)
    missing = {"model": FileWeight(path="never-looked-for")}
    app.model(model_id="m", require_gpu=True, weights=missing)(Echo)
    monkeypatch.setattr("thalamus_lite.devices.torch_backend.list_devices", lambda: ())
    with pytest.raises(GPURequirementError, match=r"m@1\.0\.0 requires a GPU"):
        async with AsyncClient(app):
            pass


class Books:
    """Who holds what: leases of a spied cache, reservations of a spied allocator."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.leases: list[Any] = []
        self.places: set[Any] = set()
        self.fail_lease = self.fail_place = False
        self.weight = folder / "weight.bin"
        self.weight.write_bytes(b"w")
        from thalamus_lite.weights.cache import WeightCache

        acquire, place_many = WeightCache.acquire, DeviceAllocator.place_many
        release = DeviceAllocator.release

        def spied_acquire(cache: Any, source: Any, **options: Any) -> Any:
            lease = acquire(cache, source, **options)
            books, given_back = self, lease.release

            class Spied:
                path = lease.path

                def release(self) -> None:
                    books.leases.remove(self)
                    given_back()

            self.leases.append(spied := Spied())
            return spied

        def spied_place(allocator: Any, *given: Any, **options: Any) -> Any:
            if self.fail_place and options["model"] == "m@1.0.0":
                raise RuntimeError("no place")
            places = place_many(allocator, *given, **options)
            self.places.update(places)
            return places

        def spied_release(allocator: Any, reservation: Any) -> None:
            self.places.discard(reservation)
            release(allocator, reservation)

        monkeypatch.setattr(WeightCache, "acquire", spied_acquire)
        monkeypatch.setattr(DeviceAllocator, "place_many", spied_place)
        monkeypatch.setattr(DeviceAllocator, "release", spied_release)

    @property
    def clean(self) -> bool:
        return not self.leases and not self.places


@pytest.fixture
def books(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Books:
    return Books(monkeypatch, tmp_path)


STEPS = ["weights", "place", "constructor", "load", "warm-up", "output", "parity"]


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, StopIteration])
@pytest.mark.parametrize("step", STEPS)
async def test_failure_at_any_step_leaves_nothing_behind(
    books: Books, step: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The records that pytest keeps hold the exceptions, and these the instance.
    monkeypatch.setattr(logging.getLogger("thalamus_lite"), "disabled", True)
    app = Thalamus()
    alive: weakref.WeakSet[Any] = weakref.WeakSet()

    class Model:
        def __init__(self) -> None:
            alive.add(self)
            if step == "constructor":
                raise error("no")

        def load(self, weights: dict[str, Path], device: str) -> None:
            if step == "load":
                raise error("no")

        def predict(self, inputs: list[In]) -> list[Out]:
            if step == "warm-up":
                raise error("no")
            if step == "output":
                return [None for _ in inputs]  # type: ignore[misc]
            return [Out(text=f"{len(inputs) if step == 'parity' else 1}") for _ in inputs]

    weights = {"good": FileWeight(path=books.weight)}
    if step == "weights":
        weights["bad"] = FileWeight(path=books.weight.with_name("missing"))
    books.fail_place = step == "place"
    app.model(
        model_id="m", critical=False, lanes=2, weights=weights, examples=[{"text": t} for t in "ab"]
    )(Model)
    app.model(model_id="good", default=True)(Echo)
    async with AsyncClient(app) as client:
        assert runtime_of(app, "m@1.0.0").error in (
            {"weights": WeightNotFound.code}.get(step, "model_load_failed"),
            "model_error",
        )
        assert state_of(app, "m@1.0.0") in ("failed", "loading")
        # The lanes give back what they held before the failure is seen; only good's place is left.
        assert not books.leases
        assert len(books.places) == 1
        await until(lambda: not lanes_alive("m"))
        # Without a collection: what it has on a device must not wait for one.
        await until(lambda: not alive, "the end of the instance")
        capacity = (await client.get("/capacity")).json()["models"]["m@1.0.0"]
        assert capacity["reason"] == "model_not_loaded"
        assert answers(await client.post("/predict", json=body("x"))) == ["x"]
    assert books.clean


async def test_unload_gives_everything_back_and_forgets_the_instance(books: Books) -> None:
    app = Thalamus()
    alive: weakref.WeakSet[Any] = weakref.WeakSet()

    @app.model(model_id="m", lanes=3, weights={"w": FileWeight(path=books.weight)})
    class Model:
        def __init__(self) -> None:
            alive.add(self)

        def predict(self, inputs: list[In]) -> list[Out]:
            return [Out(text=item.text) for item in inputs]

    async with AsyncClient(app) as client:
        assert len(books.leases) == len(books.places) == len(alive) == 1
        assert answers(await client.post("/predict", json=body("x"))) == ["x"]
        answer = await client.post("/models/m/unload")
        assert answer.json() == {
            "model_id": "m",
            "version": None,
            "unloaded": True,
            "versions_unloaded": ["1.0.0"],
        }
        assert books.clean
        gc.collect()
        assert not alive
        await until(lambda: not lanes_alive("m"))
        assert (await client.get("/ready")).status == 503
        assert (await client.post("/models/m/load")).json()["versions_loaded"] == ["1.0.0"]
        assert (await client.get("/ready")).status == 200
    assert books.clean


async def test_unload_that_raises_frees_the_model_all_the_same(books: Books) -> None:
    app = Thalamus()

    @app.model(model_id="m", weights={"w": FileWeight(path=books.weight)})
    class Model(Echo):
        def unload(self) -> None:
            raise SystemExit("no")

    async with AsyncClient(app) as client:
        assert (await client.post("/models/m/unload")).json()["unloaded"] is True
        assert books.clean
        assert answers(await client.post("/predict", json=body("x"))) == ["x"]


async def test_replica_that_fails_waits_for_its_sibling_before_the_device_is_given_back(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    from thalamus_lite.devices.device import Device

    gpus = (Device("cuda", 0), Device("cuda", 1))
    monkeypatch.setattr("thalamus_lite.devices.torch_backend.list_devices", lambda: gpus)
    monkeypatch.setattr(
        "thalamus_lite.devices.torch_backend.memory_probe", lambda _device: (1 << 30, 1 << 30)
    )
    from lifecycle_kit import FakeDevice, use_backend

    use_backend(monkeypatch, FakeDevice())
    door = Door()
    app = Thalamus(load="background")

    @app.model(model_id="m", device="cuda", replicas="all")
    class Model(Echo):
        def load(self, weights: dict[str, Path], device: str) -> None:
            if device == "cuda:0":
                raise RuntimeError("no")
            door.wait()

    async with AsyncClient(app):
        await door.reached()
        await until(lambda: not any(lane.name.endswith("/0.0") for lane in lanes_alive("m")))
        assert state_of(app, "m@1.0.0") == "loading"
        assert {str(place.device) for place in books.places} == {"cuda:0", "cuda:1"}
        door.open()
        await until(lambda: runtime_of(app, "m@1.0.0").error is not None)
        assert books.clean


async def test_load_that_waits_for_an_unload_does_not_begin_at_shutdown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("THALAMUS_DRAIN_S", "0.05")
    app = Thalamus()
    door = Door()
    loads: list[int] = []

    @app.model(model_id="m")
    class Model(Echo):
        def load(self, weights: dict[str, Path], device: str) -> None:
            loads.append(1)

        def unload(self) -> None:
            door.wait()

    async with AsyncClient(app) as client:
        unload = client.begin("POST", "/models/m/unload")
        await door.reached()
        load = client.begin("POST", "/models/m/load")
        runtime = runtime_of(app, "m@1.0.0")
        leave = asyncio.ensure_future(client.__aexit__(None, None, None))
        await until(lambda: runtime._abandoned)
        door.open()
        assert (await unload.answer()).status == 200
        await leave
        answer = await load.answer()
    assert (answer.status, answer.json()["code"]) == (503, "draining")
    assert len(loads) == 1
    await until(lambda: not lanes_alive("m"))


async def test_unload_in_the_moment_in_which_a_load_ends_waits_for_that_end() -> None:
    app = Thalamus(load="lazy")
    door = Door()

    @app.model(model_id="m")
    class Model(Echo):
        def unload(self) -> None:
            door.wait()

    async with AsyncClient(app):
        runtime = runtime_of(app, "m@1.0.0")
        load = runtime.start()

        async def unload_at_once() -> bool:
            while runtime.state_name != "ready":  # noqa: ASYNC110
                await asyncio.sleep(0)
            # Its task is done, and a turn later it is put away.
            assert load.done()
            return await runtime.unload()

        unloads = [asyncio.ensure_future(unload_at_once())]
        await door.reached()
        unloads.append(asyncio.ensure_future(runtime.unload()))
        await asyncio.sleep(0)
        assert runtime.state_name == "draining"
        door.open()
        assert await asyncio.gather(*unloads) == [True, False]
        assert runtime.state_name == "unloaded"


async def test_unload_that_a_shutdown_cuts_short_is_no_success(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("THALAMUS_DRAIN_S", "0.01")
    monkeypatch.setattr(engine, "SHUTDOWN_PATIENCE_S", 0.01)
    app = Thalamus()
    door = Door()

    @app.model(model_id="m")
    class Model(Echo):
        def unload(self) -> None:
            door.wait()

    async with AsyncClient(app) as client:
        unloads = [client.begin("POST", "/models/m/unload") for _ in range(2)]
        await door.reached()
        leave = asyncio.ensure_future(client.__aexit__(None, None, None))
        for unload in unloads:
            async with asyncio.timeout(PATIENCE_S):
                answer = await unload.answer()
            assert (answer.status, answer.json()["code"]) == (503, "draining")
        await leave
        door.open()


@pytest.mark.usefixtures("quick")
async def test_model_that_fails_to_come_back_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("thalamus_lite.engine.RETRY_LOOK_S", 0.01)
    for mode in ("startup", "lazy"):
        app = Thalamus(load=mode)
        model = app.model(model_id="m")(failing())
        model.well = True
        async with AsyncClient(app) as client:
            assert (await client.post("/predict", json=body("x"))).status == 200
            assert (await client.post("/models/m/unload")).status == 200
            model.well = False
            assert (await client.post("/models/m/load")).status == 503
            assert (await client.get("/ready")).status == 503
            model.well = True
            await until(lambda app=app: state_of(app, "m@1.0.0") == "ready")
            assert (await client.get("/ready")).status == 200


@pytest.mark.usefixtures("quick")
async def test_lazy_model_that_was_never_up_does_not_hold_ready_back() -> None:
    app = Thalamus(load="lazy")
    door = Door()

    @app.model(model_id="m")
    class Model(Doored):
        def load(self, weights: dict[str, Path], device: str) -> None:
            door.wait()
            raise RuntimeError("not today")

    async with AsyncClient(app) as client:
        line = client.begin("POST", "/predict", json=body("x"))
        await door.reached()
        assert (await client.get("/ready")).status == 200
        door.open()
        assert (await line.answer()).json()["code"] == "model_load_failed"
        assert (await client.get("/ready")).status == 200


async def test_model_that_may_be_missing_and_hangs_does_not_keep_the_others_from_starting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("THALAMUS_WATCHDOG_S", "0.05")
    app = Thalamus()
    hanging = app.model(model_id="hangs", critical=False)(doored())
    app.model(model_id="m", default=True)(failing()).well = True
    async with AsyncClient(app) as client:
        assert state_of(app, "hangs@1.0.0") == "quarantined"
        assert (await client.post("/predict", json=body("x"))).status == 200
        hanging.door.open()
        await until(lambda: state_of(app, "hangs@1.0.0") == "ready")


async def test_versions_load_side_by_side_and_one_that_fails_keeps_none_from_loading() -> None:
    app = Thalamus(load="lazy")
    door = Door()
    for version in ("1.0", "2.0"):
        app.model(model_id="m", version=version)(type("M", (Doored,), {"door": door}))
    broken = app.model(model_id="m", version="3.0")(failing())
    broken.well = False
    async with AsyncClient(app) as client:
        line = client.begin("POST", "/models/m/load")
        for _ in range(2):
            await door.reached()
        door.open()
        answer = await line.answer()
        assert (answer.status, answer.json()["code"]) == (503, "model_load_failed")
        assert [state_of(app, f"m@{n}.0") for n in (1, 2, 3)] == ["ready", "ready", "failed"]


async def test_uptime_is_told() -> None:
    app = Thalamus()
    assert app.get_uptime() == 0.0
    async with AsyncClient(app):
        assert app.get_uptime() > 0.0


async def test_app_that_can_serve_nobody_says_so_at_its_start(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = Thalamus()
    monkeypatch.setenv("THALAMUS_API_KEY", " ")
    async with AsyncClient(app, api_key=None):
        pass
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert "set THALAMUS_API_KEY, or every protected route answers 503" in caplog.text
    assert "no model is registered" in caplog.text
    caplog.clear()
    app.model()(Echo)
    monkeypatch.setenv("THALAMUS_API_KEY", "k")
    async with AsyncClient(app):
        pass
    assert caplog.records == []


async def test_load_that_fails_is_a_line_that_names_the_model(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = Thalamus()
    missing = {"w": FileWeight(tmp_path / "missing.bin")}
    app.model(model_id="weightless", critical=False, weights=missing)(Echo)
    app.model(model_id="failing", critical=False)(failing())
    async with AsyncClient(app):
        pass
    lines = {record.getMessage(): record for record in caplog.records}
    (ours,) = [line for line in lines if line.startswith("weightless@1.0.0 failed to load: there")]
    # Its sentence says it all; what the user's own code raised is shown from where it was raised.
    assert lines[ours].exc_info is None
    shown = lines["failing@1.0.0 failed to load: RuntimeError"].exc_info
    assert shown is not None
    assert str(shown[1]) == "not today"
