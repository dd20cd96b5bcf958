"""Make the networks of BigGAN (Brock, Donahue and Simonyan, 2019)."""

import functools
from collections.abc import Callable, Collection, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from gan_dist.config.common import Config
from gan_dist.config.section import Positive
from gan_dist.errors import InputError
from gan_dist.networks import residual
from gan_dist.networks.base import Network, Shape
from gan_dist.networks.residual import ConditionalBatchNorm, settle, start_in
from gan_dist.networks.statistics import BatchNorm, SpectralConv2d, SpectralLinear

EPSILON = 1e-5  # of BatchNorm

# by the doublings from the smallest image (32, 64, 128, 256 pixels from 4), in base_channels
GENERATOR: dict[int, tuple[int, ...]] = {
    3: (4, 4, 4, 4),
    4: (16, 16, 8, 4, 2),
    5: (16, 16, 8, 4, 2, 1),
    6: (16, 16, 8, 8, 4, 2, 1),
}
"""Channels before and after each block."""
DISCRIMINATOR: dict[int, tuple[int, tuple[int, ...]]] = {
    3: (2, (4, 4, 4, 4)),
    4: (4, (1, 2, 4, 8, 16)),
    5: (5, (1, 2, 4, 8, 16, 16)),
    6: (6, (1, 2, 4, 8, 8, 16, 16)),
}
"""How many blocks halve the image, and channels after each block."""


class Generator(residual.Generator):
    """(N, latent) normal numbers [and (N,) classes] -> (N, C, H, W) in [-1, 1]."""

    def __init__(
        self,
        start: tuple[int, int],
        widths: Sequence[int],
        channels: int,
        latent: int,
        classes: int,
        shared: int,
        hierarchical: bool,
        attention: Collection[int] = (),
    ) -> None:
        """`shared` and `hierarchical` are the keys of Biggan; other arguments are residual.Generator's."""
        slots = len(widths) if hierarchical else 1
        assert latent % slots == 0
        assert shared or not (classes and hierarchical)
        condition = (shared if classes else 0) + (latent // slots if hierarchical else 0)
        norm = _norm(condition, 0 if shared else classes)
        super().__init__(
            start, widths, channels, latent // slots, norm, EPSILON, SpectralConv2d, SpectralLinear, attention
        )
        self.shared = nn.Embedding(classes, shared) if classes and shared else None
        self.slots = slots

    def conditions(self, latents: Tensor, labels: Tensor | None) -> tuple[Tensor, Sequence[Tensor | None]]:
        """Return what the stem gets, and what the norms of each block get: [embedding of the class, part of the latents]."""
        stem, *parts = latents.chunk(self.slots, 1)
        if self.shared is None:
            return stem, parts or [labels] * len(self.blocks)
        embedded: Tensor = self.shared(labels)
        return stem, [torch.cat([embedded, part], 1) for part in parts] or [embedded] * len(self.blocks)


def _norm(condition: int, classes: int) -> Callable[[int], BatchNorm]:
    """Return what makes a BatchNorm for so many channels: of `condition` features, else of `classes`, else of nothing."""

    def made(channels: int) -> BatchNorm:
        if not condition and not classes:
            return BatchNorm(channels, epsilon=EPSILON)
        layer: Callable[[], nn.Module] = (
            functools.partial(SpectralLinear, condition, channels, bias=False)
            if condition
            else functools.partial(nn.Embedding, classes, channels)
        )
        return ConditionalBatchNorm(channels, layer(), layer(), EPSILON)

    return made


class Biggan(Network):
    """BigGAN (Brock et al., 2019): 32, 64, 128 and 256 pixels, and what doubles as often (48, 96x64, ...)."""

    of_latents: ClassVar[bool] = True

    base_channels: Positive = 96
    """Channels of the layers next to the image from 128 pixels (the paper's ch); those inside have up to 16 times as many. At 32
    pixels all layers have 4 times as many."""
    attention: tuple[Positive, ...] = (64,)
    """Sizes with self-attention: after the first block whose output has so many pixels on its smaller side. The paper's 64
    may be left where no block has it; then there is none. []: none."""
    shared: Annotated[int, Field(ge=0)] = 128
    """Generator only: length of the class embedding that all layers share. 0: each layer has a table of scales and shifts by
    class. Without data.labels there is neither."""
    hierarchical: bool = True
    """Generator only: cut the latents into equal parts, one for the first layer and one for the BatchNorms of each block. false:
    the first layer gets all."""
    init: Literal["orthogonal", "normal"] = "orthogonal"
    """Initial weights: orthogonal matrices (Saxe et al., 2014), or normal numbers of deviation 0.02."""

    def check(self, config: Config) -> None:
        role = next((name for name, part in config.networks if part is self), "")
        try:
            height, width, doublings = start_in(config.data.size, GENERATOR, self.kind)
            if role == "generator" and getattr(config.game, "latent", 0):
                self._check_latents(config.game.latent, doublings, config.data.labels)
        except InputError as error:
            raise ValueError(str(error)) from None
        if role == "generator" and not config.data.labels and self.shared != type(self).model_fields["shared"].default:
            raise ValueError(
                "networks.generator.shared has no effect without data.labels: true; remove it, or set labels"
            )
        for key in ("shared", "hierarchical") if role == "discriminator" else ():
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"networks.discriminator.{key} has no effect, as it is the generator's; remove it")
        outputs = {
            "generator": _grown(min(height, width), doublings),
            "discriminator": _shrunk(min(config.data.size), doublings),
        }
        for size in self.attention if role in outputs and self.attention != (64,) else ():
            if size not in outputs[role]:
                raise ValueError(
                    f"networks.{role}.attention = {size}: no block of it ends with such a size; "
                    f"choose from {', '.join(map(str, dict.fromkeys(outputs[role])))}, or [] for none"
                )

    def generator(self, shape: Shape) -> nn.Module:
        height, width, doublings = start_in(shape.size, GENERATOR, self.kind)
        self._check_latents(shape.latent, doublings, shape.classes > 0)
        network = Generator(
            (height, width),
            [self.base_channels * each for each in GENERATOR[doublings]],
            shape.channels,
            shape.latent,
            shape.classes,
            self.shared,
            self.hierarchical,
            self._attending(_grown(min(height, width), doublings)),
        )
        _draw_weights(network, self.init)
        return network

    def discriminator(self, shape: Shape) -> nn.Module:
        doublings = start_in(shape.size, DISCRIMINATOR, self.kind)[2]
        halvings, multiples = DISCRIMINATOR[doublings]
        widths = [self.base_channels * each for each in multiples]
        attention = self._attending(_shrunk(min(shape.size), doublings))
        network = residual.Discriminator(
            shape.channels, widths, halvings, shape.classes, thin=False, attention=attention
        )
        _draw_weights(network, self.init)
        return network

    def _attending(self, outputs: list[int]) -> list[int]:
        """Return the numbers of the blocks that attention follows, given the smaller side of what each puts out."""
        return [outputs.index(size) for size in self.attention if size in outputs]

    def _check_latents(self, latent: int, doublings: int, labels: bool) -> None:
        parts = len(GENERATOR[doublings])
        if self.hierarchical and latent % parts:
            below = latent // parts * parts
            raise InputError(
                f"networks.generator.hierarchical cuts game.latent = {latent} into {parts} equal parts; set game.latent: "
                f"{f'{below} or ' if below else ''}{below + parts}, or hierarchical: false"
            )
        if self.hierarchical and labels and not self.shared:
            raise InputError(
                "networks.generator.shared = 0 gives each layer a table by class, which takes no part of the latents; set "
                "hierarchical: false, or shared: 128"
            )


def _grown(start: int, doublings: int) -> list[int]:
    """Return the smaller side of what each block of the generator puts out."""
    return [start << number for number in range(1, doublings + 1)]


def _shrunk(size: int, doublings: int) -> list[int]:
    """Return the smaller side of what each block of the discriminator puts out."""
    halvings, multiples = DISCRIMINATOR[doublings]
    return [size >> min(number, halvings) for number in range(1, len(multiples) + 1)]


def _draw_weights(network: nn.Module, init: str) -> None:
    """Draw all matrices, embeddings and tables by class too; biases zero, BatchNorm and attention as they are."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
            if init == "orthogonal":
                nn.init.orthogonal_(module.weight)
            else:
                nn.init.normal_(module.weight, 0.0, 0.02)
            if not isinstance(module, nn.Embedding) and module.bias is not None:
                nn.init.zeros_(module.bias)
    settle(network)
