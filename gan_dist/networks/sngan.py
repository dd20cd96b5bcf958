"""Make the residual networks of SNGAN (Miyato et al., 2018) and its projection discriminator (Miyato and Koyama, 2018)."""

import functools
import math
from typing import ClassVar

from torch import nn

from gan_dist.config.common import Config
from gan_dist.config.section import Positive
from gan_dist.errors import InputError
from gan_dist.networks.base import Network, Shape
from gan_dist.networks.residual import (
    ConditionalBatchNorm,
    Discriminator,
    DownBlock,
    Generator,
    UpBlock,
    settle,
    start_in,
)
from gan_dist.networks.statistics import BatchNorm, SpectralEmbedding

EPSILON = 2e-5  # of the original's BatchNorm (Chainer's default)

# by the doublings from the smallest image (32, 64, 128 pixels from 4), in base_channels
GENERATOR: dict[int, tuple[int, ...]] = {3: (4, 4, 4, 4), 4: (16, 8, 4, 2, 1), 5: (16, 16, 8, 4, 2, 1)}
"""Channels before and after each block."""
DISCRIMINATOR: dict[int, tuple[int, tuple[int, ...]]] = {
    3: (2, (2, 2, 2, 2)),
    4: (5, (1, 2, 4, 8, 16)),
    5: (5, (1, 2, 4, 8, 16, 16)),
}
"""How many blocks halve the image, and channels after each block."""


class Sngan(Network):
    """SNGAN's ResNets (Miyato et al., 2018): 32, 64 and 128 pixels, and what doubles as often (48, 96x64, ...)."""

    of_latents: ClassVar[bool] = True

    base_channels: Positive = 64
    """Channels of the layers next to the image from 64 pixels; those inside have up to 16 times as many. At 32 pixels all layers
    of the generator have 4 times, all of the discriminator 2 times as many."""

    def check(self, config: Config) -> None:
        try:
            start_in(config.data.size, GENERATOR, self.kind)
        except InputError as error:
            raise ValueError(str(error)) from None

    def generator(self, shape: Shape) -> nn.Module:
        height, width, doublings = start_in(shape.size, GENERATOR, self.kind)
        widths = [self.base_channels * each for each in GENERATOR[doublings]]
        norm = functools.partial(_norm, classes=shape.classes)
        network = Generator((height, width), widths, shape.channels, shape.latent, norm, EPSILON)
        _draw_weights(network)
        return network

    def discriminator(self, shape: Shape) -> nn.Module:
        doublings = start_in(shape.size, DISCRIMINATOR, self.kind)[2]
        halvings, multiples = DISCRIMINATOR[doublings]
        widths = [self.base_channels * each for each in multiples]
        # the original's network for 32 pixels, and only that, has no bias in its last layer
        network = Discriminator(shape.channels, widths, halvings, shape.classes, thin=True, bias=doublings > 3)
        _draw_weights(network)
        return network


def _norm(channels: int, classes: int) -> BatchNorm:
    """Return BatchNorm, with a scale and a shift of its own for each class where there are classes."""
    if not classes:
        return BatchNorm(channels, epsilon=EPSILON)
    return ConditionalBatchNorm(channels, nn.Embedding(classes, channels), nn.Embedding(classes, channels), EPSILON)


def _draw_weights(network: nn.Module) -> None:
    """Draw weights by Glorot and Bengio (2010), uniform, times sqrt(2) in the 3x3 convolutions of blocks; biases zero.

    The classes' scales begin at 1 and their shifts at 0.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, SpectralEmbedding):
            nn.init.xavier_uniform_(module.weight)
        elif isinstance(module, nn.Embedding):
            nn.init.zeros_(module.weight)
    for module in network.modules():
        if isinstance(module, UpBlock | DownBlock):
            for convolution in (module.convolution1, module.convolution2):
                nn.init.xavier_uniform_(convolution.weight, math.sqrt(2))
    settle(network)
