"""Types for model inputs and outputs that many models share."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

from pydantic import BaseModel, Field, ValidationInfo, field_validator

Prob = Annotated[float, Field(ge=0, le=1)]
"""A probability: a float in [0, 1]."""


class Base64Data(BaseModel):
    """Binary data in JSON, such as an image, with its media type."""

    data: str
    media_type: str = "application/octet-stream"

    @field_validator("data")
    @classmethod
    def _is_base64(cls, value: str) -> str:
        try:
            base64.b64decode(value)
        except (binascii.Error, ValueError) as error:
            raise ValueError("Invalid base64") from error
        return value

    def decode(self) -> bytes:
        """The bytes."""
        return base64.b64decode(self.data)


class BBox(BaseModel):
    """A box in pixels or any one unit: (x1, y1) is the top-left corner, (x2, y2) the bottom-right
    one.
    """

    x1: float
    y1: float
    x2: float
    y2: float

    @field_validator("x2", "y2")
    @classmethod
    def _is_beyond(cls, value: float, info: ValidationInfo) -> float:
        first = f"{str(info.field_name)[0]}1"
        if first in info.data and value <= info.data[first]:
            raise ValueError(f"{info.field_name} must be > {first}")
        return value

    @property
    def width(self) -> float:
        return self.x2 - self.x1

    @property
    def height(self) -> float:
        return self.y2 - self.y1


class Label(BaseModel):
    """A class name and how sure the model is of it."""

    name: str
    confidence: Prob


class Vector(BaseModel):
    """An embedding of shape ``(dim,)``, not empty."""

    values: list[float] = Field(min_length=1)

    @property
    def dim(self) -> int:
        return len(self.values)


class Span(BaseModel):
    """A piece of text by character offsets: ``start`` inclusive, ``end`` exclusive."""

    text: str
    start: int = Field(ge=0)
    end: int = Field(ge=0)
    label: str | None = None
    score: Prob | None = None
