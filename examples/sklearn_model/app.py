"""Serve the regressor that train.py made: ``uvicorn app:app``."""

from pathlib import Path
from typing import Annotated

import numpy as np
import skops.io
from pydantic import BaseModel, Field

from thalamus_lite import FileWeight, Thalamus

HERE = Path(__file__).parent

app = Thalamus(name="diabetes")


class Patient(BaseModel):
    """The columns of the training data, in its order."""

    age: Annotated[float, Field(ge=0, le=120, description="years")]
    sex: Annotated[int, Field(ge=1, le=2, description="as coded in the data: 1 or 2")]
    bmi: Annotated[float, Field(gt=0, le=100, description="body mass index, kg/m2")]
    bp: Annotated[float, Field(gt=0, le=300, description="mean blood pressure, mmHg")]
    s1: Annotated[float, Field(description="total serum cholesterol")]
    s2: Annotated[float, Field(description="low-density lipoproteins")]
    s3: Annotated[float, Field(description="high-density lipoproteins")]
    s4: Annotated[float, Field(description="total cholesterol / HDL")]
    s5: Annotated[float, Field(description="log of serum triglycerides")]
    s6: Annotated[float, Field(description="blood sugar level")]


class Prognosis(BaseModel):
    progression: Annotated[float, Field(description="disease progression a year on, 25 to 346")]


@app.model(
    model_id="diabetes",
    version="1.0.0",
    device="cpu",
    weights={
        "scaler": FileWeight(HERE / "scaler.skops"),
        "regressor": FileWeight(HERE / "regressor.skops"),
    },
    max_batch_size=256,
)
class Diabetes:
    """Foretells the progression of diabetes a year after these measurements."""

    def load(self, weights: dict[str, Path], device: str) -> None:
        # Raises on any type but those of scikit-learn and numpy that skops knows to be harmless.
        self.scaler = skops.io.load(weights["scaler"])
        self.regressor = skops.io.load(weights["regressor"])

    def predict(self, inputs: list[Patient]) -> list[Prognosis]:
        columns = np.array([[value for _, value in patient] for patient in inputs])  # (batch, 10)
        progressions = self.regressor.predict(self.scaler.transform(columns))
        return [Prognosis(progression=progression) for progression in progressions]
