"""Make the networks of R3GAN (Huang et al., 2024), for any size that doubles from 4 pixels or more, and any number of channels.

They are residual nets without normalisation: grouped convolutions, fixed filters that double and halve, blocks that begin as
the identity.
"""

import dataclasses
import math
from typing import Annotated, ClassVar, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from gan_dist.config.common import Config
from gan_dist.config.section import Positive
from gan_dist.errors import InputError
from gan_dist.networks import grouped
from gan_dist.networks.base import Network, Shape, start_of

_SLOPE = 0.2
_CLASS_FEATURES = 64
Layer = TypeVar("Layer", nn.Linear, grouped.Conv2d)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What both networks have in common. Stages go from the smallest, the discriminator's in the order of the generator's."""

    start: tuple[int, int]
    """Height and width of the smallest stage; each further stage doubles both."""
    channels: int
    """Of the images."""
    widths: tuple[int, ...]
    """Channels of each stage."""
    groups: tuple[int, ...]
    """Of the 3x3 convolutions of each stage."""
    blocks: int
    """Residual blocks in a stage."""
    expansion: int
    """How many times a stage's channels the 3x3 convolutions in it have."""
    full: int
    """How many stages, from the smallest, compute in fp32 where the network computes in 16 bits."""

    def stage_of_blocks(self, stage: int) -> list[nn.Module]:
        """Return the residual blocks of a stage."""
        total = self.blocks * len(self.widths)
        return [Block(self.widths[stage], self.expansion, self.groups[stage], total) for _ in range(self.blocks)]


class Generator(nn.Module):
    """(N, latent) normal numbers [and (N,) classes] -> (N, C, H, W), not bounded: no tanh, as the paper's."""

    def __init__(self, plan: Plan, latent: int, classes: int = 0, class_features: int = _CLASS_FEATURES) -> None:
        super().__init__()
        self.classes = nn.Embedding(classes, class_features) if classes else None
        if self.classes is not None:
            nn.init.normal_(self.classes.weight, 0.0, classes**-0.5)
        self.stages = nn.Sequential()
        for stage, width in enumerate(plan.widths):
            if stage:
                before = plan.widths[stage - 1]
                entry = [*_change_of_width(before, width), Up(width)]
            else:
                entry = [Basis(latent + class_features if classes else latent, width, plan.start)]
            self.stages.append(Stage([*entry, *plan.stage_of_blocks(stage)], full=stage < plan.full))
        self.image = Stage([_pointwise(plan.widths[-1], plan.channels)], full=plan.full == len(plan.widths))

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        if self.classes is not None:
            latents = torch.cat([latents, self.classes(labels)], dim=1)
        images: Tensor = self.image(self.stages(latents))
        return images


class Discriminator(nn.Module):
    """(N, C, H, W) images [and (N,) classes] -> (N,) logits."""

    def __init__(self, plan: Plan, classes: int = 0) -> None:
        super().__init__()
        top, bottom = len(plan.widths) - 1, plan.widths[0]
        self.image = Stage([_pointwise(plan.channels, plan.widths[top])], full=plan.full == len(plan.widths))
        self.stages = nn.Sequential()
        for stage in range(top, -1, -1):
            layers = plan.stage_of_blocks(stage)
            if stage:
                width = plan.widths[stage]
                layers += [Down(width), *_change_of_width(width, plan.widths[stage - 1])]
            self.stages.append(Stage(layers, full=stage < plan.full))
        self.features = Features(bottom, bottom if classes else 1, plan.start)
        self.classes = nn.Embedding(classes, bottom) if classes else None
        if self.classes is not None:
            nn.init.normal_(self.classes.weight, 0.0, (classes * bottom) ** -0.5)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        features: Tensor = self.features(self.stages(self.image(images)))
        if self.classes is not None:  # projection (Miyato and Koyama, 2018), without a logit of its own
            features = features * self.classes(labels)
        return features.sum(1)


class Stage(nn.Sequential):
    """Layers that share a number format."""

    def __init__(self, layers: list[nn.Module], full: bool) -> None:
        super().__init__(*layers)
        self.full_precision = full


class Block(nn.Module):
    """x plus an inverted bottleneck of it: 1x1 to more channels, 3x3 in groups, 1x1 back, biases before the activations only.

    Begins as the identity: the last weight is zero. The others are scaled by the number of blocks in the network to the
    power -1/4, as Fixup does (Zhang et al., 2019).
    """

    def __init__(self, width: int, expansion: int, groups: int, blocks: int) -> None:
        super().__init__()
        inner = expansion * width
        gain = nn.init.calculate_gain("leaky_relu", _SLOPE) * blocks**-0.25
        self.widen = _normal(grouped.Conv2d(width, inner, 1), gain)
        self.mix = _normal(grouped.Conv2d(inner, inner, 3, padding=1, groups=groups), gain)
        self.narrow = _normal(grouped.Conv2d(inner, width, 1, bias=False), 0.0)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.leaky_relu(self.widen(x), _SLOPE)
        y = functional.leaky_relu(self.mix(y), _SLOPE)
        y = self.narrow(y)
        output: Tensor = x.to(y.dtype) + y
        return output


class Basis(nn.Module):
    """(N, inputs) -> (N, width, h0, w0): one learned picture a channel, times a number from the latents."""

    def __init__(self, inputs: int, width: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.pictures = nn.Parameter(torch.randn(width, *size))
        self.factors = _normal(nn.Linear(inputs, width, bias=False))

    def forward(self, latents: Tensor) -> Tensor:
        factors: Tensor = self.factors(latents)
        return self.pictures.to(factors.dtype) * factors[:, :, None, None]


class Features(nn.Module):
    """(N, width, h0, w0) -> (N, outputs): one learned weighting of the pixels a channel, then a linear layer. In fp32."""

    full_precision = True

    def __init__(self, width: int, outputs: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.pictures = nn.Parameter(torch.randn(width, *size) / math.sqrt(math.prod(size)))
        self.linear = _normal(nn.Linear(width, outputs, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.linear((x * self.pictures).sum((2, 3)))
        return features


class Resampling(nn.Module):
    """A fixed filter on each channel: [1, 3, 3, 1] in both directions, with sum `gain`."""

    filter: Tensor

    def __init__(self, width: int, gain: float) -> None:
        super().__init__()
        row = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        # no part of a checkpoint, as it never changes
        self.register_buffer("filter", (gain * torch.outer(row, row)).repeat(width, 1, 1, 1), persistent=False)


class Up(Resampling):
    """(N, width, H, W) -> (N, width, 2H, 2W)."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 4.0)

    def forward(self, x: Tensor) -> Tensor:
        return grouped.conv_transpose2d(x, self.filter, stride=2, padding=1, groups=len(self.filter))


class Down(Resampling):
    """(N, width, H, W) -> (N, width, H / 2, W / 2)."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        return grouped.conv2d(x, self.filter, stride=2, padding=1, groups=len(self.filter))


def _normal(layer: Layer, gain: float = 1.0) -> Layer:
    """Draw normal weights with deviation gain / sqrt(inputs of an output); biases zero."""
    fan_in = math.prod(layer.weight.shape[1:])
    nn.init.normal_(layer.weight, 0.0, gain / math.sqrt(fan_in))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _pointwise(inputs: int, outputs: int) -> nn.Module:
    return _normal(grouped.Conv2d(inputs, outputs, 1, bias=False))


def _change_of_width(before: int, after: int) -> list[nn.Module]:
    return [] if before == after else [_pointwise(before, after)]


class R3gan(Network):
    """R3GAN (Huang et al., 2024): residual, without normalisation; any size that doubles from 4 pixels or more, 96x64 too."""

    of_latents: ClassVar[bool] = True

    widths: Positive | list[int] = 768
    """Channels of the stages, from the smallest: one number for each stage, or the number of all stages up to 32 pixels,
    which then halves with each doubling. The paper's is 768 (ImageNet: 1536 in all stages)."""
    group_width: Positive = 16
    """Channels in a group of the 3x3 convolutions, which have expansion times a stage's channels (ImageNet: 32)."""
    blocks: Positive = 2
    """Residual blocks in a stage."""
    expansion: Positive = 2
    """How many times a stage's channels the 3x3 convolutions in it have."""
    full_precision_below: Literal["auto"] | Annotated[int, Field(ge=0)] = "auto"
    """Stages whose smaller side is below so many pixels compute in fp32 where training.precision is bf16 or fp16. 0: none.
    auto: an eighth of the image's smaller side, and 8 at least (the paper's: 8 up to 64 pixels, 32 for 256)."""

    def check(self, config: Config) -> None:
        try:
            self.plan(Shape(config.data.size, config.data.channels))
        except InputError as error:
            raise ValueError(str(error)) from None
        if self.full_precision_below != "auto" and config.training.precision in ("fp32", "fp64"):
            raise ValueError(
                f"networks.*.full_precision_below = {self.full_precision_below} has no effect with training.precision: "
                f"{config.training.precision}; remove it, or set training.precision: bf16"
            )

    def generator(self, shape: Shape) -> nn.Module:
        return Generator(self.plan(shape), shape.latent, shape.classes)

    def discriminator(self, shape: Shape) -> nn.Module:
        return Discriminator(self.plan(shape), shape.classes)

    def plan(self, shape: Shape) -> Plan:
        """Return what both networks for a shape have in common. Raises InputError where the keys do not fit the size."""
        height, width, doublings = start_of(shape.size)
        sides = [min(height, width) << doubled for doubled in range(doublings + 1)]
        widths = self._widths(sides)
        for channels in widths:
            if channels < 1 or self.expansion * channels % self.group_width:
                raise InputError(
                    f"networks.*.widths: {channels} channels times expansion {self.expansion} are no multiple of "
                    f"group_width {self.group_width}; for example {max(1, -(-channels // self._step)) * self._step} channels are"
                )
        below = max(8, sides[-1] // 8) if self.full_precision_below == "auto" else self.full_precision_below
        return Plan(
            start=(height, width),
            channels=shape.channels,
            widths=widths,
            groups=tuple(self.expansion * channels // self.group_width for channels in widths),
            blocks=self.blocks,
            expansion=self.expansion,
            full=sum(side < below for side in sides),
        )

    @property
    def _step(self) -> int:
        """The smallest width that divides into groups."""
        return self.group_width // math.gcd(self.group_width, self.expansion)

    def _widths(self, sides: list[int]) -> tuple[int, ...]:
        if isinstance(self.widths, list):
            if len(self.widths) != len(sides):
                raise InputError(
                    f"networks.*.widths has {len(self.widths)} numbers, and the stages are {len(sides)}, of "
                    f"{', '.join(map(str, sides))} pixels; give one for each of them, or a single number"
                )
            return tuple(self.widths)
        widths, above = [], 0
        for side in sides:
            above += side > 32
            # rounded down to whole groups; never wider than asked
            halved = max(self._step, self.widths // 2**above // self._step * self._step)
            widths.append(halved if above else self.widths)
        return tuple(widths)
