"""examples/sentence_embeddings with batches of ``BENCH_BATCH``; with 0, a request at a time."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

from benchmarks.servers.work import KEY, MAX_BATCH, port
from thalamus_lite import Thalamus

os.environ.setdefault("THALAMUS_API_KEY", KEY)
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "sentence_embeddings"))
example = importlib.import_module("app")
spec = example.app.models[0]

app = Thalamus(name="embeddings", log_level="WARNING")
app.model(
    model_id=spec.id,
    default=True,
    device="cpu",
    weights=spec.weights,
    max_batch_size=MAX_BATCH or None,
    max_concurrent_requests=1,
    examples=[{"text": "The first request should not be the slow one."}],
)(spec.cls)


if __name__ == "__main__":
    app.serve(host="127.0.0.1", port=port())
