"""Examples of a model: every lane is warmed, and one that a batch changes keeps the model out."""

import threading
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import pytest
from lifecycle_kit import BEYOND_EXCEPTION, In, Out, answers, body
from pydantic import BaseModel, PlainSerializer, field_validator

from thalamus_lite import Thalamus
from thalamus_lite.errors import ModelError
from thalamus_lite.testing import AsyncClient

EXAMPLES = [{"text": text} for text in "abc"]


async def fails_to_start(app: Thalamus, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        async with AsyncClient(app):
            pass


async def test_examples_run_alone_and_together_on_every_lane_before_the_model_is_ready() -> None:
    app = Thalamus()
    calls: dict[str, list[list[str]]] = {}

    @app.model(model_id="m", lanes=2, max_batch_size=8, examples=EXAMPLES)
    class Model:
        def predict(self, inputs: list[In]) -> list[Out]:
            texts = [item.text for item in inputs]
            calls.setdefault(threading.current_thread().name, []).append(texts)
            return [Out(text=text) for text in texts]

    async with AsyncClient(app):
        assert list(calls) == ["m@1.0.0/0.0", "m@1.0.0/0.1"]
        assert list(calls.values()) == [[["a"], ["b"], ["c"], ["a", "b", "c"]]] * 2


@pytest.mark.parametrize("kind", ["lane", "loop"])
async def test_stream_may_fill_one_object_again_for_each_output_of_an_example(kind: str) -> None:
    app = Thalamus()

    class InLane:
        def predict(self, inputs: list[In]) -> Iterator[Out]:
            output: dict[str, str] = {}
            for letter in "abc":
                output["text"] = letter
                yield output  # type: ignore[misc]
                output.clear()

    class OnLoop:
        async def predict(self, inputs: list[In]) -> AsyncIterator[Out]:
            for output in InLane().predict(inputs):
                yield output

    app.model(model_id="m", examples=EXAMPLES[:1])(InLane if kind == "lane" else OnLoop)
    async with AsyncClient(app) as client:
        assert answers(await client.post("/predict", json=body("x"))) == ["a", "b", "c"]


async def test_batches_of_examples_are_no_longer_than_the_models() -> None:
    app = Thalamus()
    sizes: list[int] = []

    @app.model(model_id="m", max_batch_size=2, examples=EXAMPLES)
    class Model:
        def predict(self, inputs: list[In]) -> list[Out]:
            sizes.append(len(inputs))
            return [Out(text=item.text) for item in inputs]

    async with AsyncClient(app):
        assert sizes == [1, 1, 1, 2, 1]


@pytest.mark.parametrize("kind", ["lane", "loop"])
async def test_example_that_comes_out_otherwise_in_a_batch_is_named(kind: str) -> None:
    app = Thalamus()

    def run(inputs: list[In]) -> list[Out]:
        texts = [item.text for item in inputs]
        return [Out(text=texts[0] if text == "b" else text) for text in texts]

    class InLane:
        def predict(self, inputs: list[In]) -> list[Out]:
            return run(inputs)

    class OnLoop:
        async def predict(self, inputs: list[In]) -> list[Out]:
            return run(inputs)

    app.model(model_id="m", max_batch_size=8, examples=EXAMPLES)(
        InLane if kind == "lane" else OnLoop
    )
    await fails_to_start(app, r"m@1\.0\.0: examples\[1\] gives another output .*'b' alone, 'a' in")


@pytest.mark.parametrize(
    "error", [ValueError, SystemExit, KeyboardInterrupt, StopIteration, GeneratorExit]
)
@pytest.mark.parametrize("kind", ["lane", "loop", "stream", "async stream"])
async def test_example_that_fails_is_named(kind: str, error: type[BaseException]) -> None:
    app = Thalamus()

    class InLane:
        def predict(self, inputs: list[In]) -> list[Out]:
            raise error("no")

    class OnLoop:
        async def predict(self, inputs: list[In]) -> list[Out]:
            raise error("no")

    class Stream:
        def predict(self, inputs: list[In]) -> Iterator[Out]:
            raise error("no")
            yield

    class AsyncStream:
        async def predict(self, inputs: list[In]) -> AsyncIterator[Out]:
            raise error("no")
            yield

    classes: dict[str, Any] = {
        "lane": InLane,
        "loop": OnLoop,
        "stream": Stream,
        "async stream": AsyncStream,
    }
    app.model(model_id="m", examples=EXAMPLES[:1])(classes[kind])
    await fails_to_start(app, r"m@1\.0\.0: examples\[0\] failed at warm-up")


@pytest.mark.parametrize("hooks", [False, True])
@pytest.mark.parametrize("kind", ["lane", "loop"])
async def test_stream_is_warmed_by_its_first_outputs_and_closed(kind: str, hooks: bool) -> None:
    app = Thalamus()
    made: list[int] = []
    closed: list[str] = []

    class Hooks:
        def preprocess(self, inputs: list[In]) -> list[In]:
            return inputs

        def postprocess(self, outputs: list[Out]) -> list[Out]:
            return [Out(text=output.text + "!") for output in outputs]

    class InLane:
        def predict(self, inputs: list[In]) -> Iterator[Out]:
            try:
                for number in range(10_000 if inputs[0].text == "a" else 1):
                    made.append(number)
                    yield Out(text=inputs[0].text)
            finally:
                closed.append("finally")

    class OnLoop:
        async def predict(self, inputs: list[In]) -> AsyncIterator[Out]:
            try:
                for number in range(10_000 if inputs[0].text == "a" else 1):
                    made.append(number)
                    yield Out(text=inputs[0].text)
            finally:
                closed.append("finally")

    bases = (InLane if kind == "lane" else OnLoop, *((Hooks,) if hooks else ()))
    app.model(model_id="m", lanes=2, examples=EXAMPLES, input_type=In, output_type=Out)(
        type("Model", bases, {})
    )
    async with AsyncClient(app) as client:
        assert closed == ["finally"] * 2
        assert len(made) == 2 * 64
        expected = "x!" if hooks else "x"
        assert answers(await client.post("/predict", json=body("x"))) == [expected]


async def test_output_of_a_wrong_type_keeps_the_model_out() -> None:
    app = Thalamus()

    @app.model(model_id="m", examples=EXAMPLES, output_type=Out)
    class Model:
        def predict(self, inputs: list[In]) -> Any:
            return [5 for _ in inputs]

    await fails_to_start(app, r"examples\[0\] failed at warm-up: an output of \S+ does not fit")


@pytest.mark.parametrize("place", ["validator", "copy", "comparison", "text"])
@pytest.mark.parametrize("error", BEYOND_EXCEPTION, ids=lambda error: type(error).__name__)
async def test_nothing_that_a_models_types_raise_at_warm_up_ends_the_process(
    place: str, error: BaseException
) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise error

    class Input(BaseModel):
        def __deepcopy__(self, memo: Any = None) -> "Input":
            if place == "copy":
                raise error
            return self

    class Odd:
        def __eq__(self, other: object) -> bool:
            raise error

        __hash__ = None  # type: ignore[assignment]

    class Output(BaseModel):
        odd: Annotated[Any, PlainSerializer(id, when_used="json")]

        @field_validator("odd")
        @classmethod
        def check(cls, value: Any) -> Any:
            if place == "validator":
                raise error
            return value

    app = Thalamus(load="lazy")

    @app.model(model_id="m", examples=[{}, {}], output_type=Output)
    class Model:
        def predict(self, inputs: list[Input]) -> list[Any]:
            if place == "text":
                raise Mute
            return [{"odd": Odd()} for _ in inputs]

    async with AsyncClient(app) as client:
        answer = await client.post("/predict", json={"inputs": [{}]})
        assert (answer.status, answer.json()["code"]) == (503, "model_load_failed")
        assert (await client.get("/health")).json()["models"][0]["error"] == "model_error"


async def test_non_critical_model_with_bad_examples_leaves_the_others_serving() -> None:
    app = Thalamus()

    @app.model(model_id="bad", critical=False, examples=EXAMPLES)
    class Bad:
        def predict(self, inputs: list[In]) -> list[Out]:
            raise ValueError

    @app.model(model_id="good", default=True)
    class Good:
        def predict(self, inputs: list[In]) -> list[Out]:
            return [Out(text=item.text) for item in inputs]

    async with AsyncClient(app) as client:
        assert answers(await client.post("/predict", json=body("x"))) == ["x"]
        states = {m["id"]: m["error"] for m in (await client.get("/health")).json()["models"]}
        assert states == {"bad": "model_error", "good": None}


async def test_hook_that_changes_its_inputs_does_not_change_the_examples() -> None:
    app = Thalamus()

    @app.model(model_id="m", max_batch_size=4, examples=[{"text": "a"}, {"text": "b"}])
    class Model:
        def predict(self, inputs: list[In]) -> list[Out]:
            for item in inputs:
                item.text += "!"
            return [Out(text=item.text) for item in inputs]

    async with AsyncClient(app) as client:
        schema = (await client.get("/schema/m")).json()
        assert schema["examples"] == [{"text": "a"}, {"text": "b"}]
