"""Make networks of fully connected layers for points: no convolutions, as points have no neighbours."""

from typing import ClassVar, Literal

from torch import Tensor, nn

from gan_dist.config.section import Positive
from gan_dist.networks.base import Network, Shape


class Generator(nn.Module):
    """(N, latent) numbers -> (N, points): ReLU between the layers, nothing after the last."""

    def __init__(self, latent: int, points: int, width: int, depth: int) -> None:
        super().__init__()
        self.layers = _layers(latent, points, width, depth, nn.ReLU())

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        points: Tensor = self.layers(latents)
        return points


class Discriminator(nn.Module):
    """(N, points) -> (N,) logits, by LeakyReLU."""

    def __init__(self, points: int, width: int, depth: int) -> None:
        super().__init__()
        self.layers = _layers(points, 1, width, depth, nn.LeakyReLU(0.2))

    def forward(self, points: Tensor, labels: Tensor | None = None) -> Tensor:
        logits: Tensor = self.layers(points).flatten()
        return logits


def _layers(inputs: int, outputs: int, width: int, depth: int, activation: nn.Module) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size in (inputs, *[width] * (depth - 1)):
        layers += [nn.Linear(size, width), activation]
    network = nn.Sequential(*layers, nn.Linear(width, outputs))
    for layer in network:
        if isinstance(layer, nn.Linear):
            # torch's own weights make outputs of 0.05, so that all points begin in one place; its biases stay, as without them
            # all kinks of the discriminator begin in the origin, and points gather on rays from it
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return network


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
