"""Make the ResNet generator of CycleGAN (Zhu et al., 2017; Johnson et al., 2016): an image into an image of the same size."""

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from gan_dist import units
from gan_dist.config.common import Config
from gan_dist.config.section import Positive
from gan_dist.errors import InputError
from gan_dist.networks import initialisation
from gan_dist.networks.base import Network, Shape
from gan_dist.networks.blur import Double, Halve
from gan_dist.networks.normalisation import Normalisation, normalised

_LARGE = 256
"""Pixels of the shorter side from which on the paper has 9 blocks, and 6 below."""
_DEEP = 4
"""The residual block whose output is the deepest of the features: the fifth."""


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
    least = 8
    """Of a side in pixels: the blocks see a quarter of it, and continue that by its mirror image."""

    def __init__(
        self,
        inputs: int,
        channels: int,
        base: int,
        blocks: int,
        norm: Normalisation,
        blur: bool = False,
        weights: initialisation.Weights = "normal",
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [Reflect(3), *normalised(nn.Conv2d(inputs, base, 7, bias=False), norm), nn.ReLU()]
        self.taps: tuple[int, ...] = (0,)
        for width in (base, 2 * base):
            self.taps += (len(layers),)
            convolution = nn.Conv2d(width, 2 * width, 3, 1 if blur else 2, 1, bias=False)
            layers += [*normalised(convolution, norm), nn.ReLU(), *([Halve()] if blur else [])]
        self.taps += tuple(len(layers) + number for number in (0, _DEEP) if number < blocks)
        self.widths = (inputs, 2 * base, 4 * base, *(len(self.taps) - 3) * [4 * base])
        """Channels of the features."""
        layers += [Block(4 * base, norm) for _ in range(blocks)]
        for width in (4 * base, 2 * base):
            larger: nn.Conv2d | nn.ConvTranspose2d = (
                nn.Conv2d(width, width // 2, 3, 1, 1, bias=False)
                if blur
                else nn.ConvTranspose2d(width, width // 2, 3, 2, 1, output_padding=1, bias=False)
            )
            layers += [*([Double()] if blur else []), *normalised(larger, norm), nn.ReLU()]
        layers += [Reflect(3), nn.Conv2d(base, channels, 7), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        initialisation.initialise(self, weights)

    def forward(self, images: Tensor, features: bool = False, decode: bool = True) -> Any:
        """Return the images; with `features`, these and what layers of the encoder made of them, which CUT compares.

        The features are the input with its border, both convolutions that halve it, and the first and the fifth block,
        (N, C, h, w) each. Without `decode` they are all that is returned, and computed.
        """
        if not features:
            return self.layers(images)
        found = []
        for number, layer in enumerate(self.layers):
            images = layer(images)
            if number in self.taps:
                found.append(images)
            if number == self.taps[-1] and not decode:
                return found
        return images, found


class Resnet(Network):
    """ResNet generator of CycleGAN (Zhu et al., 2017): two halvings, residual blocks, two doublings."""

    base_channels: Positive = 64
    """Channels of the outermost layers; the residual blocks have 4 times as many."""
    blocks: Annotated[int, Field(ge=0, le=32)] = 0
    """Residual blocks. 0: 9 for images from 256 pixels, 6 for smaller ones, as in the paper."""
    normalisation: Normalisation = "plain"
    """Of all layers but the last. plain: over the pixels of each image and channel, without anything that is learnt, as in the
    paper. instance: with a scale and a shift. batch: over a micro-batch."""
    blur: bool = False
    """Halve and double behind a blur, as CUT does (Zhang, 2019), instead of by strides."""
    weights: initialisation.Weights = "normal"
    """Initial weights. normal: of deviation 0.02. xavier: Glorot's with a gain of 0.02, as in CUT."""

    gives_layers: ClassVar[bool] = True

    def check(self, config: Config) -> None:
        size = config.data.size
        if any(side % Generator.multiple for side in size) or min(size) < Generator.least:
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
        return Generator(
            shape.inputs, shape.channels, self.base_channels, blocks, self.normalisation, self.blur, self.weights
        )
