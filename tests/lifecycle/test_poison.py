"""One bad input in a merged batch: only those at fault pay, and it takes few calls to find them."""

import math
from typing import Any

import pytest
from lifecycle_kit import Door, In, Out, answers, body, counted, runtime_of, state_of, until

from thalamus_lite import Thalamus
from thalamus_lite.testing import AsyncClient


class Batched:
    """A model that holds its first call until ``size`` more wait, which then run as one batch.

    ``predict`` is given each call's texts; what it returns or raises is what the model does.
    """

    def __init__(self, predict: Any, kind: str = "lane", **options: Any) -> None:
        self.app = Thalamus()
        self.calls: list[list[str]] = []
        self.door = Door()
        script = self

        def run(inputs: list[In]) -> list[Out]:
            texts = [item.text for item in inputs]
            script.calls.append(texts)
            answer: list[Out] = predict(texts)
            return answer

        class InLane:
            def predict(self, inputs: list[In]) -> list[Out]:
                if inputs[0].text == "first":
                    script.door.wait()
                    return [Out(text="first")]
                return run(inputs)

        class OnLoop:
            async def predict(self, inputs: list[In]) -> list[Out]:
                if inputs[0].text == "first":
                    import asyncio

                    await asyncio.to_thread(script.door.wait)
                    return [Out(text="first")]
                return run(inputs)

        options = {"max_batch_size": 32, **options}
        self.app.model(model_id="m", **options)(InLane if kind == "lane" else OnLoop)

    async def run(self, client: AsyncClient, requests: list[list[str]]) -> list[Any]:
        first = client.begin("POST", "/predict", json=body("first"))
        await self.door.reached()
        lines = [client.begin("POST", "/predict", json=body(*texts)) for texts in requests]
        group = runtime_of(self.app, "m@1.0.0").group
        assert group is not None
        await until(lambda: group.queue.depth == sum(map(len, requests)))
        self.door.open()
        assert answers(await first.answer()) == ["first"]
        return [await line.answer() for line in lines]


def echo(texts: list[str]) -> list[Out]:
    return [Out(text=text) for text in texts]


def raising(texts: list[str]) -> list[Out]:
    if any(text.startswith("bad") for text in texts):
        raise ValueError("a secret of the model")
    return echo(texts)


def short(texts: list[str]) -> list[Out]:
    return echo(texts)[: -1 if any(text.startswith("bad") for text in texts) else None]


@pytest.mark.parametrize("kind", ["lane", "loop"])
@pytest.mark.parametrize("predict", [raising, short])
@pytest.mark.parametrize("place", [0, 1, 15, 16, 30, 31])
async def test_one_bad_input_among_32_costs_one_request_and_at_most_11_calls(
    kind: str, predict: Any, place: int
) -> None:
    model = Batched(predict, kind)
    texts = [str(n) if n != place else "bad" for n in range(32)]
    async with AsyncClient(model.app) as client:
        found = await model.run(client, [[text] for text in texts])
        assert [answer.status for answer in found].count(200) == 31
        assert (found[place].status, found[place].json()["code"]) == (500, "model_error")
        assert "secret" not in found[place].text
        for text, answer in zip(texts, found, strict=True):
            if text != "bad":
                assert answers(answer) == [text]
        assert len(model.calls[0]) == 32
        assert len(model.calls) <= 11
        reruns = await counted(client, "thalamus_reruns_total", model="m")
        assert reruns == len(model.calls) - 1
        assert state_of(model.app, "m@1.0.0") == "ready"


async def test_two_bad_inputs_cost_two_requests() -> None:
    model = Batched(raising)
    texts = [str(n) if n not in (3, 20) else f"bad{n}" for n in range(32)]
    async with AsyncClient(model.app) as client:
        found = await model.run(client, [[text] for text in texts])
        assert [n for n, answer in enumerate(found) if answer.status == 500] == [3, 20]
        assert [a.status for a in found].count(200) == 30
        assert len(model.calls) <= 2 * 32 - 1


async def test_all_bad_inputs_cost_at_most_63_calls() -> None:
    model = Batched(raising)
    async with AsyncClient(model.app) as client:
        found = await model.run(client, [[f"bad{n}"] for n in range(32)])
        assert {answer.status for answer in found} == {500}
        assert len(model.calls) == 2 * 32 - 1


async def test_request_is_never_taken_apart_to_find_its_bad_input() -> None:
    model = Batched(raising)
    requests = [["a", "b"], ["c", "bad", "d"], ["e"]]
    async with AsyncClient(model.app) as client:
        found = await model.run(client, requests)
        assert [answer.status for answer in found] == [200, 500, 200]
        assert answers(found[0]) == ["a", "b"]
        assert len(model.calls) <= 2 * math.ceil(math.log2(3)) + 1
        for call in model.calls:
            assert "bad" not in call or {"c", "d"} <= set(call)


async def test_model_that_is_not_idempotent_runs_each_input_once() -> None:
    model = Batched(raising, idempotent=False)
    async with AsyncClient(model.app) as client:
        found = await model.run(client, [["a"], ["bad"], ["b"]])
        assert {answer.status for answer in found} == {500}
        assert model.calls == [["a", "bad", "b"]]
        assert await counted(client, "thalamus_reruns_total", model="m") == 0


async def test_inputs_that_fail_only_together_all_succeed_alone() -> None:
    def alone(texts: list[str]) -> list[Out]:
        if len({len(text) for text in texts}) > 1:
            raise ValueError("arrays of unlike shape")
        return echo(texts)

    model = Batched(alone)
    async with AsyncClient(model.app) as client:
        found = await model.run(client, [["a"], ["bb"], ["ccc"]])
        assert [answers(answer) for answer in found] == [["a"], ["bb"], ["ccc"]]


async def test_one_output_of_a_wrong_type_costs_its_request_and_no_second_call() -> None:
    def other(texts: list[str]) -> list[Any]:
        return [{"no": "text"} if text == "bad" else Out(text=text) for text in texts]

    model = Batched(other)
    async with AsyncClient(model.app) as client:
        found = await model.run(client, [["a"], ["bad"], ["b"]])
        assert [answer.status for answer in found] == [200, 500, 200]
        assert len(model.calls) == 1


@pytest.mark.parametrize("outputs", [None, "abc", b"abc", {"a": 1}, 5, [], [1] * 99])
async def test_answer_that_is_no_list_of_one_output_an_input_is_a_model_error(
    outputs: Any,
) -> None:
    model = Batched(lambda texts: outputs)
    async with AsyncClient(model.app) as client:
        found = await model.run(client, [["a"], ["b"], ["c"]])
        assert {answer.status for answer in found} == {500}
        assert {answer.json()["code"] for answer in found} == {"model_error"}


async def test_endless_outputs_are_a_model_error() -> None:
    import itertools

    model = Batched(lambda texts: itertools.repeat(Out(text="x")))
    async with AsyncClient(model.app) as client:
        assert [a.status for a in await model.run(client, [["a"], ["b"]])] == [500, 500]


async def test_tuple_or_generator_of_outputs_is_fine() -> None:
    for make in (tuple, iter):
        model = Batched(lambda texts, make=make: make(echo(texts)))
        async with AsyncClient(model.app) as client:
            assert [answers(a) for a in await model.run(client, [["a"], ["b"]])] == [["a"], ["b"]]


async def test_hook_that_changes_its_inputs_list_harms_no_later_pass() -> None:
    def popping(texts: list[str]) -> list[Out]:
        found = raising(list(texts))
        texts.clear()
        return found

    class Clearing:
        def predict(self, inputs: list[In]) -> list[Out]:
            texts = [item.text for item in inputs]
            inputs.clear()
            return raising(texts)

    app = Thalamus()
    app.model(model_id="m", max_batch_size=4)(Clearing)
    async with AsyncClient(app) as client:
        lines = [
            client.begin("POST", "/predict", json=body(text)) for text in ("a", "bad", "c", "d")
        ]
        found = [await line.answer() for line in lines]
        assert [a.status for a in found] == [200, 500, 200, 200]


@pytest.mark.parametrize("hook", ["preprocess", "predict", "postprocess"])
@pytest.mark.parametrize(
    "error", [SystemExit, KeyboardInterrupt, StopIteration, GeneratorExit, RecursionError]
)
@pytest.mark.parametrize("kind", ["lane", "loop"])
async def test_whatever_a_hook_raises_only_its_request_fails(
    kind: str, error: type[BaseException], hook: str
) -> None:
    def check(name: str, items: list[Any]) -> list[Any]:
        if name == hook and any(item.text == "bad" for item in items):
            raise error("no")
        return items

    class Hooks:
        def preprocess(self, inputs: list[In]) -> list[In]:
            return check("preprocess", inputs)

        def postprocess(self, outputs: list[In]) -> list[Out]:
            return [Out(text=item.text) for item in check("postprocess", outputs)]

    class InLane(Hooks):
        def predict(self, inputs: list[In]) -> list[In]:
            return check("predict", inputs)

    class OnLoop(Hooks):
        async def predict(self, inputs: list[In]) -> list[In]:
            return check("predict", inputs)

    app = Thalamus()
    app.model(model_id="m", max_batch_size=8)(InLane if kind == "lane" else OnLoop)
    async with AsyncClient(app) as client:
        lines = [client.begin("POST", "/predict", json=body(text)) for text in ("a", "bad", "b")]
        found = [await line.answer() for line in lines]
        assert [answer.status for answer in found] == [200, 500, 200]
        assert answers(await client.post("/predict", json=body("x"))) == ["x"]
        assert state_of(app, "m@1.0.0") == "ready"
