"""Define what a family of networks is: a section of keys that makes networks for roles."""

import dataclasses

from torch import nn

from gan_dist.config.section import Part
from gan_dist.errors import InputError


@dataclasses.dataclass(frozen=True)
class Shape:
    """What goes into a network and comes out of it."""

    size: tuple[int, int]
    """Height and width of images."""
    channels: int
    """Of the images that are made, or judged."""
    latent: int = 0
    """Numbers in a latent vector; 0: the network has none."""
    classes: int = 0
    """Class labels; 0: none."""
    inputs: int = 0
    """Channels of an input image that is turned into another; 0: the network has none."""

    @property
    def resolution(self) -> int:
        """Return height and width of square images. Raises InputError for others."""
        height, width = self.size
        if height != width:
            raise InputError(
                f"data.resolution = {height}x{width}: this network makes square images only; set one number, or choose another "
                "networks.*.kind"
            )
        return height


def start_of(size: tuple[int, int], least: int = 4) -> tuple[int, int, int]:
    """Return (h0, w0, doublings): where a network begins that doubles to `size` as often as min(h0, w0) >= least allows.

    (64, 64) gives (4, 4, 4), and (96, 64) gives (6, 4, 4). Raises InputError where it cannot double once.
    """
    (height, width), doublings = size, 0
    while height % 2 == width % 2 == 0 and min(height, width) // 2 >= least:
        height, width, doublings = height // 2, width // 2, doublings + 1
    if not doublings:
        raise InputError(
            f"data.resolution = {height}x{width} is not the double of a size from {least}; set a multiple of a power of two, "
            f"for example {2 * least * max(1, height // (2 * least))}x{2 * least * max(1, width // (2 * least))}"
        )
    return height, width, doublings


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
