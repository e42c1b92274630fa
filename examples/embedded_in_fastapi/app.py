"""Models under /ml of a FastAPI app of your own: ``uvicorn app:app``."""

from typing import Annotated

from fastapi import FastAPI
from pydantic import BaseModel, Field

from thalamus_lite import Label, Thalamus

ml = Thalamus(name="ml")

# Words that are frequent in one language and rare in the others.
TELLTALES = {
    "english": {"the", "and", "of", "is", "with", "this", "you"},
    "french": {"le", "et", "est", "les", "avec", "une", "vous"},
    "german": {"der", "und", "ist", "das", "mit", "ein", "nicht"},
    "spanish": {"el", "y", "es", "los", "con", "una", "usted"},
}


class Text(BaseModel):
    text: Annotated[str, Field(min_length=1, max_length=10_000)]


@ml.model(model_id="language", version="1.0.0", device="cpu", max_batch_size=64)
class Language:
    """Guesses the language of a text from its small words."""

    def predict(self, inputs: list[Text]) -> list[Label]:
        return [self._guess(item.text.lower().split()) for item in inputs]

    def _guess(self, words: list[str]) -> Label:
        counts = {
            name: sum(word in telltales for word in words) for name, telltales in TELLTALES.items()
        }
        name = max(counts, key=counts.__getitem__)
        total = sum(counts.values())
        if not total:
            return Label(name="unknown", confidence=0)
        return Label(name=name, confidence=counts[name] / total)


# A mounted app gets no lifespan of its own: the parent passes it on, so that the models load when
# FastAPI starts and unload when it stops.
app = FastAPI(title="Library", lifespan=ml.lifespan)
app.mount("/ml", ml)


@app.get("/books/{number}")
async def book(number: int) -> dict[str, str]:
    return {"title": f"Volume {number}"}
