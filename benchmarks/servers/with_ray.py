"""Ray Serve: one replica behind its proxy, ``@serve.batch`` within ``BENCH_WINDOW_MS``."""

# Its package is in an environment of its own, where no type checker looks.
# mypy: ignore-errors

from __future__ import annotations

import threading

import ray
from ray import serve
from starlette.requests import Request  # noqa: TC002 - read by the decorator

from benchmarks.servers.work import MAX_BATCH, WINDOW_MS, Sentiment, TextInput, classify, port


@serve.deployment(num_replicas=1, max_ongoing_requests=256)
class Text:
    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=WINDOW_MS / 1000)
    async def batched(self, texts: list[str]) -> list[tuple[str, float]]:
        return classify(texts)

    async def __call__(self, request: Request) -> Sentiment:
        item = TextInput.model_validate_json(await request.body())
        label, score = await self.batched(item.text)
        return Sentiment(label=label, score=score)


def main() -> None:
    ray.init(num_cpus=2, include_dashboard=False, configure_logging=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port()})
    serve.run(Text.bind(), route_prefix="/predict")
    threading.Event().wait()


if __name__ == "__main__":
    main()
