"""The network, apart from the server: train.py and app.py share it."""

from torch import Tensor, nn


class ShapeNet(nn.Module):
    """(n, 1, 32, 32) of 0 to 1 → (n, kinds) scores."""

    def __init__(self, kinds: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 2 * 2, kinds),
        )

    def forward(self, pictures: Tensor) -> Tensor:
        return self.layers(pictures)
