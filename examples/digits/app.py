"""Serve the digits classifier that train.py made: ``uvicorn app:app``."""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, Field

from thalamus_lite import FileWeight, Prob, Thalamus

app = Thalamus(name="digits")

Pixel = Annotated[float, Field(ge=0, le=16)]


class Digit(BaseModel):
    """An 8x8 image, row by row: 0 is paper, 16 is ink."""

    pixels: Annotated[list[Pixel], Field(min_length=64, max_length=64)]


class Reading(BaseModel):
    label: int
    confidence: Prob


@app.model(
    model_id="digits",
    version="1.0.0",
    device="cpu",
    weights={"network": FileWeight(Path(__file__).with_name("digits.json"))},
    max_batch_size=256,
)
class Digits:
    """Reads handwritten digits."""

    def load(self, weights: dict[str, Path], device: str) -> None:
        network = json.loads(weights["network"].read_bytes())
        self.layers = [
            (np.array(network[name]["weights"]).T, np.array(network[name]["biases"]))
            for name in ("hidden", "output")
        ]

    def preprocess(self, inputs: list[Digit]) -> np.ndarray:
        return np.array([digit.pixels for digit in inputs])  # (batch, 64)

    def predict(self, pixels: np.ndarray) -> np.ndarray:
        (hidden, hidden_bias), (output, output_bias) = self.layers
        active = np.maximum(pixels @ hidden + hidden_bias, 0)
        scores = active @ output + output_bias
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)  # (batch, 10)

    def postprocess(self, chances: np.ndarray) -> list[Reading]:
        return [Reading(label=row.argmax(), confidence=row.max()) for row in chances]
