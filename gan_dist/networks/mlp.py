"""Make networks of fully connected layers for points: no convolutions, as points have no neighbours."""

from typing import ClassVar, Literal

from torch import Tensor, nn

from gan_dist.config.section import Positive
from gan_dist.networks.base import Network, Shape


class Generator(nn.Module):
    """(N, latent) numbers -> (N, points): ReLU between the layers, nothing after the last."""

    def __init__(self, latent: int, points: int, width: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*_hidden(latent, width, depth, nn.ReLU()), nn.Linear(width, points))

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        points: Tensor = self.layers(latents)
        return points


class Discriminator(nn.Module):
    """(N, points) -> (N,) logits, by LeakyReLU."""

    def __init__(self, points: int, width: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*_hidden(points, width, depth, nn.LeakyReLU(0.2)), nn.Linear(width, 1))

    def forward(self, points: Tensor, labels: Tensor | None = None) -> Tensor:
        logits: Tensor = self.layers(points).flatten()
        return logits


def _hidden(inputs: int, width: int, depth: int, activation: nn.Module) -> list[nn.Module]:
    sizes = [inputs, *[width] * (depth - 1)]
    return [layer for size in sizes for layer in (nn.Linear(size, width), activation)]


class Mlp(Network):
    """Fully connected layers, for points."""

    width: Positive = 128
    """Numbers in a hidden layer."""
    depth: Positive = 3
    """Hidden layers."""

    samples: ClassVar[Literal["images", "points"]] = "points"

    def generator(self, shape: Shape) -> nn.Module:
        return Generator(shape.latent, shape.points, self.width, self.depth)

    def discriminator(self, shape: Shape) -> nn.Module:
        return Discriminator(shape.points, self.width, self.depth)
