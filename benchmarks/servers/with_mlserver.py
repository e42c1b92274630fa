"""MLServer: the V2 protocol, the model in the server's own process, adaptive batching within
``BENCH_WINDOW_MS``.
"""

# Its package is in an environment of its own, where no type checker looks.
# mypy: ignore-errors

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import StringCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.processes import free_port
from benchmarks.servers.work import MAX_BATCH, WINDOW_MS, TextInput, classify, port

DEVICE = ThreadPoolExecutor(1)


class Text(MLModel):
    async def load(self) -> bool:
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        texts = [TextInput(text=text).text for text in StringCodec.decode_input(payload.inputs[0])]
        # A model that blocks would stop the server's loop: its own advice is a thread. One, since a
        # device runs one batch at a time, whoever asks.
        found = await asyncio.get_running_loop().run_in_executor(DEVICE, classify, texts)
        labels = StringCodec.encode_output("label", [label for label, _ in found])
        scores = StringCodec.encode_output("score", [str(score) for _, score in found])
        return InferenceResponse(model_name=self.name, outputs=[labels, scores])


async def main() -> None:
    settings = Settings(
        debug=False,
        parallel_workers=0,
        host="127.0.0.1",
        http_port=port(),
        grpc_port=free_port(),
        metrics_port=free_port(),
        use_structured_logging=False,
    )
    model = ModelSettings(
        name="text",
        implementation=Text,
        max_batch_size=MAX_BATCH,
        max_batch_time=WINDOW_MS / 1000,
    )
    await MLServer(settings).start([model])


if __name__ == "__main__":
    asyncio.run(main())
