"""Train the digits classifier: 64 pixels, 32 hidden units (ReLU), 10 digits.

    python train.py
    python train.py --weights elsewhere.json --heldout heldout.txt

The weights are plain JSON: numbers to read and to diff, and nothing that runs when it is loaded.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

HERE = Path(__file__).parent
SEED = 0
DECIMALS = 5
INK = 16  # a pixel counts 0 (paper) to 16 (ink)


def train(pixels, digits):
    """The two layers as ``{"weights": (out, in), "biases": (out,)}``, for pixels of 0 to 16."""
    # alpha and the width were chosen by cross-validation on the training part alone.
    network = MLPClassifier((32,), alpha=0.1, max_iter=500, random_state=SEED)
    network.fit(pixels / INK, digits)
    (hidden, output), biases = network.coefs_, network.intercepts_
    # Folding the scale into the first layer lets a server feed it the pixels as they come.
    return [
        {"weights": (hidden.T / INK).round(DECIMALS), "biases": biases[0].round(DECIMALS)},
        {"weights": output.T.round(DECIMALS), "biases": biases[1].round(DECIMALS)},
    ]


def predict(layers, pixels):
    hidden = np.maximum(pixels @ layers[0]["weights"].T + layers[0]["biases"], 0)
    return (hidden @ layers[1]["weights"].T + layers[1]["biases"]).argmax(axis=1)


def save_weights(path, layers, metrics):
    """JSON with one neuron a line."""
    parts = [f'"metrics": {json.dumps(metrics)}']
    for name, layer in zip(("hidden", "output"), layers, strict=True):
        rows = ",\n".join(json.dumps(row.tolist()) for row in layer["weights"])
        biases = json.dumps(layer["biases"].tolist())
        parts.append(f'"{name}": {{"biases": {biases},\n"weights": [\n{rows}]}}')
    path.write_text("{" + ",\n".join(parts) + "}\n")


def save_heldout(path, pixels, digits):
    """One sample a line: the digit, then its 64 pixels as base-17 figures (``g`` is 16)."""
    figures = "0123456789abcdefg"
    lines = (
        f"{digit} {''.join(figures[int(pixel)] for pixel in row)}\n"
        for row, digit in zip(pixels, digits, strict=True)
    )
    path.write_text("".join(lines))


def main():
    parser = argparse.ArgumentParser(description="Train the digits classifier.")
    parser.add_argument("--weights", type=Path, default=HERE / "digits.json")
    parser.add_argument("--heldout", type=Path, help="also write the samples kept from training")
    options = parser.parse_args()

    pixels, digits = load_digits(return_X_y=True)
    seen, unseen, seen_digits, unseen_digits = train_test_split(
        pixels, digits, test_size=0.25, stratify=digits, random_state=SEED
    )
    layers = train(seen, seen_digits)
    metrics = {
        "trained_on": len(seen),
        "held_out": len(unseen),
        "held_out_accuracy": round(float((predict(layers, unseen) == unseen_digits).mean()), 4),
    }
    save_weights(options.weights, layers, metrics)
    if options.heldout:
        save_heldout(options.heldout, unseen, unseen_digits)
    print(json.dumps(metrics))


if __name__ == "__main__":
    main()
