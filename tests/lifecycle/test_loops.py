"""Starts without a lifespan, under other loops, again after a shutdown, and inside another app."""

import asyncio
import contextlib
import logging
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from lifecycle_kit import (
    KEY,
    PATIENCE_S,
    Door,
    In,
    Out,
    answers,
    body,
    engine_of,
    lanes_alive,
    until,
)
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from thalamus_lite import Thalamus, starts
from thalamus_lite.serving import backoff, drain
from thalamus_lite.testing import AsyncClient, Client

HEADERS = {"X-API-Key": KEY}


class Counting:
    """An app that counts what its model goes through."""

    def __init__(self, **options: Any) -> None:
        self.app = Thalamus(**options)
        self.loads = self.unloads = 0
        self.fail = False
        self.door = Door()
        self.door.open()
        self.way_out = Door()
        self.way_out.open()
        script = self

        @self.app.model(model_id="m", max_batch_size=4)
        class Model:
            def load(self, weights: dict[str, Path], device: str) -> None:
                script.loads += 1
                script.door.wait()
                if script.fail:
                    raise RuntimeError("not today")

            def predict(self, inputs: list[In]) -> list[Out]:
                if inputs[0].text == "wait":
                    script.door.wait()
                return [Out(text=item.text) for item in inputs]

            def unload(self) -> None:
                script.way_out.wait()
                script.unloads += 1


def test_same_object_starts_again_after_its_shutdown() -> None:
    counting = Counting()
    for times in (1, 2, 3):
        with Client(counting.app) as client:
            assert answers(client.post("/predict", json=body("x"))) == ["x"]
        assert (counting.loads, counting.unloads) == (times, times)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """What a server hears that waits for ever for a client that does not read."""
    monkeypatch.setenv("THALAMUS_DRAIN_S", "0")
    monkeypatch.setattr(drain, "CUT_OFF_AFTER_S", 0.01)
    monkeypatch.setattr(drain, "FORCE_AFTER_S", 0.01)
    numbers: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _frame: numbers.append(number))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    yield numbers
    for number, handler in before.items():
        signal.signal(number, handler)


def test_same_object_starts_again_after_its_server_was_told_to_end_at_once(
    told: list[int],
) -> None:
    counting = Counting()

    async def serve() -> None:
        # A server that is told so sends no lifespan.shutdown.
        await counting.app._starts.begin()
        signal.raise_signal(signal.SIGTERM)
        await until(lambda: told == [signal.SIGTERM, signal.SIGINT])
        assert counting.unloads == 1

    async def serve_again() -> None:
        async with asyncio.timeout(PATIENCE_S), AsyncClient(counting.app) as client:
            assert answers(await client.post("/predict", json=body("x"))) == ["x"]

    asyncio.run(serve())
    asyncio.run(serve_again())
    assert (counting.loads, counting.unloads) == (2, 2)


async def test_end_of_a_lifespan_waits_for_the_end_that_is_under_way(told: list[int]) -> None:
    counting = Counting()
    await counting.app._starts.begin()
    counting.way_out.shut()
    signal.raise_signal(signal.SIGTERM)
    await counting.way_out.reached()
    # The client has left after all.
    ending = asyncio.ensure_future(counting.app._starts.end())
    await asyncio.sleep(0.03)
    assert not ending.done()
    counting.way_out.open()
    await ending
    assert counting.unloads == 1
    assert not lanes_alive("m")


async def test_unload_that_takes_its_time_is_not_taken_for_clients_that_do_not_read(
    told: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    counting = Counting()
    await counting.app._starts.begin()
    counting.way_out.shut()
    signal.raise_signal(signal.SIGTERM)
    ending = asyncio.ensure_future(counting.app._starts.end())
    await counting.way_out.reached()
    await asyncio.sleep(0.05)
    counting.way_out.open()
    await ending
    assert told == [signal.SIGTERM]
    assert "keep the server up" not in caplog.text


async def test_second_start_on_the_same_loop_is_the_first_one() -> None:
    counting = Counting()
    async with AsyncClient(counting.app), counting.app.lifespan():
        assert counting.loads == 1
    assert counting.unloads == 1


def test_one_loop_a_request_keeps_the_model_loaded() -> None:
    counting = Counting()
    client = TestClient(counting.app, headers=HEADERS)
    try:
        for text in "abc":
            answer = client.post("/predict", json=body(text))
            assert answer.json()["outputs"] == [{"text": text}]
        assert counting.loads == 1
        # Waits that belong to a loop must not outlive it.
        for times in (1, 2):
            assert client.post("/models/m/unload").json()["unloaded"] is True
            assert counting.unloads == times
            assert client.post("/predict", json=body("x")).status_code == 200
    finally:
        with TestClient(counting.app):
            # A lifespan puts the stale engine away in order, and starts anew.
            assert counting.unloads == 3
            assert counting.loads == 4
    assert counting.unloads == 4
    assert counting.app._starts.engine is None


async def test_stream_and_lazy_load_work_under_a_loop_a_request() -> None:
    app = Thalamus(load="lazy")

    @app.model(model_id="m")
    class Model:
        async def predict(self, inputs: list[In]) -> AsyncIterator[Out]:
            for item in inputs:
                yield Out(text=item.text)

    def rounds() -> None:
        client = TestClient(app, headers=HEADERS)
        for text in "ab":
            answer = client.post("/predict", json=body(text))
            assert answer.json()["outputs"] == [{"text": text}]
        with TestClient(app):
            pass

    await asyncio.to_thread(rounds)


def cut_off(counting: Counting) -> None:
    """Leave a request under way behind, in a loop that is closed."""

    async def start() -> None:
        client = AsyncClient(counting.app, lifespan=False)
        async with client:
            assert (await client.post("/predict", json=body("x"))).status == 200
            counting.door.shut()
            client.begin("POST", "/predict", json=body("wait"))
            await until(lambda: engine_of(counting.app).service.inflight)
            engine = engine_of(counting.app)
            group = next(iter(engine.service.runtimes.values())).group
            assert group is not None
            await until(lambda: group.running)

    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(start())
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


def test_engine_whose_work_was_cut_off_is_put_away_and_another_one_made() -> None:
    counting = Counting()
    cut_off(counting)
    before = lanes_alive("m")
    assert before
    counting.door.open()
    client = TestClient(counting.app, headers=HEADERS)
    assert client.post("/predict", json=body("y")).json()["outputs"] == [{"text": "y"}]
    assert counting.loads in (1, 2)
    with TestClient(counting.app, headers=HEADERS) as client:
        assert client.post("/predict", json=body("z")).status_code == 200
    for lane in before:
        lane.join(30)
        assert not lane.is_alive()


async def test_first_requests_start_the_app_once_and_all_wait_for_it() -> None:
    counting = Counting()
    counting.door.shut()
    async with AsyncClient(counting.app, lifespan=False) as client:
        lines = [client.begin("POST", "/predict", json=body(str(n))) for n in range(5)]
        await counting.door.reached()
        # Whoever leaves does not take the start along.
        leaver = asyncio.ensure_future(lines.pop(0).hang_up())
        counting.door.open()
        await leaver
        assert [answers(await line.answer()) for line in lines] == [["1"], ["2"], ["3"], ["4"]]
        assert counting.loads == 1
        await counting.app._starts.end()


async def test_start_at_a_request_that_fails_is_a_503_and_a_later_one_tries_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "FIRST_S", 3600.0)
    monkeypatch.setattr(backoff, "LONGEST_S", 3600.0)
    counting = Counting()
    counting.fail = True
    async with AsyncClient(counting.app, lifespan=False) as client:
        with caplog.at_level(logging.ERROR):
            answer = await client.post("/predict", json=body("x"))
        assert (answer.status, answer.json()["code"]) == (503, "startup_failed")
        assert "not today" not in answer.text
        # Not for every request that comes: not before the back-off is over.
        again = await client.get("/health")
        assert (again.status, again.headers["retry-after"]) == (503, "3600")
        assert counting.loads == 1
        assert caplog.text.count("the app failed to start") == 1
        counting.app._starts._backoff.succeeded()
        counting.fail = False
        assert answers(await client.post("/predict", json=body("x"))) == ["x"]
        assert counting.loads == 2
        await counting.app._starts.end()


async def test_bad_environment_at_a_first_request_is_a_503(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backoff, "FIRST_S", 0.0)
    counting = Counting()
    monkeypatch.setenv("THALAMUS_DRAIN_S", "soon")
    async with AsyncClient(counting.app, lifespan=False) as client:
        assert (await client.get("/health")).status == 503
        monkeypatch.delenv("THALAMUS_DRAIN_S")
        assert (await client.get("/health")).status == 200
        await counting.app._starts.end()


async def test_running_loop_serves_the_requests_of_another_one_too() -> None:
    counting = Counting()
    async with AsyncClient(counting.app):

        def elsewhere() -> None:
            async def ask() -> None:
                async with AsyncClient(counting.app, lifespan=False) as client:
                    assert answers(await client.post("/predict", json=body("x"))) == ["x"]
                    refused = await client.post("/predict", json={"inputs": []})
                    assert refused.status == 422
                async with counting.app.lifespan(), AsyncClient(counting.app) as client:
                    assert (await client.get("/ready")).status == 200

            asyncio.run(ask())

        await asyncio.to_thread(elsewhere)
        assert counting.loads == 1
        assert counting.unloads == 0
    assert counting.unloads == 1


def test_clients_inside_one_another_share_the_app() -> None:
    counting = Counting()
    with TestClient(counting.app, headers=HEADERS) as outer:
        assert TestClient(counting.app).get("/health").status_code == 200
        with TestClient(counting.app, headers=HEADERS) as inner:
            assert inner.post("/predict", json=body("x")).status_code == 200
        assert outer.post("/predict", json=body("x")).status_code == 200
        assert (counting.loads, counting.unloads) == (1, 0)
    assert counting.unloads == 1


async def test_loop_that_is_blocked_by_the_one_who_asks_is_no_deadlock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(starts, "LOOP_PATIENCE_S", 0.05)
    counting = Counting()
    async with AsyncClient(counting.app):
        answer = TestClient(counting.app, headers=HEADERS).get("/health")
        assert (answer.status_code, answer.json()["code"]) == (503, "startup_failed")


def test_first_requests_of_several_threads_start_the_app_once() -> None:
    counting = Counting()
    counting.door.shut()
    statuses: list[int] = []

    def ask() -> None:
        client = TestClient(counting.app, headers=HEADERS)
        statuses.append(client.post("/predict", json=body("x")).status_code)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    counting.door.open()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 4
    assert counting.loads == 1
    with TestClient(counting.app):
        pass
    for lane in lanes_alive("m"):
        lane.join(30)
        assert not lane.is_alive()


def test_loop_that_stands_still_gives_the_app_away() -> None:
    counting = Counting()
    still = asyncio.new_event_loop()

    async def ask() -> None:
        async with AsyncClient(counting.app, lifespan=False) as client:
            assert answers(await client.post("/predict", json=body("x"))) == ["x"]

    try:
        still.run_until_complete(ask())
        asyncio.run(ask())
        still.run_until_complete(ask())
        assert counting.loads == 1
        still.run_until_complete(counting.app._starts.end())
    finally:
        still.close()
    assert counting.unloads == 1


def test_end_that_stands_still_with_its_loop_keeps_nobody_from_starting() -> None:
    counting = Counting()
    still = asyncio.new_event_loop()

    async def end_in_part() -> asyncio.Task[None]:
        await counting.app._starts.begin()
        counting.way_out.shut()
        ending = asyncio.create_task(counting.app._starts.end())
        await counting.way_out.reached()
        return ending

    async def serve_again() -> None:
        async with asyncio.timeout(PATIENCE_S), AsyncClient(counting.app) as client:
            assert answers(await client.post("/predict", json=body("x"))) == ["x"]

    try:
        ending = still.run_until_complete(end_in_part())
        assert not ending.done()
        counting.way_out.open()
        asyncio.run(serve_again())
    finally:
        for task in asyncio.all_tasks(still):
            task.cancel()
        still.run_until_complete(asyncio.sleep(0.01))
        still.close()
    for lane in lanes_alive("m"):
        lane.join(PATIENCE_S)
    assert (counting.loads, counting.unloads) == (2, 2)


async def test_request_while_the_app_goes_down_is_told_so_and_starts_nothing() -> None:
    counting = Counting()
    async with AsyncClient(counting.app, lifespan=False) as client, counting.app.lifespan():
        counting.door.shut()
        running = client.begin("POST", "/predict", json=body("wait"))
        await until(lambda: engine_of(counting.app).service.inflight)
        ending = asyncio.ensure_future(counting.app._starts.end())
        await until(lambda: engine_of(counting.app).stopping)
        assert (await client.get("/ready")).status == 503
        late = await client.post("/predict", json=body("x"))
        assert (late.status, late.json()["code"]) == (503, "draining")
        counting.door.open()
        assert answers(await running.answer()) == ["wait"]
        await ending
    assert (counting.loads, counting.unloads) == (1, 1)
    assert counting.app._starts.engine is None


def test_lifespan_composes_with_a_parents() -> None:
    counting = Counting()
    parent = Starlette(routes=[Mount("/ml", counting.app)], lifespan=counting.app.lifespan)
    with TestClient(parent, headers=HEADERS) as client:
        assert counting.loads == 1
        assert client.post("/ml/predict", json=body("x")).json()["outputs"] == [{"text": "x"}]
    assert counting.unloads == 1


def test_mounted_app_whose_lifespan_is_never_called_starts_at_its_first_request() -> None:
    counting = Counting()
    parent = Starlette(routes=[Mount("/ml", counting.app)])
    with TestClient(parent, headers=HEADERS) as client:
        assert counting.loads == 0
        for _ in range(2):
            assert client.get("/ml/ready").status_code == 200
        assert counting.loads == 1
    with TestClient(counting.app):
        pass
    assert counting.loads == counting.unloads == 2


async def test_lifespan_that_is_cancelled_while_it_starts_leaves_nothing_behind() -> None:
    counting = Counting()
    counting.door.shut()
    task = asyncio.ensure_future(counting.app.lifespan().__aenter__())
    await counting.door.reached()
    task.cancel()
    counting.door.open()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert counting.app._starts.engine is None
    await until(lambda: not lanes_alive("m"))
    async with counting.app.lifespan():
        assert engine_of(counting.app).service.open


@pytest.mark.parametrize("other", ["lifespan", "request"])
async def test_lifespan_that_is_cancelled_leaves_its_start_to_others_who_wait_for_it(
    other: str,
) -> None:
    counting = Counting()
    counting.door.shut()
    begin = counting.app._starts.begin
    async with AsyncClient(counting.app, lifespan=False) as client:
        cancelled = asyncio.ensure_future(begin())
        await counting.door.reached()
        asks = client.get("/health") if other == "request" else begin()
        waits: asyncio.Future[Any] = asyncio.ensure_future(asks)
        await asyncio.sleep(0.01)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        counting.door.open()
        await waits
        assert (await client.get("/ready")).status == 200
        await counting.app._starts.end()
    assert (counting.loads, counting.unloads) == (1, 1)


async def test_start_under_way_at_the_end_of_a_lifespan_ends_with_it() -> None:
    counting = Counting()
    counting.door.shut()
    async with AsyncClient(counting.app, lifespan=False) as client:
        line = client.begin("GET", "/health")
        await counting.door.reached()
        ending = asyncio.ensure_future(counting.app._starts.end())
        counting.door.open()
        await ending
        with contextlib.suppress(asyncio.CancelledError):
            await line.answer()
    assert counting.app._starts.engine is None
    await until(lambda: not lanes_alive("m"))


async def test_model_registered_after_the_start_is_loaded_on_demand() -> None:
    counting = Counting()
    async with AsyncClient(counting.app) as client:

        @counting.app.model(model_id="late", critical=False)
        class Late:
            def predict(self, inputs: list[In]) -> list[Out]:
                return [Out(text="late") for _ in inputs]

        assert answers(await client.post("/predict", json=body("x", model="late"))) == ["late"]


async def test_scopes_other_than_http_and_lifespan_are_refused() -> None:
    sent: list[Any] = []

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    app: Any = Thalamus()
    await app({"type": "websocket"}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1000}]
    with pytest.raises(NotImplementedError, match="'mqtt'"):
        await app({"type": "mqtt"}, receive, send)


@pytest.mark.parametrize("mode", ["eager", 5])
def test_unknown_load_mode_is_refused(mode: Any) -> None:
    with pytest.raises(ValueError, match="startup, background, lazy"):
        Thalamus(load=mode)
