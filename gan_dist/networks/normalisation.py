"""Give a convolution the normalisation that a config names."""

from typing import Literal

import torch
from torch import nn

from gan_dist.networks.statistics import BatchNorm

Normalisation = Literal["instance", "batch", "none"]


def normalised(convolution: nn.Conv2d | nn.ConvTranspose2d, normalisation: Normalisation) -> list[nn.Module]:
    """Return the layers of a convolution without bias and of its normalisation; without one it gets a bias."""
    channels = convolution.out_channels
    if normalisation == "none":
        convolution.bias = nn.Parameter(torch.zeros(channels))
        return [convolution]
    # no running statistics: the same function in training and afterwards, whatever shares the batch
    return [
        convolution,
        BatchNorm(channels) if normalisation == "batch" else nn.InstanceNorm2d(channels, affine=True),
    ]
