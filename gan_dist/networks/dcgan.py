"""Make the networks of DCGAN (Radford, Metz and Chintala, 2016) for any power-of-two size from 8, grey or RGB."""

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from gan_dist.config.common import Config
from gan_dist.config.section import Positive
from gan_dist.networks import initialisation
from gan_dist.networks.base import Network, Shape
from gan_dist.networks.residual import ConditionalBatchNorm
from gan_dist.networks.statistics import BatchNorm

Normalisation = Literal["batch", "layer", "none"]
Conditioning = Literal["batch_norm", "concatenation"]


def _normalised(
    convolution: nn.Conv2d | nn.ConvTranspose2d, normalisation: Normalisation, classes: int = 0
) -> list[nn.Module]:
    """Return the layers of a convolution with its normalisation, by class where there are some; without one it has a bias."""
    channels = convolution.out_channels
    if classes:
        gain, shift = nn.Embedding(classes, channels), nn.Embedding(classes, channels)
        for table in (gain, shift):
            nn.init.zeros_(table.weight)
        return [convolution, ConditionalBatchNorm(channels, gain, shift, epsilon=1e-5)]
    if normalisation == "none":
        convolution.bias = nn.Parameter(torch.zeros(channels))
        return [convolution]
    return [convolution, BatchNorm(channels) if normalisation == "batch" else nn.GroupNorm(1, channels)]


class Generator(nn.Module):
    """(N, latent) normal numbers [and (N,) classes] -> (N, C, size, size) in [-1, 1]."""

    def __init__(
        self,
        size: int,
        channels: int,
        latent: int,
        base: int,
        classes: int = 0,
        norm: Normalisation = "batch",
        conditioning: Conditioning = "batch_norm",
    ) -> None:
        super().__init__()
        joined = classes if conditioning == "concatenation" else 0
        by_class = classes - joined
        self.classes = nn.Embedding(joined, latent) if joined else None
        doublings = int(math.log2(size)) - 2
        width = base * 2 ** (doublings - 1)
        first = nn.ConvTranspose2d(2 * latent if joined else latent, width, 4, bias=False)  # 4x4
        layers: list[nn.Module] = [*_normalised(first, norm, by_class), nn.ReLU()]
        for _ in range(doublings - 1):
            up = nn.ConvTranspose2d(width, width // 2, 4, stride=2, padding=1, bias=False)
            layers += [*_normalised(up, norm, by_class), nn.ReLU()]
            width //= 2
        self.layers = nn.Sequential(
            *layers, nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1, bias=False), nn.Tanh()
        )
        initialisation.dcgan(self)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        if self.classes is not None:
            latents = torch.cat([latents, self.classes(labels)], dim=1)
        x = latents[:, :, None, None]
        for layer in self.layers:
            x = layer(x, labels) if isinstance(layer, ConditionalBatchNorm) else layer(x)
        return x


class Discriminator(nn.Module):
    """(N, C, size, size) images [and (N,) classes] -> (N,) logits."""

    def __init__(self, size: int, channels: int, base: int, classes: int = 0, norm: Normalisation = "batch") -> None:
        super().__init__()
        halvings = int(math.log2(size)) - 2
        layers: list[nn.Module] = [nn.Conv2d(channels, base, 4, stride=2, padding=1, bias=False), nn.LeakyReLU(0.2)]
        width = base
        for _ in range(halvings - 1):
            down = nn.Conv2d(width, 2 * width, 4, stride=2, padding=1, bias=False)
            layers += [*_normalised(down, norm), nn.LeakyReLU(0.2)]
            width *= 2
        self.features = nn.Sequential(*layers)
        self.logit = nn.Conv2d(width, 1, 4, bias=False)
        initialisation.dcgan(self)
        self.classes = nn.Embedding(classes, width) if classes else None

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        features = self.features(images)
        logits: Tensor = self.logit(features).flatten()
        if self.classes is not None:  # projection (Miyato and Koyama, 2018)
            logits = logits + (self.classes(labels) * features.mean((2, 3))).sum(1)
        return logits


class Dcgan(Network):
    """DCGAN (Radford et al., 2016): any power of two from 8, grey or RGB."""

    of_latents: ClassVar[bool] = True

    base_channels: Positive = 64
    """Channels of the layers next to the image; the layers inside have 2, 4, 8 times as many."""
    normalisation: Normalisation = "batch"
    """Of all layers but those next to the image and the logit. batch: over the samples of a micro-batch (DCGAN). layer: over
    the numbers of a sample. A discriminator under wgan_gp takes layer or none, as its gradient must be of a sample alone."""

    conditioning: Conditioning = "batch_norm"
    """Generator only: how it learns of data.labels. batch_norm: each BatchNorm has a scale and a shift of each class (de Vries
    et al., 2017). concatenation: the latents are joined with an embedding of the class (Mirza and Osindero, 2014), which
    gave one picture a class here: the classes differ enough for BatchNorm, so that latents need not count."""

    def check(self, config: Config) -> None:
        role = next((name for name, part in config.networks if part is self), "")
        if self.conditioning == "concatenation" and (role != "generator" or not config.data.labels):
            why = "without data.labels: true" if role == "generator" else "as it is the generator's"
            raise ValueError(f"networks.{role}.conditioning has no effect {why}; remove it")
        by_class = role == "generator" and config.data.labels and self.conditioning == "batch_norm"
        if by_class and self.normalisation != "batch":
            raise ValueError(
                f"networks.generator.normalisation = {self.normalisation} leaves no BatchNorm to learn the classes by; set "
                "networks.generator.conditioning: concatenation, or normalisation: batch"
            )
        height, width = config.data.size
        if height != width or height < 8 or height & (height - 1):
            raise ValueError(
                f"networks.*.kind = dcgan needs a power of two from 8 as data.resolution, not {config.data.resolution}; "
                f"for example {max(8, 1 << (min(height, width).bit_length() - 1))}"
                f"{'' if height == width else '; sngan, biggan, stylegan2 and r3gan make other shapes'}"
            )

    def generator(self, shape: Shape) -> nn.Module:
        return Generator(
            shape.resolution,
            shape.channels,
            shape.latent,
            self.base_channels,
            shape.classes,
            self.normalisation,
            self.conditioning,
        )

    def discriminator(self, shape: Shape) -> nn.Module:
        return Discriminator(shape.resolution, shape.channels, self.base_channels, shape.classes, self.normalisation)
