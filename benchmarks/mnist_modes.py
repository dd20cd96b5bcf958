"""Does a digit generator know all ten digits? A small classifier, trained on the spot, looks at its samples.

    python benchmarks/mnist_modes.py RUN --train data/mnist --test data/mnist-test

RUN is a run directory; --train and --test are shards of MNIST with labels. Prints the classifier's test accuracy,
the share of each digit among the samples of the averaged generator, and how many samples it is sure of.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from gan_dist import generate
from gan_dist.config import default_cache
from gan_dist.data import index, shards
from gan_dist.data.decode import Decoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    classifier = train_classifier(*read(options.train), options.epochs)
    images, labels = read(options.test)
    accuracy = (probabilities(classifier, images).argmax(1) == labels).float().mean().item()
    print(f"classifier: {accuracy:.2%} of {len(labels):,} test images right")

    game, config, name = generate.load(options.run)
    samples = torch.stack(list(generate.generate(game, 0, options.n)))
    found = probabilities(classifier, samples)
    shares = torch.bincount(found.argmax(1), minlength=10) / options.n
    confident = (found.max(1).values > 0.9).float().mean().item()
    print(f"{options.n} samples of {options.run} ({name}, loss {config.loss.kind})")
    print("share of each digit: " + "  ".join(f"{digit}: {share:.1%}" for digit, share in enumerate(shares.tolist())))
    print(f"digits found: {int((shares > 0).sum())}, least {shares.min():.1%}; sure (over 0.9) of {confident:.1%}")
    good = accuracy >= 0.985 and shares.min() >= 0.03 and confident >= 0.8
    print("all ten digits, each over 3 %, sure of 80 %: " + ("yes" if good else "NO"))
    sys.exit(0 if good else 1)


def read(source: str) -> tuple[torch.Tensor, torch.Tensor]:
    """All images, (N, 1, 28, 28) in [-1, 1], and labels, (N,), of a folder of shards."""
    names = shards.expand(source)
    index.build(names, default_cache(), progress=False)
    found = index.load(names, default_cache())
    pixels = torch.from_numpy(Decoder(found, (28, 28), 1).read(np.arange(len(found))))
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1, torch.from_numpy(found.label.astype(np.int64))


def train_classifier(images: torch.Tensor, labels: torch.Tensor, epochs: int) -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64 * 7 * 7, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, 10)),
    )
    steps = epochs * len(images) // 128
    adam = torch.optim.Adam(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, max_lr=2e-3, total_steps=steps)
    order = torch.cat([torch.randperm(len(images)) for _ in range(epochs)])
    for step in range(steps):
        chosen = order[step * 128 : (step + 1) * 128]
        adam.zero_grad()
        cross_entropy(network(images[chosen]), labels[chosen]).backward()
        adam.step()
        schedule.step()
    return network.eval()


@torch.no_grad()
def probabilities(classifier: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return torch.cat([classifier(part).softmax(1) for part in images.split(500)])


if __name__ == "__main__":
    main()
