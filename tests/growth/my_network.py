"""A network of one's own: a generator and a discriminator of plain residual blocks, and their keys."""

import torch
from torch import Tensor, nn

from gan_dist.config import Positive
from gan_dist.networks import Network, Shape


class Residual(Network):
    """Residual blocks without normalisation, for sizes that are 4 times a power of two."""

    width: Positive = 16
    """Channels of every layer."""

    def generator(self, shape: Shape) -> nn.Module:
        return Generator(self.width, shape)

    def discriminator(self, shape: Shape) -> nn.Module:
        return Discriminator(self.width, shape)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.SiLU(), nn.Conv2d(width, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.5 * self.layers(x)


class Generator(nn.Module):
    def __init__(self, width: int, shape: Shape) -> None:
        super().__init__()
        self.width, self.doublings = width, (shape.resolution // 4).bit_length() - 1
        self.start = nn.Linear(shape.latent, 16 * width)
        self.blocks = nn.ModuleList([Block(width) for _ in range(self.doublings)])
        self.end = nn.Conv2d(width, shape.channels, 3, padding=1)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.start(latents).view(-1, self.width, 4, 4)
        for block in self.blocks:
            x = block(nn.functional.interpolate(x, scale_factor=2))
        return torch.tanh(self.end(x))


class Discriminator(nn.Module):
    def __init__(self, width: int, shape: Shape) -> None:
        super().__init__()
        halvings = (shape.resolution // 4).bit_length() - 1
        self.start = nn.Conv2d(shape.channels, width, 3, padding=1)
        self.blocks = nn.ModuleList([Block(width) for _ in range(halvings)])
        self.end = nn.Linear(16 * width, 1)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.start(images)
        for block in self.blocks:
            x = nn.functional.avg_pool2d(block(x), 2)
        return self.end(x.flatten(1))[:, 0]
