"""thalamus-serve 0.4, with uvloop and httptools beside it, which its uvicorn then picks by
itself.
"""

# Its package is in an environment of its own, where no type checker looks.
# mypy: ignore-errors

from __future__ import annotations

import os

from thalamus_serve import Thalamus

from benchmarks.servers.work import KEY, MAX_BATCH, Sentiment, TextInput, classify, port

os.environ.setdefault("THALAMUS_API_KEY", KEY)
app = Thalamus()


@app.model(
    model_id="lane",
    version="1.0.0",
    default=True,
    device="cpu",
    input_type=TextInput,
    output_type=Sentiment,
    max_batch_size=MAX_BATCH,
)
class Lane:
    def load(self, weights, device):
        pass

    def predict(self, inputs: list[TextInput]) -> list[Sentiment]:
        found = classify([item.text for item in inputs])
        return [Sentiment(label=label, score=score) for label, score in found]


if __name__ == "__main__":
    app.serve(host="127.0.0.1", port=port())
