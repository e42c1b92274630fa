"""Serve the shape classifier that train.py made: ``uvicorn app:app``."""

from pathlib import Path

import torch
from net import ShapeNet
from pydantic import BaseModel, field_validator
from safetensors.torch import load_file
from shapes import KINDS, SIDE
from torch import Tensor

from thalamus_lite import Base64Data, FileWeight, Label, Thalamus

app = Thalamus(name="shapes")


class Picture(BaseModel):
    """A grey picture of 32x32 bytes, row by row: 0 is black, 255 is white."""

    picture: Base64Data

    @field_validator("picture")
    @classmethod
    def _has_every_pixel(cls, picture: Base64Data) -> Base64Data:
        if len(picture.decode()) != SIDE * SIDE:
            raise ValueError(f"a picture has {SIDE * SIDE} bytes: {SIDE} rows of {SIDE}")
        return picture


@app.model(
    model_id="shapes",
    version="1.0.0",
    device="auto",
    weights={"net": FileWeight(Path(__file__).with_name("shapes.safetensors"))},
    max_batch_size=64,
)
class Shapes:
    """Tells circles, squares and triangles apart."""

    def load(self, weights: dict[str, Path], device: str) -> None:
        self.device = torch.device(device)
        self.net = ShapeNet(len(KINDS)).to(self.device).eval()
        self.net.load_state_dict(load_file(weights["net"], device=device))

    def preprocess(self, inputs: list[Picture]) -> Tensor:
        raw = bytearray().join(item.picture.decode() for item in inputs)
        pixels = torch.frombuffer(raw, dtype=torch.uint8).view(-1, 1, SIDE, SIDE)
        if self.device.type == "cuda":
            # Only from pinned memory does the copy run while this thread goes on. Each lane has a
            # stream of its own, so with lanes=2 one batch is copied while another one computes.
            pixels = pixels.pin_memory()
        # Bytes cross the bus and become floats over there: a quarter of the traffic.
        return pixels.to(self.device, non_blocking=True).float() / 255

    @torch.inference_mode()
    def predict(self, pictures: Tensor) -> Tensor:
        return self.net(pictures).softmax(dim=1)  # (batch, kinds)

    def postprocess(self, chances: Tensor) -> list[Label]:
        # .tolist() waits for this lane's stream alone: nothing here stops the whole device.
        best = chances.max(dim=1)
        return [
            Label(name=KINDS[kind], confidence=confidence)
            for confidence, kind in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
