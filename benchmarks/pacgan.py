"""PacGAN's small networks for StackedMNIST (Lin et al., 2018, Table 3): a discriminator of 585 weights loses modes.

    python gan_dist/train.py benchmarks/pacgan.yaml --data.shards data/stacked-mnist

`width` 4 is the paper's setting "D = 1/2 G", 2 is "D = 1/4 G". Images have 32x32 pixels, padded from the paper's 28x28.
"""

from functools import partial
from typing import Literal

from torch import Tensor, nn

from gan_dist.config import Positive
from gan_dist.networks import Network, Shape
from gan_dist.networks.statistics import BatchNorm


class Small(Network):
    """Networks of one size, 32x32."""

    width: Positive = 2
    """Channels of the discriminator's first layer; the further ones have 2 and 4 times as many."""
    normalisation: Literal["batch", "none"] = "batch"
    """Of the discriminator."""

    def generator(self, shape: Shape) -> nn.Module:
        return Generator(shape.latent, shape.channels)

    def discriminator(self, shape: Shape) -> nn.Module:
        return Discriminator(shape.channels, self.width, self.normalisation == "batch")


class Generator(nn.Module):
    def __init__(self, latent: int, channels: int) -> None:
        super().__init__()
        self.first = nn.Linear(latent, 64 * 16)
        layers: list[nn.Module] = []
        for width in (32, 16, 8):
            layers += [BatchNorm(2 * width), nn.ReLU()]
            layers += [nn.ConvTranspose2d(2 * width, width, 3, stride=2, padding=1, output_padding=1)]
        self.layers = nn.Sequential(*layers, BatchNorm(8), nn.ReLU(), nn.Conv2d(8, channels, 3, padding=1), nn.Tanh())

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        images: Tensor = self.layers(self.first(latents).view(-1, 64, 4, 4))
        return images


class Discriminator(nn.Module):
    def __init__(self, channels: int, width: int, normalised: bool) -> None:
        super().__init__()
        widths = [channels, width, 2 * width, 4 * width]
        norm = BatchNorm if normalised else nn.Identity
        layers: list[nn.Module] = []
        down = partial(nn.Conv2d, kernel_size=3, stride=2, padding=1)
        for number in range(3):
            layers += [down(widths[number], widths[number + 1]), norm(widths[number + 1]), nn.LeakyReLU(0.3)]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * widths[-1], 1))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits.flatten()
