"""How an instance ends: unloaded, if it was loaded, and dropped in its lane, not on the loop."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from lifecycle_kit import (
    Door,
    FakeDevice,
    In,
    Out,
    body,
    engine_of,
    lanes_alive,
    state_of,
    until,
    use_backend,
)

from thalamus_lite import Thalamus
from thalamus_lite.testing import AsyncClient

LANE = "m@1.0.0/0.0"


@pytest.fixture(autouse=True)
def _no_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that pytest keeps hold the errors, and these what is in their frames."""
    monkeypatch.setattr(logging.getLogger("thalamus_lite"), "disabled", True)


class Engine:
    """Something that takes its time to close; ``said`` is told in which thread."""

    def __init__(self, said: list[str]) -> None:
        self._said = said

    def __del__(self) -> None:
        self._said.append(threading.current_thread().name)


class Recorder:
    """A model that tells its calls, and fails at ``step``."""

    said: list[str]
    ended: list[str]
    step = ""

    def __init__(self) -> None:
        self.engine = Engine(self.ended)
        self.fail("constructor")

    def fail(self, step: str) -> None:
        if self.step == step:
            raise ValueError(step)

    def load(self, weights: dict[str, Path], device: str) -> None:
        self.fail("load")
        self.said.append("load")

    def unload(self) -> None:
        self.said.append(f"unload in {threading.current_thread().name}")
        self.fail("unload")


class InLane(Recorder):
    def predict(self, inputs: list[In]) -> list[Out]:
        self.fail("warm-up")
        if self.step == "output":
            return [None for _ in inputs]  # type: ignore[misc]
        return [Out(text=f"{len(inputs) if self.step == 'parity' else 1}") for _ in inputs]


class OnLoop(Recorder):
    async def predict(self, inputs: list[In]) -> list[Out]:
        self.fail("warm-up")
        return [Out(text="1") for _ in inputs]


class Stream(Recorder):
    def preprocess(self, inputs: list[In]) -> list[In]:
        self.fail("preprocess")
        return inputs

    def predict(self, inputs: list[In]) -> Iterator[Out]:
        self.fail("warm-up")
        yield Out(text="1")


class LoopStream(Recorder):
    async def predict(self, inputs: list[In]) -> AsyncIterator[Out]:
        self.fail("warm-up")
        yield Out(text="1")

    def postprocess(self, outputs: list[Out]) -> list[Out]:
        self.fail("postprocess")
        return outputs


def recorded(app: Thalamus, kind: type[Recorder], step: str, **options: Any) -> type[Recorder]:
    """``kind``, registered."""
    model: type[Recorder] = type("Model", (kind,), {"said": [], "ended": [], "step": step})
    options = {"examples": [{"text": "a"}, {"text": "b"}], **options}
    app.model(model_id="m", input_type=In, output_type=Out, **options)(model)
    return model


@pytest.mark.parametrize(
    ("kind", "step"),
    [
        (InLane, "constructor"),
        (InLane, "load"),
        (InLane, "warm-up"),
        (InLane, "output"),
        (InLane, "parity"),
        (OnLoop, "warm-up"),
        (Stream, "preprocess"),
        (Stream, "warm-up"),
        (LoopStream, "warm-up"),
        (LoopStream, "postprocess"),
    ],
)
async def test_failed_load_ends_in_its_lane_with_unload_where_load_was_done(
    kind: type[Recorder], step: str
) -> None:
    app = Thalamus()
    model = recorded(app, kind, step, critical=False)
    async with AsyncClient(app):
        assert state_of(app, "m@1.0.0") == "failed"
        loaded = step not in ("constructor", "load")
        assert model.said == (["load", f"unload in {LANE}"] if loaded else [])
        assert model.ended == [LANE]
        await until(lambda: not lanes_alive("m"))


@pytest.mark.parametrize("step", ["", "unload"])
@pytest.mark.parametrize("kind", [InLane, OnLoop, Stream, LoopStream])
async def test_unloaded_instance_ends_in_its_lane(kind: type[Recorder], step: str) -> None:
    app = Thalamus()
    model = recorded(app, kind, step, lanes=2)
    async with AsyncClient(app) as client:
        assert (await client.post("/predict", json=body("x"))).status == 200
        assert (await client.post("/models/m/unload")).json()["unloaded"] is True
        assert model.said == ["load", f"unload in {LANE}"]
        assert model.ended == [LANE]


async def test_instance_in_a_ring_ends_in_its_lane() -> None:
    app = Thalamus()

    class Ring(InLane):
        def load(self, weights: dict[str, Path], device: str) -> None:
            self.ring = self

    model = recorded(app, Ring, "")
    async with AsyncClient(app) as client:
        assert (await client.post("/models/m/unload")).json()["unloaded"] is True
        assert model.ended == [LANE]


async def test_probes_answer_while_an_instance_closes_what_it_holds() -> None:
    app, door = Thalamus(), Door()

    class Slow:
        def __del__(self) -> None:
            door.wait()

    class Model(InLane):
        def load(self, weights: dict[str, Path], device: str) -> None:
            self.slow = Slow()

    recorded(app, Model, "")
    async with AsyncClient(app) as client:
        unload = client.begin("POST", "/models/m/unload")
        await door.reached()
        for path in ("/health", "/status"):
            assert (await client.get(path)).status == 200
        assert state_of(app, "m@1.0.0") == "draining"
        door.open()
        assert (await unload.answer()).status == 200


async def test_replica_whose_sibling_fails_to_load_is_unloaded_when_its_own_load_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from thalamus_lite.devices.device import Device

    gpus = (Device("cuda", 0), Device("cuda", 1))
    monkeypatch.setattr("thalamus_lite.devices.torch_backend.list_devices", lambda: gpus)
    monkeypatch.setattr(
        "thalamus_lite.devices.torch_backend.memory_probe", lambda _device: (1 << 30, 1 << 30)
    )
    use_backend(monkeypatch, FakeDevice())
    app, door, failed = Thalamus(), Door(), threading.Event()

    class Model(InLane):
        def load(self, weights: dict[str, Path], device: str) -> None:
            if device == "cuda:1":
                failed.set()
                raise ValueError
            door.wait()
            self.said.append(device)

    model = recorded(app, Model, "", critical=False, device="cuda", replicas=2)
    start = asyncio.ensure_future(AsyncClient(app).__aenter__())
    await door.reached()
    assert await asyncio.to_thread(failed.wait, 10)
    assert model.said == []
    door.open()
    client = await start
    try:
        assert model.said == ["cuda:0", f"unload in {LANE}"]
        assert sorted(model.ended) == [LANE, "m@1.0.0/1.0"]
    finally:
        await client.__aexit__(None, None, None)


@pytest.mark.parametrize("place", ["load", "warm-up"])
async def test_shutdown_in_the_middle_of_a_load_unloads_what_was_loaded(place: str) -> None:
    app, door = Thalamus(load="background"), Door()

    class Model(InLane):
        def load(self, weights: dict[str, Path], device: str) -> None:
            if place == "load":
                door.wait()
            super().load(weights, device)

        def predict(self, inputs: list[In]) -> list[Out]:
            door.wait()
            return super().predict(inputs)

    model = recorded(app, Model, "")
    async with AsyncClient(app):
        await door.reached()
        engine = engine_of(app)
        asyncio.get_running_loop().call_later(0.05, door.open)
    assert engine.service.draining
    assert model.said == ["load", f"unload in {LANE}"]
    assert model.ended == [LANE]


async def test_shutdown_does_not_wait_for_an_unload_that_hangs_after_a_load(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("thalamus_lite.engine.SHUTDOWN_PATIENCE_S", 0.05)
    monkeypatch.setattr("thalamus_lite.serving.transition.CANCEL_PATIENCE_S", 0.05)
    app, warm, hung = Thalamus(load="background"), Door(), Door()

    class Model(InLane):
        def predict(self, inputs: list[In]) -> list[Out]:
            warm.wait()
            return super().predict(inputs)

        def unload(self) -> None:
            hung.wait()

    model = recorded(app, Model, "")
    async with AsyncClient(app):
        await warm.reached()
    assert model.said == ["load"]
    warm.open()
    await hung.reached()
    assert model.ended == []
    hung.open()
    await until(lambda: model.ended)
    assert model.ended == [LANE]
