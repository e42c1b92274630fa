"""LitServe: one API server, one worker, its fast queue; batches within ``BENCH_WINDOW_MS``.

Annotations are not postponed: LitServe reads the type of a request from them as they are.
"""

# Its package is in an environment of its own, where no type checker looks.
# mypy: ignore-errors

import os
from collections.abc import Iterator

import litserve
from pydantic import BaseModel

from benchmarks.servers.work import KEY, MAX_BATCH, WINDOW_MS, Sentiment, TextInput, classify, port

os.environ.setdefault("LIT_SERVER_API_KEY", KEY)


class Text(litserve.LitAPI):
    def setup(self, device: str) -> None:
        pass

    def decode_request(self, request: TextInput) -> str:
        return request.text

    def predict(self, texts: list[str]) -> list[tuple[str, float]]:
        return classify(texts)

    def encode_response(self, output: tuple[str, float]) -> Sentiment:
        return Sentiment(label=output[0], score=output[1])


class Count(BaseModel):
    tokens: int


class Tokens(litserve.LitAPI):
    def setup(self, device: str) -> None:
        pass

    def decode_request(self, request: Count) -> int:
        return request.tokens

    def predict(self, count: int) -> Iterator[str]:
        for index in range(count):
            yield f"token {index}"

    # A stream's type is none that LitServe could declare.
    def encode_response(self, output):
        for token in output:
            yield {"token": token}


def main() -> None:
    if os.environ.get("BENCH_STREAM"):
        api: litserve.LitAPI = Tokens(stream=True)
    else:
        api = Text(max_batch_size=MAX_BATCH, batch_timeout=WINDOW_MS / 1000)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(
        host="127.0.0.1",
        port=port(),
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main()
