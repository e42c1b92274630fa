"""thalamus-lite with models of other shapes: an ``async`` one, one of vectors, one that streams."""

from __future__ import annotations

from collections.abc import Iterator  # noqa: TC003 - read by the decorator

from pydantic import BaseModel

from benchmarks.servers.with_thalamus_lite import answers, app
from benchmarks.servers.work import COST, MAX_BATCH, Sentiment, TextInput, port


class Vector(BaseModel):
    values: list[float]


class Total(BaseModel):
    total: float


class Count(BaseModel):
    tokens: int


class Token(BaseModel):
    token: str


@app.model(model_id="async", device="cpu", max_batch_size=MAX_BATCH)
class Inline:
    async def predict(self, inputs: list[TextInput]) -> list[Sentiment]:
        return answers(inputs, COST)


@app.model(model_id="vectors", device="cpu", max_batch_size=100_000)
class Vectors:
    """One sum in all, so that nothing but the way in is measured."""

    async def predict(self, inputs: list[Vector]) -> list[Total]:
        return [Total(total=0.0)] * len(inputs)


@app.model(model_id="tokens", device="cpu")
class Tokens:
    def predict(self, inputs: list[Count]) -> Iterator[Token]:
        for index in range(inputs[0].tokens):
            yield Token(token=f"token {index}")


if __name__ == "__main__":
    app.serve(host="127.0.0.1", port=port())
