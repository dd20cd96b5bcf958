"""Define what a family of networks is: a section of keys that makes networks for roles."""

import dataclasses

from torch import nn

from gan_dist.config.section import Part
from gan_dist.errors import InputError


@dataclasses.dataclass(frozen=True)
class Shape:
    """What goes into a network and comes out of it."""

    resolution: int
    """Height and width of images."""
    channels: int
    """Of the images that are made, or judged."""
    latent: int = 0
    """Numbers in a latent vector; 0: the network has none."""
    classes: int = 0
    """Class labels; 0: none."""
    inputs: int = 0
    """Channels of an input image that is turned into another; 0: the network has none."""


class Network(Part):
    """A family of networks. A method for each role that it can take makes the network, seeded by the caller."""

    def generator(self, shape: Shape) -> nn.Module:
        """Return a network from (N, latent) numbers [and (N,) classes], or (N, inputs, H, W) images, to (N, channels, H, W)."""
        raise self._lacks("generator")

    def discriminator(self, shape: Shape) -> nn.Module:
        """Return a network from (N, channels, H, W) images [and (N,) classes] to (N, ...) logits."""
        raise self._lacks("discriminator")

    def _lacks(self, role: str) -> InputError:
        return InputError(f"networks.{role}.kind = {self.kind} has no {role}; choose another kind")
