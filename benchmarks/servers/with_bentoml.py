"""BentoML: one worker, adaptive batching with a latency of at most ``BENCH_WINDOW_MS`` where that
is set.
"""

# Its package is in an environment of its own, where no type checker looks.
# mypy: ignore-errors

from __future__ import annotations

import os
import sys

import bentoml

from benchmarks.servers.work import Sentiment, TextInput, classify, port


@bentoml.service(workers=1, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Text:
    @bentoml.api(route="/predict")
    def predict(self, text: TextInput) -> Sentiment:
        label, score = classify([text.text])[0]
        return Sentiment(label=label, score=score)


if __name__ == "__main__":
    where = ("--host", "127.0.0.1", "--port", str(port()))
    command = (sys.executable, "-m", "bentoml", "serve", "benchmarks.servers.with_bentoml:Text")
    os.execv(sys.executable, (*command, *where))
