"""A classifier of MNIST's digits, by which StackedMNIST's modes are counted: the network, its training, its file."""

import dataclasses
import hashlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gan_dist import files, rng
from gan_dist.errors import InputError
from gan_dist.evaluation.ranks import full_precision

SIZE = 28
"""Height and width of a digit in pixels."""
SIZES = ((16, 16), (28, 28), (32, 32))
"""Sizes of images that the classifier reads."""
WANTED_ACCURACY = 0.992
"""Below it, wrong digits add modes: with 1 % of them wrong, 3 % of the triples count for another mode."""

_FORMAT = "gan_dist digit classifier 1"
_SEED = 0
_BATCH = 64
_PEAK = 2e-3  # learning rate of Adam; it rises over the first tenth of the steps and falls to 0 on a line
_AT_ONCE = 1000  # digits of a forward pass without gradients
_REMEDY = "make it by `gan-dist digit-classifier MNIST FILE`"


def network() -> nn.Sequential:
    """Return PacGAN's classifier, 1,199,882 parameters: digits (N, 1, 28, 28) in [0, 1] to logits (N, 10).

    Lin et al., "PacGAN: the power of two samples in generative adversarial networks", 2018, stacked MNIST.
    """
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3), nn.ReLU()),
        # ReLU and maximum commute: the pooled quarter is less work
        *(nn.Conv2d(32, 64, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Dropout(0.25), nn.Flatten()),
        *(nn.Linear(64 * 12 * 12, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10)),
    )


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A trained network and what is known of it."""

    network: nn.Module
    test_accuracy: float
    """Fraction of the test digits that it names."""
    test_digits: int

    def digits(self, images: Tensor) -> Tensor:
        """Return the digit in each channel of images (N, C, side, side), side 16, 28 or 32, in [-1, 1]: (N, C) int64.

        Images of 16 pixels are enlarged to 32 first: the classifier then names 99.15 % of digits, 99.67 % at 32. Of 32 pixels
        the border of 2 is padding and is cut off. Images are rounded to 8 bits, as they are when saved.
        """
        if tuple(images.shape[-2:]) not in SIZES:
            raise ValueError(
                f"digits of {images.shape[-1]}x{images.shape[-2]} pixels: 16x16, 28x28 or 32x32 are needed"
            )
        images = images.float()
        if images.shape[-1] < SIZE:
            images = F.interpolate(images, scale_factor=2, mode="bicubic")
        border = (images.shape[-1] - SIZE) // 2
        cut = images[..., border : border + SIZE, border : border + SIZE]
        pixels = ((cut + 1) * 127.5).round().clamp(0, 255) / 255
        with full_precision():
            logits = self.network(pixels.reshape(-1, 1, SIZE, SIZE))
        named: Tensor = logits.argmax(1).view(images.shape[:2])
        return named


def train(
    images: Tensor,
    labels: Tensor,
    epochs: int,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> nn.Module:
    """Return the network, trained on digits (N, 28, 28) uint8 and labels (N,) int64, in evaluation mode.

    Adam with batches of 64, cross entropy. The seed is fixed: the same digits, machine and number of threads give the same
    weights. `progress` is told after each batch how many digits of how many are done.
    """
    total, done = epochs * len(images), 0
    steps = epochs * -(-len(images) // _BATCH)
    with torch.random.fork_rng(devices=[]):  # the layers' dropout knows torch's generator only
        torch.manual_seed(_SEED)
        model = network().train().to(memory_format=torch.channels_last)  # a seventh faster on a CPU
        optimizer = torch.optim.Adam(model.parameters())
        for step, chosen in enumerate(_batches(len(images), epochs)):
            optimizer.param_groups[0]["lr"] = _PEAK * min(1.0, 10 * (step + 1) / steps, (steps - step) / (0.9 * steps))
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(model(_pixels(images[chosen])), labels[chosen]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            done += len(chosen)
            progress(done, total)
    return model.eval()


def _batches(count: int, epochs: int) -> Iterator[Tensor]:
    """Give the numbers of the digits, batch by batch, in another order in every epoch."""
    for epoch in range(epochs):
        order = rng.uniform(rng.key(_SEED, "digit classifier", epoch), torch.arange(count), 1)[:, 0].argsort(
            stable=True
        )
        yield from torch.split(order, _BATCH)


def _pixels(images: Tensor) -> Tensor:
    return images[:, None].float() / 255


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the fraction of digits (N, 28, 28) uint8 whose label the network names."""
    right = 0
    for part, named in zip(torch.split(images, _AT_ONCE), torch.split(labels, _AT_ONCE), strict=True):
        right += int((model(_pixels(part)).argmax(1) == named).sum())
    return right / len(images)


def save(classifier: Classifier, path: Path) -> None:
    """Write a classifier's file."""
    weights = {name: tensor.cpu().contiguous() for name, tensor in classifier.network.state_dict().items()}
    content = {
        "format": _FORMAT,
        "weights": weights,
        "sha256": _digest(weights),
        "test_accuracy": classifier.test_accuracy,
        "test_digits": classifier.test_digits,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    files.write_atomic(path, buffer.getvalue())


def load(path: Path, device: torch.device | str = "cpu") -> Classifier:
    """Return the classifier of a file. Raises InputError for a file that is missing, damaged or something else."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"the digit classifier {path} cannot be read ({error.strerror}); {_REMEDY}") from None
    try:
        content: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if content["format"] != _FORMAT or content["sha256"] != _digest(content["weights"]):
            raise ValueError
        model = network().requires_grad_(False).eval()
        model.load_state_dict(content["weights"])
        return Classifier(model.to(device), float(content["test_accuracy"]), int(content["test_digits"]))
    except Exception:  # torch.load raises anything on damaged files, no class covers it
        raise InputError(f"{path} is damaged or no digit classifier; {_REMEDY}") from None


def _digest(weights: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in weights.items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()
