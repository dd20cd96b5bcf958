"""Make the ResNet generator of CycleGAN (Zhu et al., 2017; Johnson et al., 2016): an image into an image of the same size."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from gan_dist import units
from gan_dist.config.common import Config
from gan_dist.config.section import Positive
from gan_dist.errors import InputError
from gan_dist.networks import initialisation
from gan_dist.networks.base import Network, Shape
from gan_dist.networks.normalisation import Normalisation, normalised

_LARGE = 256
"""Pixels of the shorter side from which on the paper has 9 blocks, and 6 below."""


class Reflect(nn.Module):
    """Images (N, C, H, W) continued by their mirror image: (N, C, H + 2 * width, W + 2 * width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, images: Tensor) -> Tensor:
        # torch's own has no deterministic gradient on a GPU
        for axis in (2, 3):
            size = images.shape[axis]
            before = images.narrow(axis, 1, self.width).flip(axis)
            after = images.narrow(axis, size - self.width - 1, self.width).flip(axis)
            images = torch.cat([before, images, after], axis)
        return images


class Block(nn.Module):
    """x + f(x), of two convolutions."""

    def __init__(self, channels: int, norm: Normalisation) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            convolution = nn.Conv2d(channels, channels, 3, bias=False)
            layers += [Reflect(1), *normalised(convolution, norm), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = x + self.layers(x)
        return output


class Generator(nn.Module):
    """(N, inputs, H, W) images -> (N, channels, H, W) in [-1, 1]; H and W are multiples of 4."""

    multiple = 4

    def __init__(self, inputs: int, channels: int, base: int, blocks: int, norm: Normalisation) -> None:
        super().__init__()
        layers: list[nn.Module] = [Reflect(3), *normalised(nn.Conv2d(inputs, base, 7, bias=False), norm), nn.ReLU()]
        for width in (base, 2 * base):
            layers += [*normalised(nn.Conv2d(width, 2 * width, 3, 2, 1, bias=False), norm), nn.ReLU()]
        layers += [Block(4 * base, norm) for _ in range(blocks)]
        for width in (4 * base, 2 * base):
            transposed = nn.ConvTranspose2d(width, width // 2, 3, 2, 1, output_padding=1, bias=False)
            layers += [*normalised(transposed, norm), nn.ReLU()]
        layers += [Reflect(3), nn.Conv2d(base, channels, 7), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        initialisation.dcgan(self)

    def forward(self, images: Tensor) -> Tensor:
        made: Tensor = self.layers(images)
        return made


class Resnet(Network):
    """ResNet generator of CycleGAN (Zhu et al., 2017): two halvings, residual blocks, two doublings."""

    base_channels: Positive = 64
    """Channels of the outermost layers; the residual blocks have 4 times as many."""
    blocks: Annotated[int, Field(ge=0, le=32)] = 0
    """Residual blocks. 0: 9 for images from 256 pixels, 6 for smaller ones, as in the paper."""
    normalisation: Normalisation = "plain"
    """Of all layers but the last. plain: over the pixels of each image and channel, without anything that is learnt, as in the
    paper. instance: with a scale and a shift. batch: over a micro-batch."""

    def check(self, config: Config) -> None:
        size = config.data.size
        if any(side % Generator.multiple for side in size) or min(size) < 8:
            near = units.pixels((max(8, size[0] // 4 * 4), max(8, size[1] // 4 * 4)))
            raise ValueError(
                f"networks.generator.kind = resnet needs sides that are multiples of 4, from 8 on, and data.resolution = "
                f"{units.pixels(size)}; for example {near} is"
            )

    def generator(self, shape: Shape) -> nn.Module:
        if not shape.inputs:
            raise InputError(
                "networks.generator.kind = resnet turns images into images; set game.kind: unpaired or paired, or another "
                "kind of network"
            )
        blocks = self.blocks or (9 if min(shape.size) >= _LARGE else 6)
        return Generator(shape.inputs, shape.channels, self.base_channels, blocks, self.normalisation)
