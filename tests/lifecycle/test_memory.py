"""Memory that runs out, and devices that are lost."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest
from lifecycle_kit import (
    Door,
    FakeDevice,
    In,
    Lost,
    Memory,
    Out,
    Wire,
    answers,
    body,
    engine_of,
    runtime_of,
    serving,
    state_of,
    until,
)

from thalamus_lite import Thalamus
from thalamus_lite.testing import AsyncClient


class Small:
    """A model that fits ``room`` inputs."""

    def __init__(self, kind: str = "lane", **options: Any) -> None:
        self.app = Thalamus()
        self.room = 4
        self.calls: list[int] = []
        script = self

        def run(inputs: list[In]) -> list[Out]:
            script.calls.append(len(inputs))
            if len(inputs) > script.room or any(item.text == "huge" for item in inputs):
                raise Memory("full")
            return [Out(text=item.text) for item in inputs]

        class InLane:
            def predict(self, inputs: list[In]) -> list[Out]:
                return run(inputs)

        class OnLoop:
            async def predict(self, inputs: list[In]) -> list[Out]:
                return run(inputs)

        options = {"max_batch_size": 16, **options}
        self.app.model(model_id="m", **options)(InLane if kind == "lane" else OnLoop)

    def most(self) -> int:
        group = runtime_of(self.app, "m@1.0.0").group
        assert group is not None
        return group.queue.effective_max_batch


async def most_advertised(client: AsyncClient) -> int:
    found: int = (await client.get("/capacity")).json()["models"]["m@1.0.0"]["max_batch_size"]
    return found


def texts(count: int) -> list[str]:
    return [str(number) for number in range(count)]


@pytest.mark.parametrize("kind", ["lane", "loop"])
async def test_batch_that_does_not_fit_is_halved_and_everybody_answered(
    backend: FakeDevice, kind: str
) -> None:
    model = Small(kind)
    async with AsyncClient(model.app) as client:
        assert await most_advertised(client) == 16
        lines = [client.begin("POST", "/predict", json=body(text)) for text in texts(16)]
        assert [answers(await line.answer()) for line in lines] == [[t] for t in texts(16)]
        assert model.calls == [16, 8, 4, 4, 8, 4, 4]
        assert backend.emptied >= 3
        assert await most_advertised(client) == 4
        assert answers(await client.post("/predict", json=body(*texts(9)))) == texts(9)
        assert model.calls[7:] == [4, 4, 1]


async def test_batch_size_creeps_back_when_there_is_room_again(backend: FakeDevice) -> None:
    model = Small()
    async with AsyncClient(model.app) as client:
        await client.post("/predict", json=body(*texts(16)))
        assert await most_advertised(client) == 4
        model.room = 100
        for _ in range(40):
            before = model.most()
            assert answers(await client.post("/predict", json=body(*texts(40)))) == texts(40)
            assert before <= model.most() <= 16
        assert await most_advertised(client) > 4


async def test_single_request_is_halved_by_its_inputs(backend: FakeDevice) -> None:
    model = Small()
    async with AsyncClient(model.app) as client:
        assert answers(await client.post("/predict", json=body(*texts(6)))) == texts(6)
        assert model.calls == [6, 3, 3]


async def test_input_that_never_fits_costs_its_request_and_not_the_batch_size(
    backend: FakeDevice,
) -> None:
    model = Small()
    model.room = 16
    async with AsyncClient(model.app) as client:
        lines = [client.begin("POST", "/predict", json=body(t)) for t in ["a", "huge", "b", "c"]]
        assert [(await line.answer()).status for line in lines] == [200, 500, 200, 200]
        assert await most_advertised(client) == 16


async def test_device_on_which_nothing_fits_makes_batches_smaller(backend: FakeDevice) -> None:
    model = Small()
    model.room = 0
    async with AsyncClient(model.app) as client:
        answer = await client.post("/predict", json=body(*texts(16)))
        assert (answer.status, answer.json()["code"]) == (500, "model_error")
        assert await most_advertised(client) == 8
        assert state_of(model.app, "m@1.0.0") == "ready"


async def test_model_that_is_not_idempotent_is_not_halved_but_its_batches_shrink(
    backend: FakeDevice,
) -> None:
    model = Small(idempotent=False)
    async with AsyncClient(model.app) as client:
        assert (await client.post("/predict", json=body(*texts(16)))).status == 500
        assert model.calls == [16]
        assert await most_advertised(client) == 8


async def test_memory_and_poison_in_one_batch_cost_the_poisoned_request_only(
    backend: FakeDevice,
) -> None:
    app = Thalamus()

    @app.model(model_id="m", max_batch_size=16)
    class Model:
        def predict(self, inputs: list[In]) -> list[Out]:
            if len(inputs) > 4:
                raise Memory
            if any(item.text == "bad" for item in inputs):
                raise ValueError
            return [Out(text=item.text) for item in inputs]

    async with AsyncClient(app) as client:
        names = [*texts(10), "bad", *texts(5)]
        lines = [client.begin("POST", "/predict", json=body(name)) for name in names]
        for name, line in zip(names, lines, strict=True):
            answer = await line.answer()
            assert answer.status == (500 if name == "bad" else 200)


async def test_failed_pass_is_let_go_before_the_cache_is_emptied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import weakref

    from lifecycle_kit import use_backend

    class Tensor:
        pass

    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    left: list[int] = []

    class Watching(FakeDevice):
        def empty_cache(self, device: str) -> None:
            left.append(len(alive))

    use_backend(monkeypatch, Watching())
    app = Thalamus()

    @app.model(model_id="m", max_batch_size=4)
    class Model:
        def preprocess(self, inputs: list[In]) -> list[Any]:
            tensors = [Tensor() for _ in inputs]
            alive.update(tensors)
            self.kept = len(tensors)
            return tensors

        def predict(self, inputs: list[Any]) -> list[Out]:
            try:
                scratch = Tensor()
                alive.add(scratch)
                if len(inputs) > 2:
                    raise Memory
            except Memory as error:
                raise Memory("wrapped") from error
            return [Out(text="x") for _ in inputs]

    async with AsyncClient(app) as client:
        assert len(answers(await client.post("/predict", json=body(*texts(4))))) == 4
    assert left[0] == 0


async def test_fatal_error_latches_refuses_what_waits_and_ends_the_process(
    backend: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    monkeypatch.setattr("thalamus_lite.engine._end_process", lambda: ended.append(1))
    app = Thalamus()
    other_door, door = Door(), Door()
    calls: list[str] = []

    @app.model(model_id="m", default=True, max_batch_size=1)
    class Model:
        def predict(self, inputs: list[In]) -> list[Out]:
            calls.append(inputs[0].text)
            door.wait()
            raise Lost("an illegal memory access was encountered")

    @app.model(model_id="other")
    class Other:
        def predict(self, inputs: list[In]) -> list[Out]:
            other_door.wait()
            return [Out(text="fine") for _ in inputs]

    async with AsyncClient(app) as client:
        other = client.begin("POST", "/predict", json=body("x", model="other"))
        await other_door.reached()
        fatal = client.begin("POST", "/predict", json=body("fatal"))
        await door.reached()
        queued = client.begin("POST", "/predict", json=body("queued"))
        await until(lambda: runtime_of(app, "m@1.0.0").inflight == 2)
        door.open()
        assert (await fatal.answer()).json()["code"] == "model_error"
        answer = await queued.answer()
        assert (answer.status, answer.json()["code"]) == (503, "device_failed")
        ready = await client.get("/ready")
        assert (ready.status, ready.json()["ready"]) == (503, False)
        late = await client.post("/predict", json=body("late"))
        assert (late.status, late.json()["code"]) == (503, "device_failed")
        assert (await client.get("/capacity")).json()["accepting"] is False
        assert not ended
        other_door.open()
        assert answers(await other.answer()) == ["fine"]
        await until(lambda: ended)
        assert calls == ["fatal"]


async def test_fatal_error_in_a_merged_batch_stops_the_search_for_the_culprit(
    backend: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    monkeypatch.setattr("thalamus_lite.engine._end_process", lambda: ended.append(1))
    monkeypatch.setattr("thalamus_lite.engine.LAST_WORDS_S", 0.0)
    app = Thalamus()
    calls: list[int] = []

    @app.model(model_id="m", max_batch_size=8)
    class Model:
        def predict(self, inputs: list[In]) -> list[Out]:
            calls.append(len(inputs))
            raise ValueError if len(calls) == 1 else Lost

    async with AsyncClient(app) as client:
        lines = [client.begin("POST", "/predict", json=body(text)) for text in texts(8)]
        assert {(await line.answer()).status for line in lines} == {500}
        assert calls == [8, 4]
        await until(lambda: ended)


async def test_fatal_error_of_a_stream_counts_too(
    backend: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    from collections.abc import Iterator

    ended: list[int] = []
    monkeypatch.setattr("thalamus_lite.engine._end_process", lambda: ended.append(1))
    monkeypatch.setattr("thalamus_lite.engine.LAST_WORDS_S", 0.0)
    app = Thalamus()

    class Model:
        def predict(self, inputs: list[In]) -> Iterator[Out]:
            yield Out(text="x")
            raise Lost

    app.model(model_id="m")(Model)
    async with AsyncClient(app) as client:
        assert (await client.post("/predict", json=body("x"))).status == 500
        assert engine_of(app).service.failed_device
        await until(lambda: ended)
        await asyncio.sleep(0)


LOSING = """
from thalamus_lite.devices import torch_backend
from thalamus_lite.devices.streams import NoStreams

class Lost(RuntimeError):
    pass

class Fake(NoStreams):
    def is_fatal(self, error):
        return isinstance(error, Lost)

torch_backend.backend_for = lambda device: Fake()
app = Thalamus()

@app.model(model_id="m", default=True)
class Model:
    def predict(self, inputs: list[In]) -> list[Out]:
        if inputs[0].text == "fatal":
            raise Lost("an illegal memory access was encountered")
        return [Out(text=item.text) for item in inputs]

@app.model(model_id="slow")
class Slow:
    def load(self, weights, device):
        say("loaded")
    def predict(self, inputs: list[In]) -> list[Out]:
        say("running")
        time.sleep(0.3)
        return [Out(text="fine") for item in inputs]
    def unload(self):
        say("unloaded")
"""


def test_process_with_a_lost_device_answers_and_ends_with_a_failure(tmp_path: Path) -> None:
    with serving(tmp_path, LOSING) as server:
        server.wait_for("loaded")
        with Wire(server.port) as slow, Wire(server.port) as fatal, Wire(server.port) as probe:
            slow.predict("x", model="slow")
            server.wait_for("running")
            fatal.predict("fatal")
            assert fatal.read()[0] == 500
            assert probe.ask("GET", "/ready")[0] == 503
            assert slow.read()[0] == 200
        assert server.ended() == 70


def test_signal_after_a_lost_device_does_not_make_the_end_look_well(tmp_path: Path) -> None:
    with serving(tmp_path, LOSING) as server:
        server.wait_for("loaded")
        with Wire(server.port) as slow, Wire(server.port) as fatal:
            slow.predict("x", model="slow")
            server.wait_for("running")
            fatal.predict("fatal")
            assert fatal.read()[0] == 500
            server.kill(signal.SIGTERM)
            assert slow.read()[0] == 200
        assert server.ended() == 70
