"""Build what SNGAN and BigGAN share: residual blocks, conditional BatchNorm, self-attention, the projection discriminator."""

import itertools
from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from gan_dist.errors import InputError
from gan_dist.networks.base import start_of
from gan_dist.networks.statistics import BatchNorm, SpectralConv2d, SpectralEmbedding, SpectralLinear, SpectralNorm


class ConditionalBatchNorm(BatchNorm):
    """Batch normalisation times 1 + gain(condition) plus shift(condition) (de Vries et al., 2017; Brock et al., 2019).

    The running statistics are BatchNorm's, of all conditions together. `gain` and `shift` map a condition, (N,) classes or
    (N, F) features, to (N, channels).
    """

    def __init__(self, channels: int, gain: nn.Module, shift: nn.Module, epsilon: float) -> None:
        super().__init__(channels, epsilon=epsilon)
        for name in ("weight", "bias"):  # the condition gives them
            self.register_parameter(name, None)
        self.gain, self.shift = gain, shift

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        normal = super().forward(x)
        # in the images' type: a table's 32 bits would make the activations of a 16-bit network as wide
        gain: Tensor = (1 + self.gain(condition)).to(normal.dtype)
        shift: Tensor = self.shift(condition).to(normal.dtype)
        return normal * gain[:, :, None, None] + shift[:, :, None, None]


def _normalised(norm: BatchNorm, x: Tensor, condition: Tensor | None) -> Tensor:
    """Return relu of the normalised activations; a BatchNorm of its own scale has no condition."""
    return functional.relu(norm(x, condition) if isinstance(norm, ConditionalBatchNorm) else norm(x))


def _doubled(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


def _halved(x: Tensor) -> Tensor:
    # an odd row or column keeps its weight: what lies outside does not count
    return functional.avg_pool2d(x, 2, ceil_mode=True)


class UpBlock(nn.Module):
    """(N, C, H, W) and a condition -> (N, outputs, 2H, 2W): the generator's block."""

    def __init__(
        self, inputs: int, outputs: int, convolution: type[nn.Conv2d], norm: Callable[[int], BatchNorm]
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(inputs), norm(outputs)
        self.convolution1 = convolution(inputs, outputs, 3, padding=1)
        self.convolution2 = convolution(outputs, outputs, 3, padding=1)
        self.shortcut = convolution(inputs, outputs, 1)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        inner: Tensor = self.convolution1(_doubled(_normalised(self.norm1, x, condition)))
        inner = self.convolution2(_normalised(self.norm2, inner, condition))
        # doubled after the convolution of single pixels, not before: the same, for a quarter of the work
        return inner + _doubled(self.shortcut(x))


class DownBlock(nn.Module):
    """(N, C, H, W) -> (N, outputs, H/2, W/2), or (N, outputs, H, W) without `down`: the discriminator's block."""

    def __init__(self, inputs: int, outputs: int, hidden: int, down: bool, first: bool = False) -> None:
        """`first`: the input is an image, which no ReLU may cut."""
        super().__init__()
        self.down, self.first = down, first
        self.convolution1 = SpectralConv2d(inputs, hidden, 3, padding=1)
        self.convolution2 = SpectralConv2d(hidden, outputs, 3, padding=1)
        self.shortcut = SpectralConv2d(inputs, outputs, 1) if down or inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.convolution1(x if self.first else functional.relu(x))
        inner = self.convolution2(functional.relu(inner))
        if self.down:  # the shortcut's convolution of single pixels and the mean commute
            inner, x = _halved(inner), _halved(x)
        return inner + (x if self.shortcut is None else self.shortcut(x))


class Attention(nn.Module):
    """Self-attention between all places of (N, C, H, W) and maxima over 2x2 (Zhang et al., SAGAN, 2019)."""

    def __init__(self, channels: int, convolution: type[nn.Conv2d] = SpectralConv2d) -> None:
        super().__init__()
        narrow, half = max(channels // 8, 1), max(channels // 2, 1)
        self.queries, self.keys = (convolution(channels, narrow, 1, bias=False) for _ in range(2))
        self.values, self.output = (
            convolution(channels, half, 1, bias=False),
            convolution(half, channels, 1, bias=False),
        )
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        queries = self.queries(x).flatten(2)
        keys, values = (functional.max_pool2d(layer(x), 2).flatten(2) for layer in (self.keys, self.values))
        attended = torch.softmax(queries.transpose(1, 2) @ keys, dim=-1).to(values.dtype)  # (N, HW, HW / 4)
        output: Tensor = self.output((values @ attended.transpose(1, 2)).view(x.shape[0], -1, *x.shape[2:]))
        return x + self.gamma.to(output.dtype) * output


class Generator(nn.Module):
    """(N, latent) normal numbers [and (N,) classes] -> (N, C, H, W) in [-1, 1]; each block doubles height and width."""

    def __init__(
        self,
        start: tuple[int, int],
        widths: Sequence[int],
        channels: int,
        stem_inputs: int,
        norm: Callable[[int], BatchNorm],
        epsilon: float,
        convolution: type[nn.Conv2d] = nn.Conv2d,
        linear: type[nn.Linear] = nn.Linear,
        attention: Collection[int] = (),
    ) -> None:
        """`widths` are the channels before and after each block, `attention` the numbers of the blocks before it."""
        super().__init__()
        self.start = start
        self.stem = linear(stem_inputs, widths[0] * start[0] * start[1])
        self.blocks = nn.ModuleList(UpBlock(*pair, convolution, norm) for pair in itertools.pairwise(widths))
        self.attention = nn.ModuleDict({str(at): Attention(widths[at + 1], convolution) for at in sorted(attention)})
        self.norm = BatchNorm(widths[-1], epsilon=epsilon)
        self.last = convolution(widths[-1], channels, 3, padding=1)

    def conditions(self, latents: Tensor, labels: Tensor | None) -> tuple[Tensor, Sequence[Tensor | None]]:
        """Return what the stem gets, and what the norms of each block get: all latents, and the classes."""
        return latents, [labels] * len(self.blocks)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        stem, conditions = self.conditions(latents, labels)
        x = self.stem(stem).unflatten(1, (-1, *self.start))
        for number, (block, condition) in enumerate(zip(self.blocks, conditions, strict=True)):
            x = block(x, condition)
            if str(number) in self.attention:
                x = self.attention[str(number)](x)
        return torch.tanh(self.last(_normalised(self.norm, x, None)))


class Projection(nn.Module):
    """(N, C, H, W) features [and (N,) classes] -> (N,) logits (Miyato and Koyama, 2018).

    Sums over all pixels, so logits grow with their number.
    """

    full_precision = True  # a logit is a sum over hundreds of numbers: 8 bits would round it to steps that losses see

    def __init__(self, width: int, classes: int, bias: bool) -> None:
        super().__init__()
        self.linear = SpectralLinear(width, 1, bias=bias)
        self.classes = SpectralEmbedding(classes, width) if classes else None

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        features = functional.relu(x).sum((2, 3))
        logits: Tensor = self.linear(features)[:, 0]
        if self.classes is not None:
            logits = logits + (self.classes(labels) * features).sum(1)
        return logits


class Discriminator(nn.Module):
    """(N, C, H, W) images [and (N,) classes] -> (N,) logits; spectral norm on every layer, the class embedding too."""

    def __init__(
        self,
        channels: int,
        widths: Sequence[int],
        halvings: int,
        classes: int,
        thin: bool,
        bias: bool = True,
        attention: Collection[int] = (),
    ) -> None:
        """`widths` are the channels after each block, of which the first `halvings` halve height and width.

        A `thin` block has as many channels inside as before it, but for the first; others as many as after it. `bias` is the
        last layer's. `attention`: the numbers of the blocks before it.
        """
        super().__init__()
        blocks: list[nn.Module] = []
        before = channels
        for number, width in enumerate(widths):
            hidden = before if thin and number else width
            blocks.append(DownBlock(before, width, hidden, down=number < halvings, first=number == 0))
            if number in attention:
                blocks.append(Attention(width))
            before = width
        self.blocks = nn.Sequential(*blocks)
        self.logit = Projection(before, classes, bias)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        logits: Tensor = self.logit(self.blocks(images), labels)
        return logits


def settle(network: nn.Module) -> None:
    """Let the singular vectors of all spectral norms belong to the weights, which were just drawn."""
    for module in network.modules():
        if isinstance(module, SpectralNorm):
            module.begin()


def start_in(size: tuple[int, int], known: Collection[int], kind: str) -> tuple[int, int, int]:
    """Return height, width and number of doublings that make a size; raises InputError unless the number is `known`."""
    try:
        start = start_of(size)
    except InputError:
        start = (*size, 0)
    if start[2] not in known:
        *others, last = sorted(known)
        raise InputError(
            f"networks.*.kind = {kind} needs a size from 4 pixels, doubled {', '.join(map(str, others))} or {last} times, as "
            f"data.resolution, not {size[1]}x{size[0]}; for example {', '.join(str(4 << each) for each in sorted(known))}"
        )
    return start
