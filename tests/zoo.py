"""Models of every kind, for tests; ``uvicorn --app-dir tests zoo:app`` serves them."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator  # noqa: TC003  # resolved at registration
from typing import Any

from pydantic import BaseModel

from thalamus_lite import Thalamus

SECRET = "the-exception-says-4711"


class Text(BaseModel):
    text: str


class Shout(BaseModel):
    text: str
    score: float | None = 0.5


class Blocker:
    """A door in a model: ``entered`` is set when a batch is inside, which stays until ``open``."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()

    def wait(self) -> None:
        self.entered.set()
        if not self.open.wait(30):
            raise TimeoutError("nobody opened the door")


def make_app(**options: Any) -> Thalamus:
    """An app with all of them; ``app.blocker`` is the door of the model ``slow``."""
    app = Thalamus(name="zoo", **options)
    blocker = app.blocker = Blocker()  # type: ignore[attr-defined]

    @app.model(model_id="echo", version="1.9.0", max_batch_size=8)
    class OldEcho:
        """The version before."""

        def predict(self, inputs: list[Text]) -> list[Shout]:
            return [Shout(text=item.text.lower()) for item in inputs]

    @app.model(
        model_id="echo",
        version="1.10.0",
        default=True,
        max_batch_size=8,
        examples=[{"text": "hi"}],
        description="Says it louder.",
    )
    class Echo:
        def preprocess(self, inputs: list[Text]) -> list[str]:
            return [item.text for item in inputs]

        def predict(self, inputs: list[str]) -> list[str]:
            return [text.upper() for text in inputs]

        def postprocess(self, outputs: list[str]) -> list[Shout]:
            return [Shout(text=text) for text in outputs]

    @app.model(model_id="inline", critical=False)
    class Inline:
        async def predict(self, inputs: list[Text]) -> list[Shout]:
            return [Shout(text=item.text.upper()) for item in inputs]

    @app.model(model_id="words", critical=False)
    class Words:
        def predict(self, inputs: list[Text]) -> Iterator[Shout]:
            for item in inputs:
                for word in item.text.split():
                    if word == "boom":
                        raise ValueError(SECRET)
                    yield Shout(text=word)

    @app.model(model_id="async.words", critical=False)
    class AsyncWords:
        async def predict(self, inputs: list[Text]) -> AsyncIterator[Shout]:
            for item in inputs:
                for word in item.text.split():
                    if word == "boom":
                        raise ValueError(SECRET)
                    yield Shout(text=word)

    @app.model(model_id="faulty", critical=False, max_batch_size=8, output_type=Shout)
    class Faulty:
        def predict(self, inputs: list[Text]) -> Any:
            text = inputs[0].text
            if text == "raises":
                raise ValueError(SECRET)
            if text == "exits":
                raise SystemExit(SECRET)
            if text == "short":
                return [Shout(text="ok")] * (len(inputs) - 1)
            if text == "long":
                return [Shout(text="ok")] * (len(inputs) + 1)
            answers = {
                "none": None,
                "text": "x" * len(inputs),
                "number": 5,
                "mapping": dict.fromkeys(range(len(inputs))),
                "nones": [None] * len(inputs),
                "other": [Text(text="x")] * len(inputs),
                "nan": [Shout(text="x", score=float("nan"))] * len(inputs),
                "infinite": [{"text": "x", "score": float("-inf")}] * len(inputs),
                "surrogate": [Shout(text="\ud800")] * len(inputs),
                "dicts": [{"text": "fine", "score": 1}] * len(inputs),
                "tuple": (Shout(text="fine"),) * len(inputs),
                "generated": (Shout(text="fine") for _ in inputs),
            }
            return answers.get(text, [Shout(text="fine") for _ in inputs])

    @app.model(
        model_id="slow",
        critical=False,
        max_batch_size=2,
        max_queue_size=2,
        max_concurrent_requests=4,
    )
    class Slow:
        def predict(self, inputs: list[Text]) -> list[Shout]:
            if inputs[0].text == "wait":
                blocker.wait()
            return [Shout(text="done") for _ in inputs]

    return app


app = make_app()
