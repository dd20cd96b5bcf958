"""Make the U-Net discriminator of Real-ESRGAN (Wang et al., 2021; Schoenfeld et al., 2020): a logit for each pixel."""

from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu

from gan_dist.config.section import Positive
from gan_dist.errors import InputError
from gan_dist.networks.base import Network, Shape
from gan_dist.networks.statistics import SpectralConv2d

_HALVINGS = 3


class Discriminator(nn.Module):
    """(N, C, H, W) images of any size from 8 pixels -> (N, 1, H, W) logits; spectral norm on all layers but the outermost two."""

    def __init__(self, channels: int, base: int) -> None:
        super().__init__()
        widths = [base << level for level in range(_HALVINGS + 1)]
        self.first = nn.Conv2d(channels, base, 3, 1, 1)
        self.down = nn.ModuleList(
            SpectralConv2d(widths[level], widths[level + 1], 4, 2, 1, bias=False) for level in range(_HALVINGS)
        )
        self.up = nn.ModuleList(
            SpectralConv2d(widths[level + 1], widths[level], 3, 1, 1, bias=False)
            for level in reversed(range(_HALVINGS))
        )
        self.high = nn.ModuleList(SpectralConv2d(base, base, 3, 1, 1, bias=False) for _ in range(2))
        self.last = nn.Conv2d(base, 1, 3, 1, 1)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        skips = [leaky_relu(self.first(images), 0.2)]
        for layer in self.down:
            skips.append(leaky_relu(layer(skips[-1]), 0.2))
        x = skips.pop()
        for layer in self.up:
            skip = skips.pop()
            # to the size of the skip: an odd side was rounded down
            x = interpolate(x, size=skip.shape[2:], mode="bilinear", align_corners=False)
            x = leaky_relu(layer(x), 0.2) + skip
        for layer in self.high:
            x = leaky_relu(layer(x), 0.2)
        logits: Tensor = self.last(x)
        return logits


class UnetDiscriminator(Network):
    """U-Net discriminator with spectral norm (Real-ESRGAN, 2021): a logit for each pixel, for images of any size from 8 pixels."""

    base_channels: Positive = 64
    """Channels of the outermost layers; those inside have 2, 4 and 8 times as many."""

    def discriminator(self, shape: Shape) -> nn.Module:
        if shape.classes:
            raise InputError(f"networks.discriminator.kind = {self.kind} knows no classes; set data.labels: false")
        if min(shape.size) < 1 << _HALVINGS:
            raise InputError(
                f"networks.discriminator.kind = {self.kind} needs images of {1 << _HALVINGS} pixels; set data.resolution: "
                f"{1 << _HALVINGS} or more, or choose patchgan"
            )
        return Discriminator(shape.channels, self.base_channels)
