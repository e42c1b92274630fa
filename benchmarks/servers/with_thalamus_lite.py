"""thalamus-lite as its users run it: uvicorn by ``app.serve()``, one process, and one model.

``BENCH_MODELS`` adds models that are named for what they cost, ``BENCH_QUEUE`` bounds their queues.
"""

from __future__ import annotations

import os

from benchmarks.servers.work import COST, KEY, MAX_BATCH, Cost, Sentiment, TextInput, classify, port
from thalamus_lite import Thalamus

os.environ.setdefault("THALAMUS_API_KEY", KEY)
MAX_QUEUE = int(os.environ.get("BENCH_QUEUE", "1024"))
app = Thalamus(name="benchmark", log_level="WARNING")


def answers(inputs: list[TextInput], cost: Cost) -> list[Sentiment]:
    found = classify([item.text for item in inputs], cost)
    return [Sentiment(label=label, score=score) for label, score in found]


@app.model(model_id="lane", default=True, device="cpu", max_batch_size=MAX_BATCH)
class Lane:
    def predict(self, inputs: list[TextInput]) -> list[Sentiment]:
        return answers(inputs, COST)


def add_cost(cost: Cost) -> None:
    """A model that is named for what it costs."""

    @app.model(model_id=cost.name, device="cpu", max_batch_size=MAX_BATCH, max_queue_size=MAX_QUEUE)
    class Costly:
        def predict(self, inputs: list[TextInput]) -> list[Sentiment]:
            return answers(inputs, cost)


for _text in filter(None, os.environ.get("BENCH_MODELS", "").split(",")):
    add_cost(Cost.parse(_text))


if __name__ == "__main__":
    app.serve(host="127.0.0.1", port=port())
