"""Differentiable augmentation (Zhao et al., "Differentiable augmentation for data-efficient GAN training", 2020)."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gan_dist import rng, schedules
from gan_dist.augment.base import Augment, Augmentation
from gan_dist.interfaces import Batch

if TYPE_CHECKING:
    from gan_dist.config.common import Config

_DRAWS = ("chance", "brightness", "saturation", "contrast", "shift y", "shift x", "centre y", "centre x")
"""Names of the uniform numbers of an image, each always in the same place: append, never insert."""


class DiffAugment(Augmentation):
    """Colour, translation and cutout of every image that the discriminator sees, in this order.

    For small data sets: all three for some hundred or thousand images, color and cutout for all of CIFAR-10. On 70,000 faces
    it made the FID worse.
    """

    color: bool = True
    """Add U(-0.5, 0.5), multiply the distance from grey by U(0, 2), and that from the image's mean by U(0.5, 1.5)."""
    translation: bool = True
    """Shift by up to 1/8 of the size in both directions, with zeros outside."""
    cutout: bool = True
    """Zero a rectangle of half the height and half the width; a part of it may lie outside."""
    probability: schedules.ScheduledProbability = 1.0
    """Probability with which an image is changed: a number in [0, 1] or a schedule. The paper's is 1."""

    def check(self, config: "Config") -> None:
        name = config.key_of(self)
        if not (self.color or self.translation or self.cutout) or self.probability == 0:
            raise ValueError(
                f"{name} has no effect: set {name}.color, translation or cutout: true, and probability above 0, or remove it"
            )

    def build(self, seed: int) -> Augment:
        return DifferentiableAugment(self, seed)


class DifferentiableAugment(Augment):
    """The chosen operations on images (N, C, H, W)."""

    def __init__(self, keys: DiffAugment, seed: int) -> None:
        super().__init__()
        self.seed, self.probability = seed, keys.probability
        self.color, self.translation, self.cutout = keys.color, keys.translation, keys.cutout

    def forward(self, images: Tensor, batch: Batch, purpose: str) -> Tensor:
        drawn = batch.draw(rng.uniform, rng.key(self.seed, f"diffaugment {purpose}"), len(_DRAWS))
        draws = dict(zip(_DRAWS, drawn.unbind(1), strict=True))
        with torch.autocast(images.device.type, enabled=False):
            full = images if images.dtype == torch.float64 else images.float()
            return self.change(full, draws, schedules.at(self.probability, self.images)).to(images.dtype)

    def change(self, images: Tensor, draws: dict[str, Tensor], probability: float = 1.0) -> Tensor:
        """Return the images, each changed by its own numbers in (0, 1), (N,) float64 by name."""
        changed = images
        if self.color:
            changed = _recolour(changed, draws)
        if self.translation:
            changed = _shift(_shift(changed, 2, draws["shift y"]), 3, draws["shift x"])
        if self.cutout:
            changed = changed * _kept(changed, draws)
        if probability >= 1:
            return changed
        return torch.where((draws["chance"] < probability)[:, None, None, None], changed, images)


def _recolour(images: Tensor, draws: dict[str, Tensor]) -> Tensor:
    brightness, saturation, contrast = (
        draws[name].to(images.dtype)[:, None, None, None] for name in ("brightness", "saturation", "contrast")
    )
    images = images + (brightness - 0.5)
    grey = images.mean(1, keepdim=True)
    images = torch.lerp(grey, images, 2 * saturation)
    mean = images.mean((1, 2, 3), keepdim=True)
    return torch.lerp(mean, images, contrast + 0.5)


def _shift(images: Tensor, dim: int, draw: Tensor) -> Tensor:
    """Shift each image by whole pixels, down or right for a draw above 1/2."""
    size = images.shape[dim]
    furthest = int(size / 8 + 0.5)
    by = (draw * (2 * furthest + 1)).long() - furthest
    source = torch.arange(size, device=images.device) - by[:, None]
    there = ((source >= 0) & (source < size)).to(images.dtype)
    shape = (-1, 1, size, 1) if dim == 2 else (-1, 1, 1, size)
    shifted = images.gather(dim, source.clamp(0, size - 1).view(shape).expand_as(images))
    return shifted * there.view(shape)


def _kept(images: Tensor, draws: dict[str, Tensor]) -> Tensor:
    """Return 0 in a rectangle of half the size, and 1 elsewhere: (N, 1, H, W)."""
    inside = []
    for dim, name in ((2, "centre y"), (3, "centre x")):
        size = images.shape[dim]
        side = int(size / 2 + 0.5)
        # an even side has its centre between pixels: one place more
        first = (draws[name] * (size + 1 - side % 2)).long() - side // 2
        place = torch.arange(size, device=images.device) - first[:, None]
        inside.append((place >= 0) & (place < side))
    rows, columns = inside
    return (~(rows[:, None, :, None] & columns[:, None, None, :])).to(images.dtype)
