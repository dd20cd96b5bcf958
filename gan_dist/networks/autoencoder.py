"""Make the networks of VAE-GAN (Larsen et al., 2016): encoder, decoder, and a discriminator that gives its features.

Images of 64 pixels and 64 base channels make the networks of the paper. All three halve, or double, the image three times.
"""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from gan_dist.config.common import Config
from gan_dist.config.section import Positive
from gan_dist.errors import InputError
from gan_dist.networks import initialisation
from gan_dist.networks.base import Network, Shape
from gan_dist.networks.statistics import BatchNorm

Normalisation = Literal["batch", "layer", "none"]
_HALVINGS = 3


def _normalised(layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear, normalisation: Normalisation) -> list[nn.Module]:
    """Return a layer without bias and its normalisation; where there is none, the layer with a bias."""
    width = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    if normalisation == "none":
        layer.bias = nn.Parameter(torch.zeros(width))
        return [layer]
    return [layer, BatchNorm(width) if normalisation == "batch" else nn.GroupNorm(1, width)]


def _down(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 5, stride=2, padding=2, bias=False)


def _up(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, 5, stride=2, padding=2, output_padding=1, bias=False)


class Encoder(nn.Module):
    """(N, C, H, W) images -> means and log-variances of a Gaussian, (N, latent) each."""

    def __init__(self, size: tuple[int, int], channels: int, latent: int, base: int, norm: Normalisation) -> None:
        super().__init__()
        cells = (size[0] >> _HALVINGS) * (size[1] >> _HALVINGS)
        self.layers = nn.Sequential(
            *_normalised(_down(channels, base), norm),
            nn.ReLU(),
            *_normalised(_down(base, 2 * base), norm),
            nn.ReLU(),
            *_normalised(_down(2 * base, 4 * base), norm),
            nn.ReLU(),
            nn.Flatten(),
            *_normalised(nn.Linear(4 * base * cells, 16 * base, bias=False), norm),
            nn.ReLU(),
        )
        self.mean = nn.Linear(16 * base, latent)
        self.log_variance = nn.Linear(16 * base, latent)
        initialisation.dcgan(self)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.layers(images)
        return self.mean(hidden), self.log_variance(hidden)


class Decoder(nn.Module):
    """(N, latent) normal numbers -> (N, C, H, W) in [-1, 1]."""

    def __init__(self, size: tuple[int, int], channels: int, latent: int, base: int, norm: Normalisation) -> None:
        super().__init__()
        height, width = size[0] >> _HALVINGS, size[1] >> _HALVINGS
        last = max(1, base // 2)
        self.layers = nn.Sequential(
            *_normalised(nn.Linear(latent, 4 * base * height * width, bias=False), norm),
            nn.ReLU(),
            nn.Unflatten(1, (4 * base, height, width)),
            *_normalised(_up(4 * base, 4 * base), norm),
            nn.ReLU(),
            *_normalised(_up(4 * base, 2 * base), norm),
            nn.ReLU(),
            *_normalised(_up(2 * base, last), norm),
            nn.ReLU(),
            nn.Conv2d(last, channels, 5, padding=2),
            nn.Tanh(),
        )
        initialisation.dcgan(self)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        images: Tensor = self.layers(latents)
        return images


class Discriminator(nn.Module):
    """(N, C, H, W) images -> (N,) logits; with `features`, in a list of one scale, what each layer gives, logits the last.

    Features 1 to 4 are those of the convolutions, before their normalisation: the fourth are the paper's Dis_l.
    """

    def __init__(self, size: tuple[int, int], channels: int, base: int, norm: Normalisation) -> None:
        super().__init__()
        cells = (size[0] >> _HALVINGS) * (size[1] >> _HALVINGS)
        first, second, third = (
            _normalised(_down(*widths), norm)
            for widths in ((max(1, base // 2), 2 * base), (2 * base, 4 * base), (4 * base, 4 * base))
        )
        dense = _normalised(nn.Linear(4 * base * cells, 8 * base, bias=False), norm)
        self.blocks = nn.ModuleList(
            (
                nn.Conv2d(channels, max(1, base // 2), 5, padding=2),
                nn.Sequential(nn.ReLU(), first[0]),
                nn.Sequential(*first[1:], nn.ReLU(), second[0]),
                nn.Sequential(*second[1:], nn.ReLU(), third[0]),
                nn.Sequential(*third[1:], nn.ReLU(), nn.Flatten(), *dense, nn.ReLU()),
                nn.Sequential(nn.Linear(8 * base, 1), nn.Flatten(0)),
            )
        )
        initialisation.dcgan(self)

    def forward(self, images: Tensor, labels: Tensor | None = None, features: bool = False) -> Any:
        found = []
        for block in self.blocks:
            images = block(images)
            found.append(images)
        return [found] if features else images


class Autoencoder(Network):
    """The networks of VAE-GAN (Larsen et al., 2016): encoder, decoder and discriminator, for sides from 16 that 8 divides."""

    of_latents: ClassVar[bool] = True

    base_channels: Positive = 64
    """Width of the first layer; those that follow have 2 and 4 times as many, the dense ones 16 (encoder) and 8 times."""
    normalisation: Normalisation = "batch"
    """Of the layers inside; the discriminator's first and all last ones have none. batch: over the samples of a micro-batch,
    as in the paper. layer: over the numbers of a sample."""

    gives_features: ClassVar[bool] = True

    def check(self, config: Config) -> None:
        height, width = config.data.size
        if min(height, width) < 16 or height % 8 or width % 8:
            near = max(16, min(height, width) // 8 * 8)
            raise ValueError(
                f"networks.*.kind = autoencoder halves an image three times, and data.resolution is {config.data.resolution}; "
                f"set sides from 16 that 8 divides, for example {near}"
            )
        if self.normalisation == "batch" and config.training.micro_batch == 1:
            raise ValueError(
                "networks.*.kind = autoencoder normalises single numbers over the samples of a micro-batch, which takes two; "
                "set training.micro_batch: 2 or more, or networks.*.normalisation: layer"
            )

    def encoder(self, shape: Shape) -> nn.Module:
        return Encoder(shape.size, shape.channels, shape.latent, self.base_channels, self.normalisation)

    def generator(self, shape: Shape) -> nn.Module:
        self._refuse_classes(shape)
        return Decoder(shape.size, shape.channels, shape.latent, self.base_channels, self.normalisation)

    def discriminator(self, shape: Shape) -> nn.Module:
        self._refuse_classes(shape)
        return Discriminator(shape.size, shape.channels, self.base_channels, self.normalisation)

    def _refuse_classes(self, shape: Shape) -> None:
        if shape.classes:
            raise InputError("networks.*.kind = autoencoder knows no classes; set data.labels: false, or another kind")


class Vae(nn.Module):
    """An encoder and a decoder that one optimizer trains (Kingma and Welling, 2014)."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the reconstruction of images by latents that are drawn with `noise`, and their means and log-variances."""
        mean, log_variance = self.encoder(images)
        return self.decoder(drawn(mean, log_variance, noise), None), mean, log_variance


def drawn(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """Return latents of a Gaussian, as a function of standard normal noise that gradients flow through."""
    return mean + (log_variance / 2).exp() * noise
