"""Cycles of a model's life leave no thread, descriptor, task or object behind."""

import asyncio
import gc
import logging
import os
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lifecycle_kit import In, Out, answers, body, until

from thalamus_lite import FileWeight, Thalamus
from thalamus_lite.testing import AsyncClient

CYCLES = 200 if os.environ.get("THALAMUS_SOAK") == "1" else 20


class Census:
    """What there is of each, now."""

    def __init__(self) -> None:
        self.threads = threading.active_count()
        self.tasks = len(asyncio.all_tasks())
        self.descriptors = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Census) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return repr(vars(self))


def three_models(weight: Path, alive: "weakref.WeakSet[Any]") -> Thalamus:
    app = Thalamus()
    weights = {"w": FileWeight(path=weight)}

    class Counted:
        def __init__(self) -> None:
            alive.add(self)

        def load(self, weights: dict[str, Path], device: str) -> None:
            assert weights["w"].read_bytes() == b"w"

        def unload(self) -> None:
            pass

    @app.model(model_id="plain", weights=weights, lanes=3, max_batch_size=4)
    class Plain(Counted):
        def predict(self, inputs: list[In]) -> list[Out]:
            if inputs[0].text == "bad":
                raise ValueError
            return [Out(text=item.text) for item in inputs]

    @app.model(model_id="coroutine", weights=weights)
    class Coroutine(Counted):
        async def predict(self, inputs: list[In]) -> list[Out]:
            return [Out(text=item.text) for item in inputs]

    @app.model(model_id="stream", weights=weights)
    class Stream(Counted):
        def predict(self, inputs: list[In]) -> Iterator[Out]:
            for item in inputs:
                yield Out(text=item.text)

    return app


async def cycle(client: AsyncClient) -> None:
    for model in ("plain", "coroutine", "stream"):
        assert answers(await client.post("/predict", json=body("x", model=model))) == ["x"]
    assert (await client.post("/predict", json=body("bad", model="plain"))).status == 500
    await client.begin("POST", "/predict", json=body(*["x"] * 900, model="stream")).hang_up()
    for model in ("plain", "coroutine", "stream"):
        assert (await client.post(f"/models/{model}/unload")).json()["unloaded"] is True


@pytest.fixture(autouse=True)
def _no_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log records that pytest keeps hold errors, and these their frames."""
    monkeypatch.setattr(logging.getLogger("thalamus_lite"), "disabled", True)


async def test_cycles_of_load_and_unload_leave_nothing_behind(tmp_path: Path) -> None:
    weight = tmp_path / "w"
    weight.write_bytes(b"w")
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    async with AsyncClient(three_models(weight, alive)) as client:
        await cycle(client)
        await until(lambda: not alive)
        before = Census()
        for _ in range(CYCLES):
            await cycle(client)
        gc.collect()
        # Lanes end by themselves, a moment after they are told to.
        await until(lambda: Census() == before and not alive, f"{before}")


async def test_cycles_of_start_and_shutdown_leave_nothing_behind(tmp_path: Path) -> None:
    weight = tmp_path / "w"
    weight.write_bytes(b"w")
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    app = three_models(weight, alive)
    async with AsyncClient(app) as client:
        await cycle(client)
    before = Census()
    for _ in range(CYCLES):
        async with AsyncClient(app) as client:
            assert len(alive) == 3
            assert answers(await client.post("/predict", json=body("x", model="plain"))) == ["x"]
    gc.collect()
    await until(lambda: Census() == before and not alive, f"{before}")
