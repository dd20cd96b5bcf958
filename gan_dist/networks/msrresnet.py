"""Make MSRResNet, the SRResNet of SRGAN (Ledig et al., 2017) without BatchNorm, as EDSR (Lim et al., 2017) and BasicSR have it."""

from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu, pixel_shuffle, relu

from gan_dist.config.section import Positive
from gan_dist.errors import InputError
from gan_dist.networks import initialisation
from gan_dist.networks.base import Network, Shape


class Block(nn.Module):
    """(N, C, H, W) -> the same: x + conv(relu(conv(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution1 = nn.Conv2d(width, width, 3, 1, 1)
        self.convolution2 = nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.convolution2(relu(self.convolution1(x)))
        return x + inner


class Generator(nn.Module):
    """(N, inputs, H, W) images of any size -> (N, channels, scale * H, scale * W), about in [-1, 1].

    It adds what is missing to the input, which is enlarged by linear interpolation.
    """

    def __init__(self, inputs: int, channels: int, base: int, blocks: int, scale: int) -> None:
        super().__init__()
        self.channels, self.scale = channels, scale
        self.first = nn.Conv2d(inputs, base, 3, 1, 1)
        self.body = nn.Sequential(*(Block(base) for _ in range(blocks)))
        self.factors = [2] * (scale.bit_length() - 1) if scale.bit_count() == 1 else [scale]
        self.up = nn.ModuleList(nn.Conv2d(base, base * factor**2, 3, 1, 1) for factor in self.factors)
        self.high = nn.Conv2d(base, base, 3, 1, 1)
        self.last = nn.Conv2d(base, channels, 3, 1, 1)
        initialisation.kaiming(self, 0.1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.body(leaky_relu(self.first(images), 0.1))
        for factor, layer in zip(self.factors, self.up, strict=True):
            x = leaky_relu(pixel_shuffle(layer(x), factor), 0.1)
        added: Tensor = self.last(leaky_relu(self.high(x), 0.1))
        return enlarged(as_channels(images, self.channels), self.scale) + added


def as_channels(images: Tensor, channels: int) -> Tensor:
    """Return input images with the channels of the output. Of 2 and 4 channels the last is a mask or a transparency."""
    given = images.shape[1]
    if given == channels:
        return images
    colours = images[:, : given - 1] if given in (2, 4) else images
    if colours.shape[1] == channels:
        return colours
    return colours.mean(1, keepdim=True).expand(-1, channels, -1, -1)


def enlarged(images: Tensor, scale: int) -> Tensor:
    """Return images (N, C, H, W) enlarged by linear interpolation: (N, C, scale * H, scale * W)."""
    return (
        images if scale == 1 else interpolate(images, scale_factor=float(scale), mode="bilinear", align_corners=False)
    )


class Msrresnet(Network):
    """SRResNet without BatchNorm (MSRResNet): residual blocks at the input's size, then pixel shuffles; any size, any factor."""

    base_channels: Positive = 64
    """Channels of all layers."""
    blocks: Positive = 16
    """Residual blocks of two convolutions each."""

    def generator(self, shape: Shape) -> nn.Module:
        if not shape.inputs:
            raise InputError(
                f"networks.generator.kind = {self.kind} turns images into images; set game.kind: restoration, or another kind of network"
            )
        return Generator(shape.inputs, shape.channels, self.base_channels, self.blocks, shape.scale)
