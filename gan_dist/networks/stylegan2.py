"""Make the networks of StyleGAN2 (Karras et al., 2020), and of its smaller configurations in StyleGAN2-ADA (2020).

The generator turns a latent into a style w, which scales the channels of every layer, and sums an image over sizes. Both
networks begin or end at the smallest size that doubles to the image's: 4x4 for powers of two, 6x4 for 96x64.
"""

import math
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from gan_dist.config.common import Config
from gan_dist.config.section import FREE, Positive
from gan_dist.errors import InputError
from gan_dist.networks.base import Network, Shape, start_of
from gan_dist.networks.statistics import RunningMean
from gan_dist.networks.stylegan2_layers import (
    Conv,
    Linear,
    Mapping,
    MinibatchStd,
    StyledConv,
    StyleMixing,
    Sum,
    ToImage,
    activate,
)
from gan_dist.rng import Draws

W_AVG = 0.002  # part of the new mean in w_avg, at each update (Karras et al., StyleGAN3, 2021)


class Block(nn.Module):
    """Double the size of the features, add details by one or two convolutions, and add what they show to the image."""

    def __init__(
        self, inputs: int, outputs: int, size: tuple[int, int], channels: int, style: int, full_precision: bool
    ) -> None:
        """Make the layers; the first block has 0 `inputs` and does not double. `size` is the output's."""
        super().__init__()
        self.full_precision = full_precision
        first = [StyledConv(inputs, outputs, size, style, up=True)] if inputs else []
        self.convolutions = nn.ModuleList([*first, StyledConv(outputs, outputs, size, style)])
        self.to_image = ToImage(outputs, channels, style)
        self.sum = Sum()

    def forward(
        self, x: Tensor, image: Tensor | None, ws: list[Tensor], noises: list[Tensor | None]
    ) -> tuple[Tensor, Tensor]:
        """`ws` has a style (N, style) for each convolution and one for the image; `noises` one for each convolution."""
        for convolution, w, noise in zip(self.convolutions, ws[:-1], noises, strict=True):
            x = convolution(x, w, noise)
        return x, self.sum(image, self.to_image(x, ws[-1]))


class Generator(nn.Module):
    """(N, latent) normal numbers [and (N,) classes] -> (N, C, H, W), about in [-1, 1], and nothing that keeps them there.

    With `draws` each sample has noise of its own, and styles are mixed, as in training. Without, the noise is a constant of
    the network. In evaluation mode w moves towards its mean by `truncation` in the first `truncation_layers` layers.
    """

    takes_draws = True
    takes_truncation = True

    def __init__(self, shape: Shape, widths: list[int], style: int, mapping_layers: int, mixing: float = 0.0) -> None:
        """`widths` are the channels of the blocks, from the smallest size to that of the image."""
        super().__init__()
        height, width, doublings = start_of(shape.size)
        sizes = [(height << number, width << number) for number in range(doublings + 1)]
        self.noise_sizes = [sizes[0], *(size for size in sizes[1:] for _ in range(2))]  # of each convolution
        self.latent, self.style_count = shape.latent, len(self.noise_sizes) + 1
        self.truncation, self.truncation_layers = 1.0, self.style_count
        self.mapping = Mapping(shape.latent, shape.classes, style, mapping_layers)
        self.w_avg = RunningMean((style,), W_AVG)
        self.mixing = StyleMixing(mixing) if mixing else None
        self.constant = nn.Parameter(torch.randn(widths[0], height, width))
        self.blocks = nn.ModuleList(
            Block(
                widths[number - 1] if number else 0,
                channels,
                sizes[number],
                shape.channels,
                style,
                _in_full_precision(number, doublings),
            )
            for number, channels in enumerate(widths)
        )

    def forward(
        self,
        latents: Tensor,
        labels: Tensor | None = None,
        draws: Draws | None = None,
        styles: bool = False,
        truncation: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return the images; with `styles` also the ws (N, style_count, style) that they were made from.

        `truncation`, a scalar, stands for the network's own.
        """
        ws = self.styles(latents, labels, draws, truncation)
        image = self.from_styles(ws, draws)
        return (image, ws) if styles else image

    def from_styles(self, ws: Tensor, draws: Draws | None = None) -> Tensor:
        """Return images (N, C, H, W) of a style for each layer (N, style_count, style)."""
        of_layers = list(ws.unbind(1))
        noises: list[Tensor | None] = [None] * len(self.noise_sizes)
        if draws is not None:
            drawn = draws.normals({f"noise {number}": (1, *size) for number, size in enumerate(self.noise_sizes)})
            noises = [noise.to(ws.dtype) for noise in drawn]
        image: Tensor | None = None
        x: Tensor = self.constant.expand(ws.shape[0], -1, -1, -1)
        begin, end = 0, 1
        for block in self.blocks:
            # the style of a block's image is also that of the next block's first convolution
            x, image = block(x, image, of_layers[begin : end + 1], noises[begin:end])
            begin, end = end, end + 2
        assert image is not None
        return image

    def styles(
        self,
        latents: Tensor,
        labels: Tensor | None = None,
        draws: Draws | None = None,
        truncation: Tensor | None = None,
    ) -> Tensor:
        """Return a style for each layer: (N, style_count, style)."""
        w: Tensor = self.w_avg(self.mapping(latents, labels))
        if draws is not None and self.mixing is not None:
            others = draws.normal("mixing latent", self.latent).to(latents.dtype)
            mixed: Tensor = self.mixing(w, self.mapping(others, labels), self.style_count, draws)
            return mixed
        if self.training or (truncation is None and self.truncation == 1):
            return w[:, None].expand(-1, self.style_count, -1)
        part = self.truncation if truncation is None else truncation
        truncated = torch.lerp(self.w_avg.value, w, part)
        # laid out as without, so that a truncation of 1 changes no bit
        ws = truncated[:, None].expand(-1, min(self.truncation_layers, self.style_count), -1)
        if len(rest := range(ws.shape[1], self.style_count)):
            ws = torch.cat([ws, w[:, None].expand(-1, len(rest), -1)], dim=1)
        return ws


class Halving(nn.Module):
    """Two convolutions that halve the size; as a residual block with a shortcut beside them."""

    def __init__(self, inputs: int, outputs: int, residual: bool, full_precision: bool) -> None:
        super().__init__()
        self.full_precision = full_precision
        self.first = Conv(inputs, inputs, 3)
        self.second = Conv(inputs, outputs, 3, down=True)
        self.shortcut = Conv(inputs, outputs, 1, down=True, bias=False) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        inside = self.second(activate(self.first(x)))
        if self.shortcut is None:
            return activate(inside)
        # each has half of the variance
        beside: Tensor = self.shortcut(x) * math.sqrt(0.5)
        return activate(inside, gain=1.0) + beside


class End(nn.Module):
    """(N, C, h, w) features -> (N, outputs), in full precision."""

    full_precision = True

    def __init__(self, width: int, size: tuple[int, int], group: int, outputs: int) -> None:
        super().__init__()
        self.deviations = MinibatchStd(group)
        self.convolution = Conv(width + 1, width, 3)
        self.dense = Linear(width * size[0] * size[1], width)
        self.out = Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = activate(self.convolution(self.deviations(x)))
        output: Tensor = self.out(activate(self.dense(x.flatten(1))))
        return output


class Discriminator(nn.Module):
    """(N, C, H, W) images [and (N,) classes] -> (N,) logits; of a class by projection (Miyato and Koyama, 2018)."""

    def __init__(self, shape: Shape, widths: list[int], mapping_layers: int, group: int, residual: bool = True) -> None:
        """`widths` are the channels from the smallest size to that of the image."""
        super().__init__()
        height, width, doublings = start_of(shape.size)
        smallest = widths[0]
        self.from_image = Conv(shape.channels, widths[-1], 1)
        self.blocks = nn.Sequential(
            *(
                Halving(widths[number], widths[number - 1], residual, _in_full_precision(number, doublings))
                for number in range(doublings, 0, -1)
            )
        )
        self.end = End(smallest, (height, width), group, smallest if shape.classes else 1)
        self.classes = Mapping(0, shape.classes, smallest, mapping_layers) if shape.classes else None

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        output: Tensor = self.end(self.blocks(activate(self.from_image(images))))
        if self.classes is None:
            return output[:, 0]
        logits: Tensor = (output * self.classes(None, labels)).sum(1) / math.sqrt(output.shape[1])
        return logits


def _in_full_precision(number: int, doublings: int) -> bool:
    """Say whether the block after so many doublings stays in fp32: the first, and all but the last four."""
    return number == 0 or number < doublings - 3


class Stylegan2(Network):
    """StyleGAN2 (Karras et al., 2020): any h x 2^k by w x 2^k, from 8."""

    of_latents: ClassVar[bool] = True

    gives_styles: ClassVar[bool] = True

    mapping_layers: Positive = 8
    """Layers from latents [and classes] to styles; in a discriminator those of its classes. Small configurations of
    StyleGAN2-ADA have 2 in the generator, and 8 in the discriminator."""
    style: Positive = 512
    """Numbers in a style w. The paper has as many in a latent: game.latent: 512."""
    channel_base: Literal["auto"] | Positive = "auto"
    """Channels times pixels of height: 32768 // 64 in the layers at 64x64. auto: 32768 from 512 pixels on, else 16384."""
    channel_maximum: Positive = 512
    """Most channels of a layer."""
    mixing: Annotated[float, Field(ge=0, le=1)] = 0.9
    """Probability that the styles of a micro-batch are those of two latents. 0: never."""
    truncation: Annotated[float, Field(ge=0), FREE] = 1.0
    """Where pictures are drawn (and scored): how far w is from its mean, in parts; less gives better and fewer kinds of
    images. 1: no change."""
    truncation_layers: Annotated[Literal["all"] | Positive, FREE] = "all"
    """How many layers, from the smallest size on, have truncated styles."""
    architecture: Literal["residual", "plain"] = "residual"
    """Of the discriminator. plain has no shortcuts, as for CIFAR-10 in StyleGAN2-ADA."""
    minibatch_std: Positive = 4
    """Samples in a group of the discriminator's minibatch standard deviation; at most those of a micro-batch. 1: none."""

    def check(self, config: Config) -> None:
        try:
            _, _, doublings = start_of(config.data.size)
        except InputError as error:
            raise ValueError(f"networks.*.kind = stylegan2: {error}") from None
        if self._base(doublings) < 4 << doublings:
            raise ValueError(
                f"networks.*.channel_base = {self.channel_base} leaves no channel at the size of the image; set {4 << doublings} or more"
            )
        if self.truncation == 1 and self.truncation_layers != "all":
            raise ValueError(
                "networks.*.truncation_layers has no effect with truncation: 1; remove it, or set truncation"
            )
        networks = config.networks
        if getattr(networks, "generator", None) is self:
            self._refuse_idle("generator", ("architecture", "minibatch_std"))
            if self.mixing and getattr(config.game, "latent_distribution", "normal") != "normal":
                raise ValueError(
                    "networks.generator.mixing draws normal latents; set it to 0, or game.latent_distribution: normal"
                )
        elif getattr(networks, "discriminator", None) is self:
            without_classes = () if config.data.labels else ("mapping_layers",)
            self._refuse_idle("discriminator", ("style", "mixing", "truncation", "truncation_layers", *without_classes))
            samples = config.training.micro_batch // getattr(config.game, "pack", 1)
            for key, times in (
                ("", 1),
                (", game.generator_batch times as many", getattr(config.game, "generator_batch", 1)),
            ):
                if times * samples % min(self.minibatch_std, times * samples):
                    raise ValueError(
                        f"networks.discriminator.minibatch_std = {self.minibatch_std} does not divide the {times * samples} "
                        f"samples that the discriminator sees of a micro-batch{key}; for example "
                        f"{math.gcd(self.minibatch_std, samples)} does"
                    )

    def _refuse_idle(self, role: str, names: tuple[str, ...]) -> None:
        """Raise ValueError where one of these keys, which do nothing in a role, is set."""
        for name in names:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"networks.{role}.{name} has no effect in this {role}; remove it")

    def generator(self, shape: Shape) -> nn.Module:
        network = Generator(shape, self._widths(shape), self.style, self.mapping_layers, self.mixing)
        network.truncation = self.truncation
        if self.truncation_layers != "all":
            network.truncation_layers = self.truncation_layers
        return network

    def discriminator(self, shape: Shape) -> nn.Module:
        residual = self.architecture == "residual"
        return Discriminator(shape, self._widths(shape), self.mapping_layers, self.minibatch_std, residual)

    def _widths(self, shape: Shape) -> list[int]:
        """Return the channels at each size, of which the smallest counts as 4 pixels."""
        doublings = start_of(shape.size)[2]
        base = self._base(doublings)
        return [min(base // (4 << number), self.channel_maximum) for number in range(doublings + 1)]

    def _base(self, doublings: int) -> int:
        if self.channel_base != "auto":
            return self.channel_base
        return 32768 if 4 << doublings >= 512 else 16384
