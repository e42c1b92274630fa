"""mosec: a Rust front, one worker process, dynamic batching with a wait of at most
``BENCH_WINDOW_MS``.
"""

# Its package is in an environment of its own, where no type checker looks.
# mypy: ignore-errors

from __future__ import annotations

import json
import sys

from mosec import Server, ValidationError, Worker
from pydantic import ValidationError as PydanticError

from benchmarks.servers.work import MAX_BATCH, WINDOW_MS, Sentiment, TextInput, classify, port


class Text(Worker):
    def deserialize(self, data: bytes) -> TextInput:
        try:
            return TextInput.model_validate_json(data)
        except PydanticError as error:
            raise ValidationError(json.loads(error.json())) from error

    def forward(self, data: list[TextInput]) -> list[Sentiment]:
        found = classify([item.text for item in data])
        return [Sentiment(label=label, score=score) for label, score in found]

    def serialize(self, data: Sentiment) -> bytes:
        return data.model_dump_json().encode()


class SingleText(Text):
    """Without batches mosec hands over the record itself, and wants its answer alone."""

    def forward(self, data: TextInput) -> Sentiment:
        return super().forward([data])[0]


if __name__ == "__main__":
    sys.argv[1:] = ["--address", "127.0.0.1", "--port", str(port()), "--log-level", "warning"]
    server = Server()
    worker = Text if MAX_BATCH > 1 else SingleText
    server.append_worker(worker, num=1, max_batch_size=MAX_BATCH, max_wait_time=int(WINDOW_MS))
    server.run()
