"""Train the network on drawn shapes, for some seconds on a CPU, and save it as safetensors."""

from pathlib import Path

import torch
from net import ShapeNet
from safetensors.torch import save_file
from shapes import KINDS, draw
from torch import Tensor, nn

HERE = Path(__file__).parent
TRAINING, HELD_OUT, BATCH, EPOCHS = 2000, 600, 50, 4


def pictures(count: int, seed: int) -> tuple[Tensor, Tensor]:
    kinds = torch.randint(len(KINDS), (count,), generator=torch.Generator().manual_seed(seed))
    return draw(kinds, seed).unsqueeze(1) / 255, kinds


def main() -> None:
    # Threads that wait for each other cost a network as small as this one more than they bring.
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = ShapeNet(len(KINDS))
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    seen, seen_kinds = pictures(TRAINING, seed=0)
    for _ in range(EPOCHS):
        for rows in torch.randperm(TRAINING).split(BATCH):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(seen[rows]), seen_kinds[rows])
            loss.backward()
            optimizer.step()

    unseen, unseen_kinds = pictures(HELD_OUT, seed=1)
    with torch.inference_mode():
        right = net(unseen).argmax(1) == unseen_kinds
    save_file(net.state_dict(), HERE / "shapes.safetensors")
    print(f"held-out accuracy: {right.float().mean():.3f}")


if __name__ == "__main__":
    main()
