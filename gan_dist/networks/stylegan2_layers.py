"""Make the layers of StyleGAN2 (Karras et al., 2020): weights scaled in use, filtered resampling, modulation by styles.

Weights are stored as normal numbers and scaled in each forward, so that one learning rate suits all layers (Karras et al.,
Progressive GAN, 2018). Under autocast the filters and convolutions compute in 16 bits, the rest in 32. What fp16 needs
beside that, its largest number being 65504, is done only there.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from gan_dist.errors import InputError
from gan_dist.networks import grouped
from gan_dist.networks.statistics import Statistics
from gan_dist.rng import Draws

_FP16_LIMIT = 256.0  # of an activation of gain 1, as in StyleGAN2-ADA (Karras et al., 2020)


def activate(x: Tensor, gain: float = math.sqrt(2)) -> Tensor:
    """Return the leaky ReLU of slope 0.2 times `gain`; the usual one keeps the mean square of normal numbers about 1."""
    return clamp(functional.leaky_relu(x, 0.2) * gain, gain)


def clamp(x: Tensor, gain: float = 1.0) -> Tensor:
    """Limit numbers in fp16, and no others."""
    return x.clamp(-_FP16_LIMIT * gain, _FP16_LIMIT * gain) if x.dtype == torch.float16 else x


def normalise(x: Tensor) -> Tensor:
    """Return vectors (N, C) with a mean square of 1."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class Linear(nn.Module):
    """A linear layer, always in full precision. `rate` is its learning rate in parts of that of the other layers."""

    full_precision = True

    def __init__(self, inputs: int, outputs: int, bias: float = 0.0, rate: float = 1.0) -> None:
        super().__init__()
        self.rate = rate
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.rate / math.sqrt(self.weight.shape[1])
        return functional.linear(x, self.weight * scale, self.bias * self.rate)


class Blur(nn.Module):
    """Filter each channel by [1, 3, 3, 1] along both axes, and take every second pixel, or double the size."""

    taps: Tensor

    def __init__(self) -> None:
        super().__init__()
        row = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("taps", torch.outer(row, row), persistent=False)

    def forward(self, x: Tensor, padding: int, stride: int = 1, gain: float = 1.0) -> Tensor:
        channels = x.shape[1]
        taps = (gain * self.taps).expand(channels, 1, 4, 4)
        return grouped.conv2d(x, taps, padding=padding, stride=stride, groups=channels)

    def enlarge(self, image: Tensor) -> Tensor:
        """Return the image at twice its size."""
        channels = image.shape[1]
        taps = (4 * self.taps).expand(channels, 1, 4, 4)
        return grouped.conv_transpose2d(image, taps, stride=2, padding=1, groups=channels)


class Conv(nn.Module):
    """A convolution that keeps the size, or halves it after a blur."""

    def __init__(self, inputs: int, outputs: int, kernel: int, down: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.blur = Blur() if down else None

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.weight.shape[2]
        weight = self.weight / math.sqrt(self.weight[0].numel())
        if self.blur is None:
            return functional.conv2d(x, weight, self.bias, padding=kernel // 2)
        if kernel == 1:  # the same, and cheaper, where the blur takes every second pixel
            return functional.conv2d(self.blur(x, padding=1, stride=2), weight, self.bias)
        return functional.conv2d(self.blur(x, padding=2), weight, self.bias, stride=2)


class StyledConv(nn.Module):
    """A 3x3 convolution of inputs scaled by a style, with outputs scaled back to the variance of theirs; then noise."""

    fixed_noise: Tensor

    def __init__(self, inputs: int, outputs: int, size: tuple[int, int], style: int, up: bool = False) -> None:
        """`size` is the output's."""
        super().__init__()
        self.size = size
        self.affine = Linear(style, inputs, bias=1.0)
        # unscaled: the demodulation takes its scale away
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.blur = Blur() if up else None
        self.register_buffer("fixed_noise", torch.randn(size))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None = None) -> Tensor:
        """(N, inputs, h, w), (N, style), and (N, 1, H, W) normal numbers or None for fixed ones -> (N, outputs, H, W)."""
        style: Tensor = self.affine(w)
        weight: Tensor = self.weight
        in_fp16 = _lowers_to_fp16(x)
        with torch.autocast(x.device.type, enabled=False):
            if in_fp16:  # the demodulation takes this change of scale back
                weight = weight / (math.sqrt(weight[0].numel()) * weight.abs().amax((1, 2, 3), keepdim=True))
                style = style / style.abs().amax(1, keepdim=True)
            demodulation = (style.square() @ weight.square().sum((2, 3)).t() + 1e-8).rsqrt()
        x = x * style.to(x.dtype)[:, :, None, None]
        if self.blur is None:
            x = functional.conv2d(x, weight, padding=1)
        else:
            x = self.blur(functional.conv_transpose2d(x, weight.transpose(0, 1), stride=2), padding=1, gain=4.0)
        noise = self.strength * (self.fixed_noise if noise is None else noise)
        x = x * demodulation.to(x.dtype)[:, :, None, None] + noise.to(x.dtype)
        return activate(x + self.bias.to(x.dtype)[:, None, None])


def _lowers_to_fp16(x: Tensor) -> bool:
    device = x.device.type
    return torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16


class ToImage(nn.Module):
    """A 1x1 convolution of inputs scaled by a style, and not scaled back, to the channels of an image."""

    def __init__(self, inputs: int, channels: int, style: int) -> None:
        super().__init__()
        self.affine = Linear(style, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(channels, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        style = self.affine(w) / math.sqrt(self.weight.shape[1])
        return clamp(functional.conv2d(x * style.to(x.dtype)[:, :, None, None], self.weight, self.bias))


class Sum(nn.Module):
    """Add a block's image to the doubled one of the block before, in full precision."""

    full_precision = True

    def __init__(self) -> None:
        super().__init__()
        self.blur = Blur()

    def forward(self, before: Tensor | None, image: Tensor) -> Tensor:
        return image if before is None else self.blur.enlarge(before) + image


class Mapping(nn.Module):
    """(N, latent) normal numbers, (N,) classes, or both -> (N, width), by layers that learn 100 times as slowly."""

    full_precision = True

    def __init__(self, latent: int, classes: int, width: int, layers: int) -> None:
        """`latent` or `classes` may be 0: there are none."""
        super().__init__()
        self.classes = classes
        self.embedding = Linear(classes, width) if classes else None
        inputs = latent + (width if classes else 0)
        self.layers = nn.ModuleList(
            Linear(inputs if number == 0 else width, width, rate=0.01) for number in range(layers)
        )

    def forward(self, latents: Tensor | None, labels: Tensor | None) -> Tensor:
        inputs = [] if latents is None else [normalise(latents)]
        if self.embedding is not None:
            assert labels is not None
            # not one_hot: it reads the labels on the host
            chosen = (labels[:, None] == torch.arange(self.classes, device=labels.device)).to(
                self.embedding.weight.dtype
            )
            inputs.append(normalise(self.embedding(chosen)))
        x = torch.cat(inputs, dim=1)
        for layer in self.layers:
            x = activate(layer(x))
        return x


class StyleMixing(Statistics):
    """Let the styles of another latent begin at a random layer, the same in a micro-batch, with some probability."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, w: Tensor, other: Tensor, count: int, draws: Draws) -> Tensor:
        """(N, style) twice -> (N, count, style): of each sample the first, and beginning at a layer from 1 the other."""
        begin = 1 + (draws.for_micro_batch("mixing layer", self.parts) * (count - 1)).long()
        begin = torch.where(draws.for_micro_batch("mixing", self.parts) < self.probability, begin, count)
        layers = torch.arange(count, device=w.device)
        is_other = layers >= begin.repeat_interleave(len(w) // self.parts)[:, None]
        return torch.where(is_other[:, :, None], other[:, None], w[:, None])


class MinibatchStd(Statistics):
    """Add a channel: the mean deviation of the features over a group of samples (Karras et al., 2018, section 3).

    A group is `group` samples of a micro-batch (all, where it has fewer), spread evenly over it: with N of them, sample j is
    with j + N/group, j + 2N/group, ...
    """

    def __init__(self, group: int) -> None:
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        deviations = torch.cat([self._deviations(part) for part in x.chunk(self.parts)])
        return torch.cat([x, deviations.expand(-1, 1, *x.shape[2:])], dim=1)

    def _deviations(self, x: Tensor) -> Tensor:
        group = min(self.group, len(x))
        if len(x) % group:
            raise InputError(f"minibatch_std = {group} does not divide the {len(x)} samples that it sees")
        spread = (x.view(group, -1, *x.shape[1:]).var(0, correction=0) + 1e-8).sqrt()
        return spread.mean((1, 2, 3)).repeat(group)[:, None, None, None]
