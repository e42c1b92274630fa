"""Requests in the queue: those who leave, who are late, that are split, that are merged."""

import asyncio
import functools
from collections.abc import Iterator
from typing import Any

import pytest
from lifecycle_kit import Door, In, Out, answers, body, counted, engine_of, runtime_of, until

from thalamus_lite import Thalamus
from thalamus_lite.testing import AsyncClient


class Doored:
    """A batching model whose call with the text ``first`` waits at a door."""

    def __init__(self, **options: Any) -> None:
        self.app = Thalamus()
        self.door = Door()
        self.calls: list[list[str]] = []
        script = self

        @self.app.model(model_id="m", **{"max_batch_size": 4, **options})
        class Model:
            def predict(self, inputs: list[In]) -> list[Out]:
                texts = [item.text for item in inputs]
                script.calls.append(texts)
                if "first" in texts:
                    script.door.wait()
                return [Out(text=text) for text in texts]

    @property
    def ran(self) -> list[str]:
        return [text for call in self.calls for text in call]

    async def depth(self, depth: int) -> None:
        group = runtime_of(self.app, "m@1.0.0").group
        assert group is not None
        await until(lambda: group.queue.depth == depth)


async def test_queued_requests_of_gone_clients_never_reach_predict_and_mates_are_intact() -> None:
    model = Doored()
    async with AsyncClient(model.app) as client:
        first = client.begin("POST", "/predict", json=body("first"))
        await model.door.reached()
        lines = {n: client.begin("POST", "/predict", json=body(f"{n}")) for n in range(8)}
        await model.depth(8)
        for number in (1, 2, 5, 7):
            await lines.pop(number).hang_up()
        await model.depth(4)
        model.door.open()
        assert answers(await first.answer()) == ["first"]
        for number, line in lines.items():
            assert answers(await line.answer()) == [str(number)]
        assert sorted(model.ran) == ["0", "3", "4", "6", "first"]
        assert await counted(client, "thalamus_requests_total", model="m", status="cancelled") == 4
        assert await counted(client, "thalamus_inflight_requests") == 0


async def test_client_that_leaves_during_its_batch_harms_nobody_in_it() -> None:
    model = Doored()
    async with AsyncClient(model.app) as client:
        lines = [client.begin("POST", "/predict", json=body(text)) for text in ("first", "b", "c")]
        await model.door.reached()
        assert model.calls == [["first", "b", "c"]]
        leaving = asyncio.ensure_future(lines[0].hang_up())
        model.door.open()
        await leaving
        assert [answers(await line.answer()) for line in lines[1:]] == [["b"], ["c"]]
        assert len(model.calls) == 1


async def test_expired_request_never_reaches_predict() -> None:
    model = Doored()
    async with AsyncClient(model.app) as client:
        first = client.begin("POST", "/predict", json=body("first"))
        await model.door.reached()
        late = await client.post("/predict", json=body("late"), headers={"X-Timeout-Ms": "20"})
        assert (late.status, late.json()["code"]) == (504, "deadline_exceeded")
        model.door.open()
        assert answers(await first.answer()) == ["first"]
        assert answers(await client.post("/predict", json=body("x"))) == ["x"]
        assert model.ran == ["first", "x"]
        assert await counted(client, "thalamus_requests_total", model="m", status="expired") == 1


async def test_running_request_is_answered_at_its_deadline_and_its_mates_later() -> None:
    model = Doored()
    async with AsyncClient(model.app) as client:
        timed = {"X-Timeout-Ms": "50"}
        first = client.begin("POST", "/predict", json=body("first"), headers=timed)
        mate = client.begin("POST", "/predict", json=body("mate"))
        assert (await first.answer()).status == 504
        assert model.calls == [["first", "mate"]]
        model.door.open()
        assert answers(await mate.answer()) == ["mate"]


@pytest.mark.parametrize(("own", "asked"), [(0.03, 30_000), (30.0, 30)])
async def test_lesser_of_the_models_and_the_requests_time_counts(own: float, asked: int) -> None:
    model = Doored(timeout_s=own)
    async with AsyncClient(model.app) as client:
        answer = await client.post(
            "/predict", json=body("first"), headers={"X-Timeout-Ms": str(asked)}
        )
        assert (answer.status, answer.json()["code"]) == (504, "deadline_exceeded")
        model.door.open()


async def test_long_request_is_split_and_rejoined_in_order() -> None:
    model = Doored()
    async with AsyncClient(model.app) as client:
        texts = [str(n) for n in range(11)]
        answer = await client.post("/predict", json=body(*texts))
        assert answers(answer) == texts
        assert [len(call) for call in model.calls] == [4, 4, 3]
        assert answer.json()["meta"]["batch_size"] == 11
        assert 'batch;desc="4"' in answer.headers["server-timing"]


async def test_long_request_that_expires_runs_no_more_of_its_parts() -> None:
    model = Doored()
    async with AsyncClient(model.app) as client:
        texts = ["first", *(str(n) for n in range(11))]
        answer = await client.post("/predict", json=body(*texts), headers={"X-Timeout-Ms": "100"})
        assert answer.status == 504
        model.door.open()
        assert answers(await client.post("/predict", json=body("x"))) == ["x"]
        assert [call[0] for call in model.calls] == ["first", "x"]


async def test_long_request_that_fails_in_one_part_fails_as_one() -> None:
    app = Thalamus()
    calls: list[list[str]] = []

    @app.model(model_id="m", max_batch_size=2)
    class Model:
        def predict(self, inputs: list[In]) -> list[Out]:
            calls.append([item.text for item in inputs])
            if "bad" in calls[-1]:
                raise ValueError
            return [Out(text=item.text) for item in inputs]

    async with AsyncClient(app) as client:
        answer = await client.post("/predict", json=body("a", "b", "c", "bad", "e", "f"))
        assert (answer.status, answer.json()["code"]) == (500, "model_error")
        assert calls == [["a", "b"], ["c", "bad"]]
        assert engine_of(app).service.inflight == 0


async def test_parts_of_one_request_run_at_once_on_several_lanes() -> None:
    model = Doored(lanes=2, max_batch_size=2)
    async with AsyncClient(model.app) as client:
        line = client.begin("POST", "/predict", json=body("first", "b", "c", "d"))
        await model.door.reached()
        await until(lambda: ["c", "d"] in model.calls)
        model.door.open()
        assert answers(await line.answer()) == ["first", "b", "c", "d"]


async def test_full_queue_answers_429_and_says_when() -> None:
    model = Doored(max_queue_size=2, max_batch_size=1)
    async with AsyncClient(model.app) as client:
        first = client.begin("POST", "/predict", json=body("first"))
        await model.door.reached()
        lines = [client.begin("POST", "/predict", json=body(text)) for text in "ab"]
        await model.depth(2)
        answer = await client.post("/predict", json=body("c"))
        assert (answer.status, answer.json()["code"]) == (429, "queue_full")
        assert int(answer.headers["retry-after"]) >= 1
        model.door.open()
        assert answers(await first.answer()) == ["first"]
        assert [answers(await line.answer()) for line in lines] == [["a"], ["b"]]


async def test_undeclared_batch_size_means_one_request_a_call_whatever_its_length() -> None:
    app = Thalamus()
    calls: list[int] = []

    @app.model(model_id="m", max_concurrent_requests=2)
    class Model:
        def predict(self, inputs: list[In]) -> list[Out]:
            calls.append(len(inputs))
            return [Out(text=item.text) for item in inputs]

    async with AsyncClient(app) as client:
        lines = [client.begin("POST", "/predict", json=body(*["x"] * n)) for n in (1, 70, 3)]
        assert [len(answers(await line.answer())) for line in lines] == [1, 70, 3]
        assert sorted(calls) == [1, 3, 70]
        group = runtime_of(app, "m@1.0.0").group
        assert group is not None
        assert len(group.lanes) == 2


async def test_sync_hooks_of_a_coroutine_model_run_in_its_lane() -> None:
    import threading

    app = Thalamus()
    threads: list[str] = []

    @app.model(model_id="m")
    class Model:
        def preprocess(self, inputs: list[In]) -> list[str]:
            threads.append(threading.current_thread().name)
            return [item.text for item in inputs]

        async def predict(self, inputs: list[str]) -> list[str]:
            threads.append(threading.current_thread().name)
            return inputs

        def postprocess(self, outputs: list[str]) -> list[Out]:
            threads.append(threading.current_thread().name)
            return [Out(text=text) for text in outputs]

    async with AsyncClient(app) as client:
        answer = await client.post("/predict", json=body("x"))
        assert answers(answer) == ["x"]
        assert threads == ["m@1.0.0/0.0", "MainThread", "m@1.0.0/0.0"]
        meta = answer.json()["meta"]
        assert meta["preprocessing_ms"] is not None
        assert meta["postprocessing_ms"] is not None


async def test_decorated_predict_runs_where_its_decorators_can_be_called() -> None:
    def passed_on(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*arguments: Any) -> Any:
            return function(*arguments)

        return wrapper

    def run(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*arguments: Any) -> Any:
            return asyncio.run(function(*arguments))

        return wrapper

    def listed(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*arguments: Any) -> Any:
            return list(function(*arguments))

        return wrapper

    def off_loop(function: Any) -> Any:
        @functools.wraps(function)
        async def wrapper(*arguments: Any) -> Any:
            return await asyncio.to_thread(function, *arguments)

        return wrapper

    async def awaits(self: Any, inputs: list[In]) -> list[Out]:
        await asyncio.sleep(0)
        loops.append(asyncio.get_running_loop())
        return [Out(text=item.text) for item in inputs]

    def yields(self: Any, inputs: list[In]) -> Iterator[Out]:
        for item in inputs:
            yield Out(text=item.text)

    def returns(self: Any, inputs: list[In]) -> list[Out]:
        return [Out(text=item.text) for item in inputs]

    loops: list[asyncio.AbstractEventLoop] = []
    app = Thalamus()
    models = {
        "passed_on": passed_on(awaits),
        "run": run(awaits),
        "listed": listed(yields),
        "passed_on_stream": passed_on(yields),
        "off_loop": off_loop(returns),
        "both": passed_on(off_loop(returns)),
    }
    for model_id, predict in models.items():
        app.model(model_id=model_id, max_batch_size=4)(type("Model", (), {"predict": predict}))
    async with AsyncClient(app) as client:
        for model_id in models:
            answer = await client.post("/predict", json=body("a", "b", model=model_id))
            assert answers(answer) == ["a", "b"], model_id
    assert [loop is asyncio.get_running_loop() for loop in loops] == [True, False]
