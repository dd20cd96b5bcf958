"""Draw initial weights from torch's global generator, which the caller seeds."""

from typing import Literal

from torch import nn

from gan_dist.networks.statistics import BatchNorm

Weights = Literal["normal", "xavier"]


def initialise(network: nn.Module, weights: Weights) -> None:
    """Draw weights as a config names it: `dcgan`, or `xavier`."""
    (xavier if weights == "xavier" else dcgan)(network)


def xavier(network: nn.Module) -> None:
    """Draw weights as Park et al. (CUT, 2020) do: Glorot's normal ones with a gain of 0.02, far smaller; the rest as `dcgan`."""
    dcgan(network)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.xavier_normal_(module.weight, gain=0.02)


def dcgan(network: nn.Module) -> None:
    """Draw weights as Radford et al. (2016) do: normal with deviation 0.02, scales of a normalisation around 1, biases zero.

    torch's default scales a transposed convolution by its output channels: with one of them the last layer's
    outputs have a deviation above 2, and tanh begins saturated.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, BatchNorm | nn.InstanceNorm2d) and module.weight is not None:
            nn.init.normal_(module.weight, 1.0, 0.02)


def kaiming(network: nn.Module, factor: float) -> None:
    """Draw the weights of convolutions as He et al. (2015) do, times a factor; biases zero.

    0.1 is what ESRGAN (Wang et al., 2018) takes, so that residual branches begin small.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            module.weight.data *= factor
            if module.bias is not None:
                nn.init.zeros_(module.bias)
