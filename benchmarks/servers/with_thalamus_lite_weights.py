"""thalamus-lite that listens at once and loads weights from ``BENCH_WEIGHTS`` in the background."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from benchmarks.servers.with_thalamus_lite import answers
from benchmarks.servers.work import FREE, KEY, Sentiment, TextInput, port
from thalamus_lite import HTTPWeight, Thalamus

if TYPE_CHECKING:
    from pathlib import Path

os.environ.setdefault("THALAMUS_API_KEY", KEY)
os.environ["THALAMUS_CACHE_DIR"] = os.environ["BENCH_CACHE"]
app = Thalamus(load="background", log_level="WARNING")


@app.model(
    model_id="weighty",
    default=True,
    device="cpu",
    weights={"model": HTTPWeight(urls=(os.environ["BENCH_WEIGHTS"],))},
)
class Weighty:
    def load(self, weights: dict[str, Path], device: str) -> None:
        pass

    def predict(self, inputs: list[TextInput]) -> list[Sentiment]:
        return answers(inputs, FREE)


if __name__ == "__main__":
    app.serve(host="127.0.0.1", port=port())
