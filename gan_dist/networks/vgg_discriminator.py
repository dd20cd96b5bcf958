"""Make the VGG-style discriminator of SRGAN (Ledig et al., 2017), as ESRGAN and BasicSR have it: one logit for an image."""

from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from gan_dist.config.section import Positive
from gan_dist.errors import InputError
from gan_dist.networks.base import Network, Shape
from gan_dist.networks.statistics import BatchNorm

_LEAST = 4
"""Pixels of the smallest side that the dense layers see, at least."""


class Discriminator(nn.Module):
    """(N, C, H, W) images of one size -> (N,) logits; each halving doubles the channels, to 8 times the first."""

    def __init__(self, channels: int, size: tuple[int, int], base: int, hidden: int) -> None:
        super().__init__()
        height, width = size
        layers: list[nn.Module] = []
        before, level = channels, 0
        while not level or min(height, width) >= 2 * _LEAST:
            after = base * min(8, 1 << level)
            layers += [nn.Conv2d(before, after, 3, 1, 1, bias=not level)]
            layers += [BatchNorm(after), nn.LeakyReLU(0.2)] if level else [nn.LeakyReLU(0.2)]
            layers += [nn.Conv2d(after, after, 4, 2, 1, bias=False), BatchNorm(after), nn.LeakyReLU(0.2)]
            before, height, width, level = after, height // 2, width // 2, level + 1
        self.features = nn.Sequential(*layers)
        self.hidden = nn.Linear(before * height * width, hidden)
        self.logit = nn.Linear(hidden, 1)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        features = self.features(images).flatten(1)
        logits: Tensor = self.logit(leaky_relu(self.hidden(features), 0.2))[:, 0]
        return logits


class VggDiscriminator(Network):
    """VGG-style discriminator (SRGAN, 2017): BatchNorm and dense layers, so it takes images of data.resolution alone."""

    base_channels: Positive = 64
    """Channels of the first layers; those that follow have 2, 4 and at most 8 times as many."""
    hidden: Positive = 100
    """Numbers between the two dense layers; 1024 in SRGAN's paper."""

    def discriminator(self, shape: Shape) -> nn.Module:
        if shape.classes:
            raise InputError(f"networks.discriminator.kind = {self.kind} knows no classes; set data.labels: false")
        if min(shape.size) < 2 * _LEAST:
            raise InputError(
                f"networks.discriminator.kind = {self.kind} needs images of {2 * _LEAST} pixels; set data.resolution: {2 * _LEAST} "
                "or more, or choose patchgan"
            )
        return Discriminator(shape.channels, shape.size, self.base_channels, self.hidden)
