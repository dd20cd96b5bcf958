"""Make PatchGAN (Isola et al., 2017): a discriminator that judges overlapping patches of an image, each by a logit of its own."""

import itertools
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from gan_dist import units
from gan_dist.config.common import Config
from gan_dist.config.section import Positive
from gan_dist.errors import InputError
from gan_dist.networks import initialisation
from gan_dist.networks.base import Network, Shape
from gan_dist.networks.blur import Halve
from gan_dist.networks.normalisation import Normalisation, normalised

_OF_ONE_SCALE = ("generation", "unpaired", "contrastive", "restoration")
"""Games that look at the logits of the whole size alone."""


class Patches(nn.Module):
    """(N, C, H, W) images -> the features of each layer, the last of which are logits (N, 1, h, w), one for each patch."""

    def __init__(self, channels: int, base: int, layers: int, norm: Normalisation, blur: bool = False) -> None:
        super().__init__()
        # pixels alone are seen by 1x1 convolutions
        size, padding = (4, 1) if layers else (1, 0)
        first = nn.Conv2d(channels, base, size, 2 if layers and not blur else 1, padding)
        blocks = [nn.Sequential(first, nn.LeakyReLU(0.2), *([Halve()] if layers and blur else []))]
        width = base
        for number in range(1, max(1, layers) + 1):
            wide = min(2 * width, 8 * base)
            halves = number < layers
            convolution = nn.Conv2d(width, wide, size, 2 if halves and not blur else 1, padding, bias=False)
            smaller = [Halve()] if halves and blur else []
            blocks.append(nn.Sequential(*normalised(convolution, norm), nn.LeakyReLU(0.2), *smaller))
            width = wide
        blocks.append(nn.Sequential(nn.Conv2d(width, 1, size, 1, padding, bias=layers > 0)))
        self.blocks = nn.ModuleList(blocks)

    def forward(self, images: Tensor) -> list[Tensor]:
        features = []
        for block in self.blocks:
            images = block(images)
            features.append(images)
        return features


class Discriminator(nn.Module):
    """Patches of an image, and of the same image at half the size, a quarter, ... (Wang et al., pix2pixHD, 2018)."""

    def __init__(
        self,
        channels: int,
        base: int,
        layers: int,
        scales: int,
        norm: Normalisation,
        blur: bool = False,
        weights: initialisation.Weights = "normal",
    ) -> None:
        super().__init__()
        self.scales = nn.ModuleList(Patches(channels, base, layers, norm, blur) for _ in range(scales))
        initialisation.initialise(self, weights)

    def forward(self, images: Tensor, labels: Tensor | None = None, features: bool = False) -> Any:
        """Return the logits (N, 1, h, w) of the whole size; with `features`, of each scale all features, logits the last."""
        if not features:
            return self.scales[0](images)[-1]
        found = []
        for number, scale in enumerate(self.scales):
            if number:
                images = functional.avg_pool2d(images, 3, stride=2, padding=1, count_include_pad=False)
            found.append(scale(images))
        return found


class Patchgan(Network):
    """PatchGAN (Isola et al., 2017): a logit for each patch, for images of any size."""

    base_channels: Positive = 64
    """Channels of the first layer; those that follow have 2, 4 and at most 8 times as many."""
    layers: Annotated[int, Field(ge=0, le=6)] = 3
    """Layers between the first and the logits. They decide about the size of a patch: 0 a pixel, 1 to 5 patches of 16, 34, 70,
    142 and 286 pixels."""
    scales: Annotated[int, Field(ge=1, le=4)] = 1
    """Discriminators, each of an image half as large as the one before (pix2pixHD: 2 or 3). For games that sum over scales."""
    normalisation: Normalisation = "instance"
    """Of all layers but the first and the last. instance: over the pixels of each image and channel, with a scale and a shift
    that are learnt, so that micro_batch is speed only. plain: without these, as in CycleGAN. batch: over a micro-batch."""
    blur: bool = False
    """Halve behind a blur, as CUT does (Zhang, 2019), instead of by strides."""
    weights: initialisation.Weights = "normal"
    """Initial weights. normal: of deviation 0.02. xavier: Glorot's with a gain of 0.02, as in CUT."""

    gives_features: ClassVar[bool] = True

    def check(self, config: Config) -> None:
        game = getattr(getattr(config, "game", None), "kind", "")
        if self.scales > 1 and game in _OF_ONE_SCALE:
            raise ValueError(
                f"networks.discriminator.scales = {self.scales} has no effect with game.kind: {game}, which sums over none; set scales: 1"
            )
        side, least = min(config.data.size), _least(self.layers, self.scales)
        if side < least:
            pairs = itertools.product(range(self.layers + 1), range(1, self.scales + 1))
            fitting = [pair for pair in pairs if _least(*pair) <= side]
            if not fitting:
                raise ValueError(
                    f"networks.*.kind = patchgan needs images of {_least(0, 1)} pixels, and data.resolution = "
                    f"{units.pixels(config.data.size)}; set data.resolution: {_least(self.layers, self.scales)}"
                )
            # the same scales where patches stay larger than a pixel, else as many layers as there can be
            layers, scales = max(fitting, key=lambda pair: (pair[0] > 0 and pair[1] == self.scales, pair))
            advice = f"layers: {layers}" + (f" and scales: {scales}" if scales != self.scales else "")
            raise ValueError(
                f"networks.*.kind = patchgan with layers: {self.layers} and scales: {self.scales} needs images of {least} "
                f"pixels, and data.resolution = {units.pixels(config.data.size)}; set {advice}"
            )

    def discriminator(self, shape: Shape) -> nn.Module:
        if shape.classes:
            raise InputError("networks.discriminator.kind = patchgan knows no classes; set data.labels: false")
        return Discriminator(
            shape.channels, self.base_channels, self.layers, self.scales, self.normalisation, self.blur, self.weights
        )


def _least(layers: int, scales: int) -> int:
    """Return the least side of images, in pixels, that so many layers at so many scales take."""
    return 3 << (layers + scales - 1) if layers else 1 << scales
