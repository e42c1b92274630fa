"""The models of this image: THALAMUS_MODELS names this module, and the default app serves them."""

import re
from typing import Annotated

from pydantic import BaseModel, Field

from thalamus_lite import app


class Text(BaseModel):
    text: Annotated[str, Field(min_length=1, max_length=100_000)]


class Readability(BaseModel):
    words: int
    sentences: int
    words_per_sentence: float


@app.model(model_id="readability", version="1.0.0", device="cpu", max_batch_size=64)
class ReadabilityModel:
    """Long sentences are hard to read."""

    def predict(self, inputs: list[Text]) -> list[Readability]:
        return [self._measure(item.text) for item in inputs]

    def _measure(self, text: str) -> Readability:
        words = len(re.findall(r"\w+", text))
        sentences = max(1, len(re.findall(r"[.!?]+(?=\s|$)", text)))
        return Readability(
            words=words, sentences=sentences, words_per_sentence=round(words / sentences, 1)
        )
