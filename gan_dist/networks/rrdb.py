"""Make RRDBNet, the generator of ESRGAN (Wang et al., 2018) and Real-ESRGAN (Wang et al., 2021)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu, pixel_unshuffle

from gan_dist import units
from gan_dist.config.section import Positive
from gan_dist.errors import InputError
from gan_dist.networks import initialisation
from gan_dist.networks.base import Network, Shape

_RESIDUE = 0.2
"""What a residual branch is multiplied by."""
_LARGEST = 4
"""The network enlarges by this; smaller scales fold pixels into channels first."""


class Dense(nn.Module):
    """(N, C, H, W) -> the same: five convolutions, each of all that came before, of which the last is added."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        outputs = [growth] * 4 + [width]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(width + number * growth, after, 3, 1, 1) for number, after in enumerate(outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        found = [x]
        *inner, last = self.convolutions
        for convolution in inner:
            found.append(leaky_relu(convolution(torch.cat(found, 1)), 0.2))
        added: Tensor = last(torch.cat(found, 1))
        return x + _RESIDUE * added


class Block(nn.Module):
    """The residual in residual dense block: three dense ones, and the input added again."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.dense = nn.Sequential(*(Dense(width, growth) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.dense(x)
        return x + _RESIDUE * added


class Generator(nn.Module):
    """(N, inputs, H, W) images -> (N, channels, scale * H, scale * W), about in [-1, 1]; sides are multiples of `multiple`."""

    def __init__(self, inputs: int, channels: int, base: int, growth: int, blocks: int, scale: int) -> None:
        super().__init__()
        self.scale, self.multiple = scale, _LARGEST // scale
        self.first = nn.Conv2d(inputs * self.multiple**2, base, 3, 1, 1)
        self.body = nn.Sequential(*(Block(base, growth) for _ in range(blocks)))
        self.trunk = nn.Conv2d(base, base, 3, 1, 1)
        self.up = nn.ModuleList(nn.Conv2d(base, base, 3, 1, 1) for _ in range(2))
        self.high = nn.Conv2d(base, base, 3, 1, 1)
        self.last = nn.Conv2d(base, channels, 3, 1, 1)
        initialisation.kaiming(self.body, 0.1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.first(pixel_unshuffle(images, self.multiple) if self.multiple > 1 else images)
        x = x + self.trunk(self.body(x))
        for layer in self.up:
            x = leaky_relu(layer(interpolate(x, scale_factor=2.0, mode="nearest")), 0.2)
        made: Tensor = self.last(leaky_relu(self.high(x), 0.2))
        return made


class Rrdb(Network):
    """RRDBNet (ESRGAN, 2018): for factors 4, 2 and 1, of which the latter two fold pixels into channels at the beginning."""

    base_channels: Positive = 64
    """Channels between blocks."""
    growth: Positive = 32
    """Channels that each convolution of a dense block adds."""
    blocks: Positive = 23
    """RRDBs, of 15 convolutions each. 6 in Real-ESRGAN's anime model."""

    def generator(self, shape: Shape) -> nn.Module:
        if not shape.inputs:
            raise InputError(
                f"networks.generator.kind = {self.kind} turns images into images; set game.kind: restoration, or another kind of network"
            )
        if shape.scale not in (1, 2, 4):
            raise InputError(
                f"networks.generator.kind = {self.kind} enlarges by 1, 2 or 4, not by {shape.scale}; choose msrresnet, or another "
                "factor"
            )
        multiple = _LARGEST // shape.scale
        if any(side // shape.scale % multiple for side in shape.size):
            near = units.pixels((max(4, shape.size[0] // 4 * 4), max(4, shape.size[1] // 4 * 4)))
            raise InputError(
                f"networks.generator.kind = {self.kind} needs sides that are multiples of 4, and data.resolution = "
                f"{units.pixels(shape.size)}; set data.resolution: {near}"
            )
        return Generator(shape.inputs, shape.channels, self.base_channels, self.growth, self.blocks, shape.scale)
