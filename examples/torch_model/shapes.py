"""Pictures of circles, squares and triangles, to train on and to ask about.

python shapes.py triangle > triangle.json
"""

import argparse
import base64
import json

import torch
from torch import Tensor

KINDS = ("circle", "square", "triangle")
SIDE = 32


def draw(kinds: Tensor, seed: int) -> Tensor:
    """One noisy picture for each index into ``KINDS``: uint8 of shape (n, SIDE, SIDE)."""
    random = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(kinds), 1, 1, generator=random)

    axis = torch.arange(SIDE)
    radius = uniform(6, 11)
    x = axis.view(1, 1, SIDE) - uniform(12, 20)
    y = axis.view(1, SIDE, 1) - uniform(12, 20)
    outlines = torch.stack(
        [
            x**2 + y**2 < radius**2,
            torch.maximum(x.abs(), y.abs()) < 0.85 * radius,
            (y.abs() < radius) & (x.abs() < (y + radius) / 2),
        ],
        dim=1,
    )
    ink = outlines[torch.arange(len(kinds)), kinds] * uniform(0.3, 0.7)
    noise = 0.2 * torch.randn(ink.shape, generator=random)
    return ((0.1 + ink + noise).clamp(0, 1) * 255).to(torch.uint8)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Print a /predict request with one picture.")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--seed", type=int, default=2024)
    options = parser.parse_args()
    picture = draw(torch.tensor([KINDS.index(options.kind)]), options.seed)
    data = base64.b64encode(bytes(picture.flatten().tolist())).decode()
    print(json.dumps({"inputs": [{"picture": {"data": data}}]}))
