"""Models that yield: order, bounds, deadlines, errors, and how a stream ends."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from lifecycle_kit import (
    Door,
    In,
    Line,
    Out,
    answers,
    body,
    counted,
    engine_of,
    runtime_of,
    state_of,
    until,
)

from thalamus_lite import Thalamus
from thalamus_lite.batching.channel import LIMIT
from thalamus_lite.errors import Draining
from thalamus_lite.testing import AsyncClient

SSE = {"Accept": "text/event-stream"}
KINDS = ["lane", "loop"]


class Stream:
    """What a streaming model does here: ``n`` outputs, a door or an error before one of them."""

    def __init__(self, kind: str, **options: Any) -> None:
        self.app = Thalamus()
        self.made = 0
        self.closed: list[str] = []
        self.door = door = Door()
        self.gate: asyncio.Event | None = None
        script = self

        class InLane:
            def predict(self, inputs: list[In]) -> Iterator[Out]:
                count, _, event = inputs[0].text.partition(" ")
                try:
                    for number in range(int(count)):
                        script.made += 1
                        yield Out(text=str(number))
                    if event == "waits":
                        door.wait()
                    elif event:
                        raise ValueError("a secret of the model")
                except GeneratorExit:
                    script.closed.append("GeneratorExit")
                    raise
                finally:
                    script.closed.append("finally")

        class OnLoop:
            async def predict(self, inputs: list[In]) -> AsyncIterator[Out]:
                count, _, event = inputs[0].text.partition(" ")
                try:
                    for number in range(int(count)):
                        script.made += 1
                        yield Out(text=str(number))
                        # As a model on the loop must, now and then.
                        await asyncio.sleep(0)
                    if event == "waits":
                        await asyncio.Event().wait()
                    elif event:
                        raise ValueError("a secret of the model")
                except (GeneratorExit, asyncio.CancelledError) as error:
                    script.closed.append(type(error).__name__)
                    raise
                finally:
                    script.closed.append("finally")

        self.app.model(model_id="m", **options)(InLane if kind == "lane" else OnLoop)


def numbers(count: int) -> list[str]:
    return [str(number) for number in range(count)]


@pytest.mark.parametrize("kind", KINDS)
async def test_outputs_come_as_events_in_order_and_then_the_meta(kind: str) -> None:
    stream = Stream(kind)
    async with AsyncClient(stream.app) as client:
        answer = await client.post("/predict", json=body("300"), headers=SSE)
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/event-stream"
        *events, done = answer.events()
        assert [event.json()["text"] for event in events] == numbers(300)
        assert {event.name for event in events} == {"message"}
        assert done.name == "done"
        meta = done.json()
        assert (meta["model"], meta["batch_size"], meta["device"]) == ("m", 1, "cpu")
        assert 0 < meta["inference_ms"] <= meta["latency_ms"]
        assert meta["postprocessing_ms"] is None


@pytest.mark.parametrize("kind", KINDS)
async def test_json_collects_the_outputs_and_tells_their_times(kind: str) -> None:
    stream = Stream(kind)
    async with AsyncClient(stream.app) as client:
        answer = await client.post("/predict", json=body("300"))
        assert answers(answer) == numbers(300)
        assert answer.json()["meta"]["inference_ms"] > 0
        timing = answer.headers["server-timing"]
        assert "predict;dur=" in timing
        assert 'batch;desc="1"' in timing
        assert await counted(client, "thalamus_executed_batch_size_count", model="m") == 1
        assert await counted(client, "thalamus_queue_wait_seconds_count", model="m") == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_empty_stream_is_no_outputs(kind: str) -> None:
    stream = Stream(kind)
    async with AsyncClient(stream.app) as client:
        assert answers(await client.post("/predict", json=body("0"))) == []
        (done,) = (await client.post("/predict", json=body("0"), headers=SSE)).events()
        assert done.name == "done"


@pytest.mark.parametrize("kind", KINDS)
async def test_error_before_the_first_output_has_its_status(kind: str) -> None:
    stream = Stream(kind)
    async with AsyncClient(stream.app) as client:
        for headers in ({}, SSE):
            answer = await client.post("/predict", json=body("0 raises"), headers=headers)
            assert (answer.status, answer.json()["code"]) == (500, "model_error")
            assert "secret" not in answer.text


@pytest.mark.parametrize("kind", KINDS)
async def test_error_in_the_middle_is_an_event_after_all_that_was_yielded(kind: str) -> None:
    stream = Stream(kind)
    async with AsyncClient(stream.app) as client:
        answer = await client.post("/predict", json=body("5 raises"), headers=SSE)
        *events, last = answer.events()
        assert answer.status in (200, 500)
        if answer.status == 200:
            assert [event.json()["text"] for event in events] == numbers(5)
            assert (last.name, last.json()["code"]) == ("error", "model_error")
        assert "secret" not in answer.text
        collected = await client.post("/predict", json=body("5 raises"))
        assert (collected.status, collected.json()["code"]) == (500, "model_error")
        assert await counted(client, "thalamus_requests_total", model="m", status="error") == 2
        assert answers(await client.post("/predict", json=body("2"))) == numbers(2)


@pytest.mark.parametrize("kind", KINDS)
async def test_at_most_64_outputs_wait_for_a_slow_reader_and_none_is_lost(kind: str) -> None:
    stream = Stream(kind)
    async with AsyncClient(stream.app):
        line = Line(stream.app, body("1000"), accept="text/event-stream")
        group = runtime_of(stream.app, "m@1.0.0").group
        assert group is not None
        await until(lambda: group.live)
        (pending,) = group.live
        await line.blocked(pending.channel)
        # 64 wait, one is in the hand of who waits for room, and some were taken before.
        taken = stream.made - LIMIT - 1
        assert 0 < taken <= LIMIT
        await line.end()
        assert line.text.count("data: ") == 1001
        texts = [part for part in line.text.split("\n\n") if part.startswith("data")]
        assert [part.split('"')[3] for part in texts] == numbers(1000)


@pytest.mark.parametrize("kind", KINDS)
async def test_wait_for_a_slow_reader_is_not_the_models_time(kind: str) -> None:
    stream = Stream(kind)
    async with AsyncClient(stream.app):
        line = Line(stream.app, body("500"), accept="text/event-stream")
        group = runtime_of(stream.app, "m@1.0.0").group
        assert group is not None
        await until(lambda: group.live)
        (pending,) = group.live
        await line.blocked(pending.channel)
        clock = asyncio.get_running_loop().time
        stopped_at = clock()
        await until(lambda: clock() > stopped_at + 0.3)
        await line.end()
        meta = line.text.rpartition("data: ")[2]
        import json

        found = json.loads(meta)
        assert found["latency_ms"] > 300
        assert found["inference_ms"] < found["latency_ms"] - 290


@pytest.mark.parametrize("kind", KINDS)
async def test_client_that_leaves_closes_the_generator(kind: str) -> None:
    stream = Stream(kind)
    async with AsyncClient(stream.app) as client:
        async with client.stream("POST", "/predict", json=body("1000000"), headers=SSE) as answer:
            async for _ in answer.events():
                break
        await until(lambda: "finally" in stream.closed)
        assert stream.closed[0] in ("GeneratorExit", "CancelledError")
        assert stream.made < 1000000
        await until(lambda: engine_of(stream.app).service.inflight == 0)
        assert answers(await client.post("/predict", json=body("2"))) == numbers(2)
        assert await counted(client, "thalamus_requests_total", model="m", status="cancelled") == 1


async def test_generator_that_waits_for_its_next_output_is_closed_too() -> None:
    stream = Stream("loop")
    async with AsyncClient(stream.app) as client:
        line = client.begin("POST", "/predict", json=body("1 waits"))
        await until(lambda: stream.made)
        await line.hang_up()
        await until(lambda: stream.closed == ["CancelledError", "finally"])
        assert answers(await client.post("/predict", json=body("2"))) == numbers(2)


@pytest.mark.parametrize("kind", KINDS)
async def test_queued_stream_of_a_client_that_left_never_runs(kind: str) -> None:
    stream = Stream(kind)
    async with AsyncClient(stream.app) as client:
        line = Line(stream.app, body("1000"), accept="text/event-stream")
        await line.answering.wait()
        await client.begin("POST", "/predict", json=body("7")).hang_up()
        made = stream.made
        await line.end()
        assert stream.made == 1000 > made


@pytest.mark.parametrize("outputs", [0, 3])
@pytest.mark.parametrize("kind", KINDS)
async def test_deadline_covers_the_first_output_and_then_each_gap(kind: str, outputs: int) -> None:
    stream = Stream(kind)
    async with AsyncClient(stream.app) as client:
        answer = await client.post(
            "/predict", json=body(f"{outputs} waits"), headers={**SSE, "X-Timeout-Ms": "400"}
        )
        if outputs == 0:
            assert (answer.status, answer.json()["code"]) == (504, "deadline_exceeded")
        else:
            *events, last = answer.events()
            assert [event.json()["text"] for event in events] == numbers(outputs)
            assert (last.name, last.json()["code"]) == ("error", "deadline_exceeded")
        stream.door.open()
        await until(lambda: "finally" in stream.closed)
        assert answers(await client.post("/predict", json=body("2"))) == numbers(2)
        assert await counted(client, "thalamus_requests_total", model="m", status="expired") == 1


async def test_deadline_of_a_stream_is_no_bound_on_all_of_it() -> None:
    app = Thalamus()

    @app.model(model_id="m", timeout_s=1.0)
    class Model:
        def predict(self, inputs: list[In]) -> Iterator[Out]:
            for number in range(6):
                threading.Event().wait(0.2)
                yield Out(text=str(number))

    async with AsyncClient(app) as client:
        # 1.2 s in all; and no estimate made of it turns the next ones away.
        lines = [client.begin("POST", "/predict", json=body("x")) for _ in range(1)]
        assert [answers(await line.answer()) for line in lines] == [numbers(6)]
        group = runtime_of(app, "m@1.0.0").group
        assert group is not None
        assert not group.queue.cost.learned


async def test_queued_stream_expires_without_being_run() -> None:
    stream = Stream("lane")
    async with AsyncClient(stream.app) as client:
        first = client.begin("POST", "/predict", json=body("1 waits"))
        await stream.door.reached()
        late = await client.post("/predict", json=body("3"), headers={"X-Timeout-Ms": "20"})
        assert (late.status, late.json()["code"]) == (504, "deadline_exceeded")
        stream.door.open()
        assert answers(await first.answer()) == ["0"]
        assert stream.made == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_as_many_streams_at_once_as_lanes(kind: str) -> None:
    stream = Stream(kind, lanes=2)
    async with AsyncClient(stream.app) as client:
        lines = [Line(stream.app, body("500"), accept="text/event-stream") for _ in range(2)]
        for line in lines:
            await line.answering.wait()
        third = client.begin("POST", "/predict", json=body("3"))
        group = runtime_of(stream.app, "m@1.0.0").group
        assert group is not None
        await until(lambda: len(group.live) == 3)
        assert group.running == 2
        for line in lines:
            await line.end()
            assert line.text.count("data: ") == 501
        assert answers(await third.answer()) == numbers(3)


async def test_streaming_model_refuses_a_batch_size() -> None:
    app = Thalamus()
    with pytest.raises(ValueError, match="max_batch_size"):

        @app.model(model_id="m", max_batch_size=8)
        class Model:
            def predict(self, inputs: list[In]) -> Iterator[Out]:
                yield from ()


@pytest.mark.parametrize("headers", [{}, SSE], ids=["json", "events"])
@pytest.mark.parametrize("kind", KINDS)
async def test_object_that_is_filled_again_for_each_output_is_sent_as_it_was_yielded(
    kind: str, headers: dict[str, str]
) -> None:
    app = Thalamus()

    class InLane:
        def predict(self, inputs: list[In]) -> Iterator[Out]:
            out = Out(text="")
            for letter in inputs[0].text:
                out.text += letter
                yield out

    class OnLoop:
        async def predict(self, inputs: list[In]) -> AsyncIterator[Out]:
            for out in InLane().predict(inputs):
                yield out

    app.model(model_id="m")(InLane if kind == "lane" else OnLoop)
    async with AsyncClient(app) as client:
        answer = await client.post("/predict", json=body("abc"), headers=headers)
        if headers:
            texts = [event.json().get("text") for event in answer.events()][:-1]
        else:
            texts = answers(answer)
        assert texts == ["a", "ab", "abc"]


async def test_output_that_postprocess_drops_is_progress_and_tells_of_a_client_that_left() -> None:
    app = Thalamus()
    since: list[float | None] = []
    closed = threading.Event()
    left = Door()

    @app.model(model_id="m")
    class Model:
        def predict(self, inputs: list[In]) -> Iterator[Out]:
            lane = runtime_of(app, "m@1.0.0").group.lanes[0]  # type: ignore[union-attr]
            try:
                for number in range(1_000_000):
                    since.append(lane.busy_since)
                    if number == 3:
                        left.wait()
                    yield Out(text=str(number))
            finally:
                assert number < 10
                closed.set()

        def postprocess(self, outputs: list[Out]) -> list[Out]:
            return []

    async with AsyncClient(app) as client:
        begun = client.begin("POST", "/predict", json=body("x"), headers=SSE)
        await left.reached()
        await begun.hang_up()
        await until(lambda: counted_gone(app))
        left.open()
        await until(closed.is_set)
    assert len(set(since[:4])) == 4


def counted_gone(app: Thalamus) -> bool:
    """Whether nobody waits for the one request of an app any more."""
    return engine_of(app).service.inflight == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_pre_and_postprocess_see_the_inputs_and_each_output_alone(kind: str) -> None:
    app = Thalamus()
    seen: list[list[str]] = []

    class Hooks:
        def preprocess(self, inputs: list[In]) -> list[str]:
            return [item.text for item in inputs]

        def postprocess(self, outputs: list[str]) -> list[Out]:
            seen.append(outputs)
            return [Out(text=text + "!") for text in outputs]

    class InLane(Hooks):
        def predict(self, inputs: list[str]) -> Iterator[str]:
            yield from inputs

    class OnLoop(Hooks):
        async def predict(self, inputs: list[str]) -> AsyncIterator[str]:
            for item in inputs:
                yield item

    app.model(model_id="m")(InLane if kind == "lane" else OnLoop)
    async with AsyncClient(app) as client:
        answer = await client.post("/predict", json=body("a", "b"))
        assert answers(answer) == ["a!", "b!"]
        assert seen == [["a"], ["b"]]
        meta = answer.json()["meta"]
        assert meta["preprocessing_ms"] is not None
        assert meta["postprocessing_ms"] > 0


@pytest.mark.parametrize("result", ["none", "text", "number"])
@pytest.mark.parametrize("kind", KINDS)
async def test_postprocess_that_returns_no_list_is_a_model_error(kind: str, result: str) -> None:
    app = Thalamus()
    answer_of = {"none": None, "text": "ab", "number": 5}[result]

    class Hooks:
        def postprocess(self, outputs: list[Out]) -> list[Out]:
            return answer_of  # type: ignore[return-value]

    class InLane(Hooks):
        def predict(self, inputs: list[In]) -> Iterator[Out]:
            yield Out(text="x")

    class OnLoop(Hooks):
        async def predict(self, inputs: list[In]) -> AsyncIterator[Out]:
            yield Out(text="x")

    app.model(model_id="m")(InLane if kind == "lane" else OnLoop)
    async with AsyncClient(app) as client:
        answer = await client.post("/predict", json=body("a"))
        assert (answer.status, answer.json()["code"]) == (500, "model_error")


@pytest.mark.parametrize("kind", KINDS)
async def test_error_of_ours_that_a_hook_raises_is_the_models(kind: str) -> None:
    """Neither status nor body are a hook's to choose."""
    app = Thalamus()

    class InLane:
        def predict(self, inputs: list[In]) -> Iterator[Out]:
            raise Draining
            yield

    class OnLoop:
        async def predict(self, inputs: list[In]) -> AsyncIterator[Out]:
            raise Draining
            yield

    app.model(model_id="m")(InLane if kind == "lane" else OnLoop)
    async with AsyncClient(app) as client:
        answer = await client.post("/predict", json=body("a"))
        assert (answer.status, answer.json()["code"]) == (500, "model_error")


@pytest.mark.parametrize(
    "error", [SystemExit, KeyboardInterrupt, StopIteration, GeneratorExit, RuntimeError]
)
@pytest.mark.parametrize("kind", KINDS)
async def test_whatever_a_generator_raises_the_lane_and_the_loop_live_on(
    kind: str, error: type[BaseException]
) -> None:
    app = Thalamus()

    class InLane:
        def predict(self, inputs: list[In]) -> Iterator[Out]:
            if inputs[0].text == "raise":
                raise error("no")
            yield Out(text="x")

    class OnLoop:
        async def predict(self, inputs: list[In]) -> AsyncIterator[Out]:
            if inputs[0].text == "raise":
                raise error("no")
            yield Out(text="x")

    app.model(model_id="m")(InLane if kind == "lane" else OnLoop)
    async with AsyncClient(app) as client:
        answer = await client.post("/predict", json=body("raise"))
        assert (answer.status, answer.json()["code"]) == (500, "model_error")
        assert answers(await client.post("/predict", json=body("x"))) == ["x"]
        assert state_of(app, "m@1.0.0") == "ready"


async def test_wrapped_predict_that_returns_a_list_still_streams() -> None:
    import functools

    def listed(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*arguments: Any) -> Any:
            return list(function(*arguments))

        return wrapper

    app = Thalamus()

    @app.model(model_id="m")
    class Model:
        @listed
        def predict(self, inputs: list[In]) -> Iterator[Out]:
            for item in inputs:
                yield Out(text=item.text)

    async with AsyncClient(app) as client:
        assert answers(await client.post("/predict", json=body("a", "b"))) == ["a", "b"]


@pytest.mark.parametrize("kind", KINDS)
async def test_unload_waits_for_a_stream_and_a_drain_ends_it(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THALAMUS_DRAIN_S", "0.1")
    stream = Stream(kind)
    async with AsyncClient(stream.app) as client:
        line = Line(stream.app, body("500"), accept="text/event-stream")
        await line.answering.wait()
        unload = client.begin("POST", "/models/m/unload")
        await until(lambda: state_of(stream.app, "m@1.0.0") == "draining")
        await line.end()
        assert line.text.count("data: ") == 501
        assert (await unload.answer()).json()["unloaded"] is True
        forever = client.begin("POST", "/predict", json=body("1 waits"))
        await until(lambda: engine_of(stream.app).service.inflight)
        await until(lambda: stream.made == 501)
        stream.door.open() if kind == "lane" else None
        if kind == "lane":
            assert (await forever.answer()).status == 200
    if kind == "loop":
        answer = await forever.answer()
        assert (answer.status, answer.json()["code"]) == (503, "draining")
        assert stream.closed[-1] == "finally"


@pytest.mark.parametrize("kind", KINDS)
async def test_client_that_stops_reading_gives_the_lane_back_in_time(kind: str) -> None:
    stream = Stream(kind)
    async with AsyncClient(stream.app) as client:
        line = Line(stream.app, body("1000"), accept="text/event-stream", x_timeout_ms="300")
        assert answers(await client.post("/predict", json=body("3"))) == numbers(3)
        assert "GeneratorExit" in stream.closed
        unload = await client.post("/models/m/unload")
        assert unload.json()["unloaded"] is True
        for _ in range(LIMIT + 10):
            line.reads.release()
        await line.task
        assert b"event: error" in line.sent[-1]["body"]
        assert b"deadline_exceeded" in line.sent[-1]["body"]
