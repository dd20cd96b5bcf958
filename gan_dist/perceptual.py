"""Compare images by features of VGG-19 (Simonyan and Zisserman, 2015), whose weights a user's file has: a perceptual loss.

Layers are named as in ESRGAN's code: conv5_4 is a convolution before its ReLU, relu5_4 after it. Johnson et al. (2016) are the
first to train with such a distance.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from pydantic import BeforeValidator, Field, field_validator
from torch import Tensor, nn

from gan_dist import frozen, schedules
from gan_dist.config.section import Section
from gan_dist.errors import InputError

if TYPE_CHECKING:
    from gan_dist.config.common import Config

_BLOCKS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
"""Channels and convolutions of each block; a pooling follows each."""
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _places() -> tuple[dict[str, int], list[tuple[int, int, int]]]:
    """Return {layer: its place in torchvision's Sequential}, and (place, inputs, outputs) of each convolution."""
    places, convolutions, number, before = dict[str, int](), list[tuple[int, int, int]](), 0, 3
    for block, (channels, count) in enumerate(_BLOCKS, 1):
        for each in range(1, count + 1):
            places |= {f"conv{block}_{each}": number, f"relu{block}_{each}": number + 1}
            convolutions.append((number, before, channels))
            number, before = number + 2, channels
        number += 1
    return places, convolutions


PLACES, CONVOLUTIONS = _places()


def _named(value: object) -> object:
    """Return {layer: 1} of a layer that is only named."""
    return {value: 1.0} if isinstance(value, str) else value


class Perceptual(Section):
    """Distance of images by VGG-19, as a further loss of the generator. Nothing is downloaded."""

    weight: schedules.ScheduledNonnegative = 0.0
    """Weight of the distance in the loss; 0: there is none, and no file is needed. ESRGAN: 1. pix2pixHD: 10."""
    weights: str = ""
    """File of the weights of VGG-19 on ImageNet: torchvision's vgg19-dcbb9e9d.pth, or .safetensors with the same names. Its
    content counts, and not its place. Default: the file of that name in $GAN_DIST_WEIGHTS or in torch's hub cache."""
    layers: Annotated[dict[str, Annotated[float, Field(gt=0)]], BeforeValidator(_named)] = Field(
        default={"conv5_4": 1.0}
    )
    """Layers that are compared, each with its weight: conv1_1 to conv5_4 before their ReLU, relu1_1 to relu5_4 after it. ESRGAN:
    {conv5_4: 1}. Real-ESRGAN: {conv1_2: 0.1, conv2_2: 0.1, conv3_4: 1, conv4_4: 1, conv5_4: 1}. pix2pixHD: {relu1_1: 0.03125,
    relu2_1: 0.0625, relu3_1: 0.125, relu4_1: 0.25, relu5_1: 1}."""
    distance: Literal["l1", "squared"] = "l1"
    """Mean of the absolute or of the squared difference of features. SRGAN: squared, relu5_4, features over 12.75: weight 0.00615."""

    file: ClassVar[str] = "vgg19-dcbb9e9d.pth"
    key: ClassVar[str] = "game.perceptual.weights"

    @field_validator("layers")
    @classmethod
    def _known(cls, layers: dict[str, float]) -> dict[str, float]:
        if unknown := [name for name in layers if name not in PLACES]:
            raise ValueError(f"VGG-19 has no layer {unknown[0]}; it has conv1_1 to conv5_4 and relu1_1 to relu5_4")
        if not layers:
            raise ValueError("name a layer at least, or remove layers")
        return layers

    def check(self, config: "Config") -> None:
        if not self.weight:
            for name in ("weights", "layers", "distance"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(
                        f"game.perceptual.{name} has no effect without game.perceptual.weight; set it, or remove {name}"
                    )
            return
        target = config.data.fields.get("target")
        if ((target and target.channels) or config.data.channels) == 4:
            raise ValueError(
                "game.perceptual compares images of 1 or 3 channels, and the target has 4; set game.perceptual.weight: 0"
            )
        deepest = max(self.layers, key=PLACES.__getitem__)
        least = 2 ** (int(deepest[4]) - 1)
        if min(config.data.size) < least:
            raise ValueError(
                f"game.perceptual.layers: {deepest} needs images of {least} pixels at least, and data.resolution is "
                f"{config.data.resolution}; name a layer of a lower block"
            )

    def path(self) -> Path:
        """Return the weights file. Raises InputError where it is not there."""
        fetch = "python -c \"import torchvision; torchvision.models.vgg19(weights='IMAGENET1K_V1')\""
        return frozen.locate(self.weights, self.file, self.key, f" (a machine with a network fetches it by `{fetch}`)")

    def digests(self) -> Iterator[tuple[str, str]]:
        if self.weight:
            yield "weights", frozen.sha256(self.path())

    def build(self) -> "Distance | None":
        """Return the distance, to be named in the game's `modules`; None where its weight is 0."""
        return Distance(self) if self.weight else None


class Distance(frozen.Frozen):
    """The distance of images (N, 1 or 3, H, W) in [-1, 1], a mean over all; its gradient goes to the first ones alone."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, keys: Perceptual) -> None:
        deepest = max(PLACES[name] for name in keys.layers)
        super().__init__(lambda: _Features(deepest), keys.path, keys.key, _of_vgg19)
        self._layers = {PLACES[name]: weight for name, weight in keys.layers.items()}
        self._squared, self._weight = keys.distance == "squared", keys.weight
        for name, values in (("mean", _MEAN), ("deviation", _DEVIATION)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1))

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self._features(targets)
        total = images.new_zeros(())
        for place, found in self._features(images).items():
            off = found - wanted[place]
            total = total + self._layers[place] * (off.square() if self._squared else off.abs()).mean()
        return total

    def _features(self, images: Tensor) -> dict[int, Tensor]:
        seen = ((images / 2 + 0.5).expand(-1, 3, -1, -1) - self.mean) / self.deviation
        found = self.network(seen, self._layers)
        return {place: each.float() if each.dtype.itemsize < 4 else each for place, each in found.items()}

    def weighted(self, images: Tensor, targets: Tensor, position: int) -> tuple[Tensor, Tensor]:
        """Return the distance, and what a loss adds of it at this position in images."""
        distance: Tensor = self(images, targets)
        return distance, schedules.number_of(self._weight, position) * distance


class _Features(nn.Module):
    """VGG-19 up to a layer, by torchvision's names."""

    def __init__(self, deepest: int) -> None:
        super().__init__()
        self.features = nn.ModuleDict(
            {
                str(place): nn.Conv2d(before, after, 3, padding=1)
                for place, before, after in CONVOLUTIONS
                if place <= deepest
            }
        )
        self._deepest = deepest

    def forward(self, images: Tensor, wanted: Mapping[int, float]) -> dict[int, Tensor]:
        """Return the features at some places, of normalised images."""
        found, taken = images, {}
        ends = {place for place, *_ in CONVOLUTIONS}
        for place in range(self._deepest + 1):
            if place in ends:
                found = self.features[str(place)](found)
            elif place - 1 in ends:
                found = found.relu()
            else:
                found = nn.functional.max_pool2d(found, 2)
            if place in wanted:
                taken[place] = found
        return taken


def _of_vgg19(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the convolutions of a file. Raises InputError where it is of another network, also where only deeper layers differ."""
    wanted = {f"features.{place}.{kind}" for place, *_ in CONVOLUTIONS for kind in ("weight", "bias")}
    given = {name for name in state if name.startswith("features.")}
    if odd := sorted(wanted ^ given):
        what = "is missing" if odd[0] in wanted else "is too much"
        raise InputError(
            f"{Perceptual.key}: the file is not of VGG-19: {odd[0]} {what}; give torchvision's {Perceptual.file}"
        )
    return {name: state[name] for name in given}
