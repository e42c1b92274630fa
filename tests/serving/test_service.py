"""The use cases behind the routes and what the probes are told, where no other test passes by."""

import asyncio
import functools
import time
import weakref
from contextvars import ContextVar
from decimal import Decimal, getcontext, localcontext
from pathlib import Path
from typing import Any

import pytest
from lifecycle_kit import (
    Door,
    FakeDevice,
    In,
    Lost,
    Out,
    answers,
    body,
    counted,
    engine_of,
    lanes_alive,
    runtime_of,
    state_of,
    until,
    use_backend,
)

from thalamus_lite import FileWeight, ModelCapacity, Thalamus
from thalamus_lite.devices.device import Device
from thalamus_lite.serving.snapshot import Snapshots
from thalamus_lite.testing import AsyncClient


class Echo:
    def predict(self, inputs: list[In]) -> list[Out]:
        return [Out(text=item.text) for item in inputs]


async def test_drain_ends_the_wait_for_a_load_that_takes_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("THALAMUS_DRAIN_S", "0.05")
    app = Thalamus(load="lazy")
    door = Door()

    @app.model(model_id="m")
    class Model(Echo):
        def load(self, weights: dict[str, Path], device: str) -> None:
            door.wait()

    async with AsyncClient(app) as client:
        line = client.begin("POST", "/predict", json=body("x"))
        gone = client.begin("POST", "/predict", json=body("x"))
        await door.reached()
        await gone.hang_up()
        engine_of(app).drain.begin()
        answer = await line.answer()
        assert (answer.status, answer.json()["code"]) == (503, "draining")
        door.open()


async def test_versions_are_loaded_and_unloaded_one_by_one_or_all() -> None:
    app = Thalamus(load="lazy")
    for version in ("1.0.0", "2.0.0"):
        app.model(model_id="m", version=version)(type("Model", (Echo,), {}))
    async with AsyncClient(app) as client:
        one = await client.post("/models/m/load", json={"version": "1.0.0"})
        assert one.json()["versions_loaded"] == ["1.0.0"]
        rest = await client.post("/models/m/load")
        assert rest.json()["versions_loaded"] == ["2.0.0"]
        again = await client.post("/models/m/load")
        assert (again.json()["loaded"], again.json()["versions_loaded"]) == (False, [])
        one = await client.post("/models/m/unload", json={"version": "2.0.0"})
        assert one.json()["versions_unloaded"] == ["2.0.0"]
        rest = await client.post("/models/m/unload")
        assert rest.json()["versions_unloaded"] == ["1.0.0"]


async def test_model_is_ready_by_its_own_word_and_one_that_raises_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = Thalamus()
    word: list[Any] = [True]

    @app.model(model_id="m")
    class Model(Echo):
        @property
        def is_ready(self) -> bool:
            if word[0] is None:
                raise RuntimeError
            return bool(word[0])

    async with AsyncClient(app) as client:
        for said, status in ((True, 200), (False, 503), (None, 503), (1, 200), (None, 503)):
            word[0] = said
            assert (await client.get("/ready")).status == status
            capacity = (await client.get("/capacity")).json()["models"]["m@1.0.0"]
            assert capacity["reason"] == (None if status == 200 else "model_not_ready")
    # Asked four times while it failed, in two runs.
    lines = [record for record in caplog.records if "is_ready" in record.getMessage()]
    assert [line.getMessage() for line in lines] == ["is_ready of m@1.0.0 failed"] * 2
    assert all(line.exc_info for line in lines)


async def test_load_unload_and_readiness_that_an_instance_gets_when_it_is_made_count() -> None:
    app = Thalamus()
    made: list[Any] = []
    called: list[Any] = []

    @app.model(model_id="m")
    class Model(Echo):
        def __init__(self) -> None:
            made.append(self)
            self.is_ready = False
            self.load = lambda weights, device: called.append(device)
            self.unload = lambda: called.append("unload")

    async with AsyncClient(app) as client:
        assert (await client.get("/ready")).status == 503
        made[0].is_ready = True
        assert (await client.get("/ready")).status == 200
    assert called == ["cpu", "unload"]


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_what_only_an_instance_has_is_no_hook(asynchronous: bool) -> None:
    """As of CLIP, whose ``load()`` gives a model and its ``preprocess``."""
    app = Thalamus()

    class Model(Echo):
        def load(self, weights: dict[str, Any], device: str) -> None:
            self.preprocess = str.upper
            self.postprocess = str.lower
            self.capacity = 5

        def predict(self, inputs: list[In]) -> list[Out]:
            return [Out(text=self.preprocess(item.text)) for item in inputs]

    class OnLoop(Model):
        async def predict(self, inputs: list[In]) -> list[Out]:  # type: ignore[override]
            return Model.predict(self, inputs)

    app.model(model_id="m")(OnLoop if asynchronous else Model)
    async with AsyncClient(app) as client:
        answer = await client.post("/predict", json=body("x"))
        assert answers(answer) == ["X"]
        assert answer.json()["meta"]["preprocessing_ms"] is None
        capacity = (await client.get("/capacity")).json()["models"]["m@1.0.0"]
        assert capacity["accepting"] is True


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_hooks_that_an_instance_exchanges_are_used_from_then_on(asynchronous: bool) -> None:
    app = Thalamus()
    made: list[Any] = []

    class Model(Echo):
        def __init__(self) -> None:
            made.append(self)

        def preprocess(self, inputs: list[In]) -> list[In]:
            return inputs

        def postprocess(self, outputs: list[Out]) -> list[Out]:
            return outputs

    class OnLoop(Model):
        async def predict(self, inputs: list[In]) -> list[Out]:  # type: ignore[override]
            return Model.predict(self, inputs)

    app.model(model_id="m")(OnLoop if asynchronous else Model)
    async with AsyncClient(app) as client:
        assert answers(await client.post("/predict", json=body("x"))) == ["x"]
        made[0].preprocess = lambda inputs: [In(text=item.text + "!") for item in inputs]
        made[0].postprocess = lambda outputs: [Out(text=item.text + "?") for item in outputs]
        assert answers(await client.post("/predict", json=body("x"))) == ["x!?"]
        if not asynchronous:
            made[0].predict = lambda inputs: [Out(text="fast")] * len(inputs)
            assert answers(await client.post("/predict", json=body("x"))) == ["fast?"]


async def test_decimal_context_of_a_model_is_its_lanes_own() -> None:
    app = Thalamus()

    class Model(Echo):
        def predict(self, inputs: list[In]) -> list[Out]:
            return [Out(text=str(Decimal(1) / 3)) for _ in inputs]

    @app.model(model_id="short", default=True)
    class Short(Model):
        def load(self, weights: dict[str, Path], device: str) -> None:
            getcontext().prec = 3

    app.model(model_id="long")(Model)
    # As any arithmetic at import does.
    before = getcontext().prec
    async with AsyncClient(app) as client:
        assert answers(await client.post("/predict", json=body("x"))) == ["0.333"]
        (long,) = answers(await client.post("/predict", json=body("x", model="long")))
        assert len(long) == before + 2
    assert getcontext().prec == before


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_start_at_a_request_takes_none_of_that_requests_context(asynchronous: bool) -> None:
    app = Thalamus()

    class Model(Echo):
        def predict(self, inputs: list[In]) -> list[Out]:
            return [Out(text=_TENANT.get("nobody")) for _ in inputs]

    class OnLoop(Model):
        async def predict(self, inputs: list[In]) -> list[Out]:  # type: ignore[override]
            return Model.predict(self, inputs)

    app.model(model_id="m")(OnLoop if asynchronous else Model)
    async with AsyncClient(app, lifespan=False) as client:
        _TENANT.set("first")
        assert answers(await client.post("/predict", json=body("x"))) == ["nobody"]
    await app._starts.end()


_TENANT: ContextVar[str] = ContextVar("tenant")


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_context_in_which_the_app_started_is_that_of_its_hooks(asynchronous: bool) -> None:
    app = Thalamus()

    class Model(Echo):
        def predict(self, inputs: list[In]) -> list[Out]:
            return [Out(text=str(Decimal(1) / 3)) for _ in inputs]

    class OnLoop(Model):
        async def predict(self, inputs: list[In]) -> list[Out]:  # type: ignore[override]
            return Model.predict(self, inputs)

    app.model(model_id="m")(OnLoop if asynchronous else Model)
    with localcontext() as context:
        # As a module does that sets it once, for all.
        context.prec = 5
        async with AsyncClient(app) as client:
            assert answers(await client.post("/predict", json=body("x"))) == ["0.33333"]


async def test_hook_that_only_returns_a_coroutine_has_not_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def logged(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*arguments: Any) -> Any:
            return function(*arguments)

        return wrapper

    app = Thalamus(load="lazy")

    @app.model(model_id="loads", version="1")
    class Loads(Echo):
        @logged
        async def load(self, weights: dict[str, Path], device: str) -> None: ...

    @app.model(model_id="unloads", version="1")
    class Unloads(Echo):
        @logged
        async def unload(self) -> None: ...

    async with AsyncClient(app) as client:
        refused = await client.post("/predict", json=body("x", model="loads"))
        assert (refused.status, refused.json()["code"]) == (503, "model_load_failed")
        assert answers(await client.post("/predict", json=body("x", model="unloads"))) == ["x"]
        assert (await client.post("/models/unloads/unload")).json()["unloaded"] is True
    for hook in ("load", "unload"):
        sentence = f"{hook}s: {hook}() must be a plain function; only predict may be async"
        assert sentence in caplog.text


async def test_capacity_hook_speaks_for_its_model_and_nonsense_is_an_error() -> None:
    app = Thalamus()
    word: list[Any] = [None]

    @app.model(model_id="m")
    class Model(Echo):
        def capacity(self) -> Any:
            if word[0] is None:
                raise RuntimeError
            return word[0]

    async with AsyncClient(app) as client:

        async def capacity() -> dict[str, Any]:
            found: dict[str, Any] = (await client.get("/capacity")).json()["models"]["m@1.0.0"]
            return found

        for nonsense in (None, 5, {"accepting": "maybe"}):
            word[0] = nonsense
            found = await capacity()
            assert (found["accepting"], found["reason"]) == (False, "capacity_hook_error")
        word[0] = ModelCapacity(
            accepting=True, remaining_requests=7, ideal_batch_size=2, max_batch_size=3, reason=None
        )
        assert await capacity() == word[0].model_dump()


async def test_folder_of_weights_is_as_large_as_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from thalamus_lite.devices.allocator import DeviceAllocator

    asked: list[int] = []
    place_many = DeviceAllocator.place_many

    def spied(allocator: Any, *given: Any, **options: Any) -> Any:
        asked.append(options["need_bytes"])
        return place_many(allocator, *given, **options)

    monkeypatch.setattr(DeviceAllocator, "place_many", spied)
    (tmp_path / "folder" / "deeper").mkdir(parents=True)
    (tmp_path / "folder" / "a").write_bytes(b"123")
    (tmp_path / "folder" / "deeper" / "b").write_bytes(b"45")
    (tmp_path / "file").write_bytes(b"6")
    app = Thalamus()
    weights = {
        "folder": FileWeight(path=tmp_path / "folder"),
        "file": FileWeight(path=tmp_path / "file"),
    }
    app.model(model_id="m", weights=weights)(Echo)
    async with AsyncClient(app):
        assert asked == [6]


async def test_second_fatal_error_changes_nothing(
    backend: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    monkeypatch.setattr("thalamus_lite.engine._end_process", lambda: ended.append(1))
    monkeypatch.setattr("thalamus_lite.engine.LAST_WORDS_S", 0.0)
    app = Thalamus()
    door = Door()

    @app.model(model_id="m", lanes=2, max_batch_size=1)
    class Model:
        def predict(self, inputs: list[In]) -> list[Out]:
            door.wait()
            raise Lost

    async with AsyncClient(app) as client:
        lines = [client.begin("POST", "/predict", json=body("x")) for _ in range(2)]
        await door.reached()
        await door.reached()
        door.open()
        assert [(await line.answer()).status for line in lines] == [500, 500]
        await until(lambda: ended)
        assert ended == [1]


async def test_load_cancelled_before_its_first_step_has_failed() -> None:
    app = Thalamus(load="lazy")
    app.model(model_id="m")(Echo)
    async with AsyncClient(app) as client:
        runtime = runtime_of(app, "m@1.0.0")
        task = runtime.start()
        assert runtime.start() is task
        task.cancel()
        await runtime.settle()
        assert state_of(app, "m@1.0.0") == "failed"
        refused = await client.post("/predict", json=body("x"))
        assert refused.json()["code"] == "model_load_failed"


async def test_transition_that_ends_in_an_error_of_ours_is_told_and_leaves_no_lane(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = Thalamus(load="lazy")
    app.model(model_id="m")(Echo)
    async with AsyncClient(app):
        runtime = runtime_of(app, "m@1.0.0")

        def broken(_group: Any) -> None:
            raise RuntimeError("ours")

        monkeypatch.setattr(engine_of(app).service.batcher, "add", broken)
        runtime.start()
        await runtime.settle()
        assert state_of(app, "m@1.0.0") == "failed"
        assert "m@1.0.0 failed in a transition" in caplog.text
        await until(lambda: not lanes_alive("m"))


async def test_shutdown_that_fails_is_told_to_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Thalamus()
    app.model(model_id="m")(Echo)
    said: list[dict[str, str]] = []
    to_app: asyncio.Queue[dict[str, str]] = asyncio.Queue()

    async def send(message: dict[str, str]) -> None:
        said.append(message)

    lifespan = asyncio.ensure_future(app({"type": "lifespan"}, to_app.get, send))  # type: ignore[arg-type]
    to_app.put_nowait({"type": "lifespan.startup"})
    await until(lambda: said)
    engine = engine_of(app)
    stop = engine.stop

    async def broken() -> None:
        await stop()
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(engine, "stop", broken)
    to_app.put_nowait({"type": "lifespan.shutdown"})
    with pytest.raises(RuntimeError):
        await lifespan
    assert said[-1] == {"type": "lifespan.shutdown.failed", "message": "RuntimeError: first line"}


async def test_request_that_cannot_be_answered_does_not_keep_the_shutdown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("THALAMUS_DRAIN_S", "0")
    app = Thalamus()
    app.model(model_id="m")(Echo)
    async with AsyncClient(app):
        engine_of(app).service.held = 1
    assert "requests were left unanswered" in caplog.text


GPU = {"device": "cuda:0", "name": "a gpu", "used_mb": 10.0, "total_mb": 100.0}


async def test_figures_of_a_device_are_read_off_the_loop_and_kept_when_it_stops_to_answer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import threading

    monkeypatch.setattr("thalamus_lite.serving.snapshot.REFRESH_S", 0.001)
    answered: list[str] = []

    def status() -> dict[str, Any]:
        answered.append(threading.current_thread().name)
        if len(answered) > 1:
            raise OSError("the driver")
        devices = [GPU, {"device": "mps", "name": "other", "used_mb": None, "total_mb": 5.0}]
        return {"available": True, "device_count": 2, "torch_version": "2", "devices": devices}

    monkeypatch.setattr("thalamus_lite.composition.torch_backend.get_gpu_status", status)
    app = Thalamus()
    app.model(model_id="m")(Echo)
    async with AsyncClient(app) as client:
        await until(lambda: len(answered) >= 3)
        assert "MainThread" not in answered
        assert "cannot be read" in caplog.text
        assert (await client.get("/status")).json()["gpu"]["devices"][0] == GPU
        metrics = (await client.get("/metrics")).text
        labels = 'device_index="0",device_type="cuda"'
        assert f"thalamus_gpu_memory_used_mb{{{labels}}} 10.0" in metrics
        assert 'thalamus_gpu_memory_total_mb{device_index="0",device_type="mps"} 5.0' in metrics
        assert 'used_mb{device_index="0",device_type="mps"}' not in metrics


def test_counter_whose_source_began_anew_counts_on() -> None:
    class Counter:
        total = 0.0

        def inc(self, by: float) -> None:
            self.total += by

    snapshots = Snapshots(None, dict)  # type: ignore[arg-type]
    counter = Counter()
    for total, expected in ((3, 3), (5, 5), (1, 6), (1, 6), (2, 7)):
        snapshots._count(counter, "name", total)
        assert counter.total == expected


async def test_replicas_have_a_device_each_and_one_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpus = (Device("cuda", 0), Device("cuda", 1))
    monkeypatch.setattr("thalamus_lite.devices.torch_backend.list_devices", lambda: gpus)
    monkeypatch.setattr(
        "thalamus_lite.devices.torch_backend.memory_probe", lambda _device: (1 << 30, 1 << 30)
    )
    monkeypatch.setattr(
        "thalamus_lite.composition.torch_backend.backend_for", lambda _device: FakeDevice()
    )
    app = Thalamus()
    loads: list[str] = []

    @app.model(model_id="m", device="cuda", replicas=2, max_batch_size=1)
    class Model:
        def load(self, weights: dict[str, Path], device: str) -> None:
            loads.append(device)
            self.device = device

        def predict(self, inputs: list[In]) -> list[Out]:
            return [Out(text=self.device) for _ in inputs]

    async with AsyncClient(app) as client:
        assert sorted(loads) == ["cuda:0", "cuda:1"]
        lines = [client.begin("POST", "/predict", json=body("x")) for _ in range(2)]
        found = [await line.answer() for line in lines]
        assert sorted(text for answer in found for text in answers(answer)) == sorted(loads)
        assert found[0].json()["meta"]["device"] == "cuda:0, cuda:1"
        assert len(lanes_alive("m")) == 2


async def test_what_a_model_counted_outlives_it() -> None:
    app = Thalamus()

    @app.model(model_id="m")
    class Model(Echo):
        def predict(self, inputs: list[In]) -> list[Out]:
            time.sleep(0.02)
            return super().predict(inputs)

    async with AsyncClient(app) as client:
        for times in (1, 2):
            answers(await client.post("/predict", json=body("x")))
            if times == 2:
                # A scrape in between counts nothing twice.
                assert await counted(client, "thalamus_lane_busy_seconds_total", model="m") >= 0.02
            assert (await client.post("/models/m/unload")).status == 200
            busy = await counted(client, "thalamus_lane_busy_seconds_total", model="m")
            assert 0.02 * times <= busy < 0.02 * times + 5
    assert busy < 5


async def test_numbers_that_cannot_be_are_an_error_of_the_capacity_hook() -> None:
    app = Thalamus()
    word: list[Any] = []

    @app.model(model_id="m")
    class Model(Echo):
        def capacity(self) -> ModelCapacity:
            return ModelCapacity(
                remaining_requests=word[0], ideal_batch_size=word[1], max_batch_size=word[2]
            )

    async with AsyncClient(app) as client:
        for word[:] in ([-1, 1, 1], [1, 0, 1], [1, 2, 1], [1, -1, -1]):
            found = (await client.get("/capacity")).json()
            model = found["models"]["m@1.0.0"]
            assert (model["accepting"], model["reason"]) == (False, "capacity_hook_error")
            assert (found["accepting"], found["remaining_requests"]) == (False, 0)
        word[:] = [0, 1, 1]
        assert (await client.get("/capacity")).json()["models"]["m@1.0.0"]["reason"] is None


async def test_load_that_fails_for_good_on_its_device_takes_the_process_out_of_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_backend(monkeypatch, FakeDevice())
    ended: list[int] = []
    monkeypatch.setattr("thalamus_lite.engine._end_process", lambda: ended.append(1))
    app = Thalamus(load="lazy")

    @app.model(model_id="m")
    class Model(Echo):
        def load(self, weights: dict[str, Path], device: str) -> None:
            raise Lost("an illegal memory access was encountered")

    async with AsyncClient(app) as client:
        assert (await client.post("/predict", json=body("x"))).status == 503
        answer = await client.post("/predict", json=body("x"))
        assert (answer.status, answer.json()["code"]) == (503, "device_failed")
        assert (await client.get("/ready")).status == 503
        await until(lambda: ended)


async def test_failed_load_leaves_no_half_model_in_memory() -> None:
    app = Thalamus(load="lazy")
    made: list[weakref.ref[Any]] = []

    @app.model(model_id="m")
    class Model(Echo):
        def __init__(self) -> None:
            self.itself = self
            made.append(weakref.ref(self))

        def load(self, weights: dict[str, Path], device: str) -> None:
            raise RuntimeError("not today")

    async with AsyncClient(app) as client:
        assert (await client.post("/predict", json=body("x"))).status == 503
        assert made[0]() is None
