"""Make the U-Net of pix2pix (Isola et al., 2017; Ronneberger et al., 2015): an image into an image of the same size."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, relu

from gan_dist import units
from gan_dist.config.common import Config
from gan_dist.config.section import Fraction, Positive
from gan_dist.errors import InputError
from gan_dist.networks import initialisation
from gan_dist.networks.base import Network, Shape
from gan_dist.networks.normalisation import Normalisation, normalised
from gan_dist.rng import Draws

_WITH_DROPOUT = 3
"""Innermost layers of the decoder whose numbers are dropped."""


class Generator(nn.Module):
    """(N, inputs, H, W) images -> (N, channels, H, W) in [-1, 1]; H and W are multiples of `multiple`.

    Its noise is dropout, of numbers that `draws` chooses by each sample's position. Without `draws` nothing is dropped.
    """

    takes_draws = True

    def __init__(
        self, inputs: int, channels: int, base: int, levels: int, norm: Normalisation = "instance", dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.multiple, self.dropout = 2**levels, dropout
        widths = [base * min(8, 2**level) for level in range(levels)]
        down: list[nn.Module] = []
        for level, width in enumerate(widths):
            convolution = nn.Conv2d(widths[level - 1] if level else inputs, width, 4, 2, 1, bias=False)
            # no normalisation of the first layer, so that colours survive, nor of the last, which may have a single pixel
            outer = level in (0, levels - 1)
            down.append(convolution if outer else nn.Sequential(*normalised(convolution, norm)))
        self.down = nn.ModuleList(down)
        up: list[nn.Module] = []
        for level in reversed(range(1, levels)):
            wide = widths[level] * (1 if level == levels - 1 else 2)
            transposed = nn.ConvTranspose2d(wide, widths[level - 1], 4, 2, 1, bias=False)
            up.append(nn.Sequential(*normalised(transposed, norm)))
        self.up = nn.ModuleList(up)
        self.last = nn.ConvTranspose2d(widths[0] * (1 if levels == 1 else 2), channels, 4, 2, 1)
        initialisation.dcgan(self)

    def forward(self, images: Tensor, draws: Draws | None = None) -> Tensor:
        skips = [self.down[0](images)]
        for layer in list(self.down)[1:]:
            skips.append(layer(leaky_relu(skips[-1], 0.2)))
        x = skips.pop()
        for number, layer in enumerate(self.up):
            x = layer(relu(x))
            if number < _WITH_DROPOUT and self.dropout and draws is not None:
                x = dropped(x, self.dropout, draws, f"dropout {number}")
            x = torch.cat([x, skips.pop()], dim=1)
        return torch.tanh(self.last(relu(x)))


def dropped(x: Tensor, rate: float, draws: Draws, name: str) -> Tensor:
    """Set numbers to 0 with probability `rate`, and enlarge the others so that the mean stays (Srivastava et al., 2014).

    Which ones depends on each sample's position, so every number of ranks and every resume drops the same.
    """
    kept = draws.uniform(name, *x.shape[1:]) >= rate
    return x * (kept.to(x.dtype) / (1 - rate))


class Unet(Network):
    """U-Net of pix2pix (Isola et al., 2017), with skips from each layer of the encoder to the decoder's of the same size."""

    base_channels: Positive = 64
    """Channels of the outermost layer; those inside have 2, 4 and at most 8 times as many."""
    levels: Annotated[int, Field(ge=0, le=10)] = 0
    """Halvings from the image to the innermost layer. 0: until a side is odd, 8 at most, which is the paper's for 256 pixels."""
    normalisation: Normalisation = "instance"
    """Of all layers but the outermost and the innermost. instance: over the pixels of each image and channel, with a scale and
    a shift that are learnt: the paper's BatchNorm for one image at a time, for any micro_batch. batch: over a micro-batch."""
    dropout: Fraction = 0.5
    """Part of the numbers that the three innermost layers of the decoder drop, in training and in samples: the paper's only
    noise. 0: the same input always gives the same output, as in all games but paired."""

    def check(self, config: Config) -> None:
        self.levels_of(config.data.size)

    def levels_of(self, size: tuple[int, int]) -> int:
        """Return the halvings for images of a size. Raises ValueError where there are none, or not so many."""
        most = _halvings(size)
        if not most:
            even = units.pixels((max(2, size[0] // 2 * 2), max(2, size[1] // 2 * 2)))
            raise ValueError(
                f"networks.generator.kind = unet needs sides that are multiples of 2, and data.resolution = "
                f"{units.pixels(size)}; set data.resolution: {even}"
            )
        if self.levels > most:
            raise ValueError(
                f"networks.generator.kind = unet with {self.levels} levels needs sides that are multiples of "
                f"{2**self.levels}, and data.resolution = {units.pixels(size)}; change data.resolution, or set levels: {most}"
            )
        return self.levels or min(8, most)

    def generator(self, shape: Shape) -> nn.Module:
        if not shape.inputs:
            raise InputError(
                "networks.generator.kind = unet turns images into images; set game.kind: paired, or another kind of network"
            )
        levels = self.levels_of(shape.size)
        return Generator(shape.inputs, shape.channels, self.base_channels, levels, self.normalisation, self.dropout)


def _halvings(size: tuple[int, int]) -> int:
    height, width = size
    count = 0
    while height % 2 == 0 and width % 2 == 0:
        height, width, count = height // 2, width // 2, count + 1
    return count
