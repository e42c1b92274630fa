"""The digits demo: a network of 64, 32 and 10 units that reads handwritten digits, in pure Python.

``examples/digits/train.py`` makes its weights.
"""

from __future__ import annotations

import json
import math
from operator import mul
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field

from thalamus_lite.schemas.common import Prob  # noqa: TC001 - pydantic reads it at run time
from thalamus_lite.weights.sources import FileWeight

if TYPE_CHECKING:
    from thalamus_lite.thalamus import Thalamus

WEIGHTS = Path(__file__).with_name("digits.json")
PIXELS = 64
DIGITS = 10

Pixel = Annotated[float, Field(strict=True, ge=0, le=16, allow_inf_nan=False)]

# One neuron: its weights, one for each input, and its bias.
_Neuron = tuple[list[float], float]


class Digit(BaseModel):
    """An 8x8 image of one handwritten digit."""

    pixels: Annotated[
        list[Pixel],
        Field(
            min_length=PIXELS,
            max_length=PIXELS,
            description="row by row from the top left; 0 is paper, 16 is ink",
        ),
    ]


class DigitPrediction(BaseModel):
    """The digit that was read, and how sure of it the network is."""

    label: Annotated[int, Field(ge=0, lt=DIGITS)]
    confidence: Prob


class DigitsModel:
    """Reads handwritten digits of 8x8 pixels (UCI optical recognition of handwritten digits)."""

    def load(self, weights: dict[str, Path], device: str) -> None:
        """Raises ``ValueError`` when the file does not hold a network of this shape."""
        layers = json.loads(weights["model"].read_bytes())
        self._hidden = _layer(layers["hidden"], inputs=PIXELS)
        self._output = _layer(layers["output"], inputs=len(self._hidden))
        if len(self._output) != DIGITS:
            raise ValueError(f"the weights file has {len(self._output)} outputs, not {DIGITS}")

    def predict(self, inputs: list[Digit]) -> list[DigitPrediction]:
        return [self._read(digit.pixels) for digit in inputs]

    def _read(self, pixels: list[float]) -> DigitPrediction:
        active = [max(0.0, sum(map(mul, row, pixels), bias)) for row, bias in self._hidden]
        scores = [sum(map(mul, row, active), bias) for row, bias in self._output]
        best = max(scores)
        # The softmax of the best score: exp(best - best) over the sum.
        confidence = 1 / sum(math.exp(score - best) for score in scores)
        return DigitPrediction(label=scores.index(best), confidence=confidence)


def _layer(layer: dict[str, Any], *, inputs: int) -> list[_Neuron]:
    neurons = list(zip(layer["weights"], layer["biases"], strict=True))
    if any(len(row) != inputs for row, _ in neurons):
        raise ValueError(f"the weights file has a neuron that does not take {inputs} inputs")
    return neurons


def _drawn(*rows: str) -> Digit:
    return Digit(pixels=[int(pixel, 17) for row in rows for pixel in row])


# A pixel is one figure of base 17, so that "g" is 16. Neither image was trained on.
SAMPLES = (
    _drawn(
        "007gggd0",
        "00898ff0",
        "00004g70",
        "0048cg50",
        "03ggge70",
        "0038g300",
        "000fd000",
        "007g3000",
    ),
    _drawn(
        "000cb000",
        "00cc9a00",
        "02g21b10",
        "01f00580",
        "02e005a0",
        "00d202d0",
        "007907b0",
        "000bdg20",
    ),
)
"""A seven and a zero."""


def register(app: Thalamus) -> None:
    """Make the digits model ``app``'s default model."""
    app.model(
        model_id="digits",
        version="1.0.0",
        description="Handwritten digits, 8x8 pixels of 0 (paper) to 16 (ink), row by row",
        default=True,
        device="cpu",
        weights={"model": FileWeight(path=WEIGHTS)},
        max_batch_size=32,
        examples=SAMPLES,
    )(DigitsModel)
