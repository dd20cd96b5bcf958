"""Define what a family of networks is: a section of keys that makes networks for roles."""

import dataclasses
from typing import ClassVar, Literal

from torch import nn

from gan_dist import units
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
    scale: int = 1
    """How many times larger the sides of the image that is made are than those of the input image."""
    points: int = 0
    """Numbers of a point, where samples are points and no images: (N, points)."""

    @property
    def resolution(self) -> int:
        """Height and width, which are the same. Raises InputError where they are not: for networks of squares only."""
        height, width = self.size
        if height != width:
            raise InputError(
                f"the network takes square images only, and data.resolution = {units.pixels(self.size)}; "
                f"set data.resolution: {min(self.size)}, or choose another networks.*.kind"
            )
        return height


def start_of(size: tuple[int, int], least: int = 4) -> tuple[int, int, int]:
    """Return height, width and number of doublings of the smallest image that doubles to a size: (64, 96) from (4, 6), by 4.

    Both sides of it are at least `least`. Raises InputError for a size without any doubling.
    """
    height, width = size
    doublings = 0
    while height % 2 == 0 and width % 2 == 0 and min(height, width) >= 2 * least:
        height, width, doublings = height // 2, width // 2, doublings + 1
    if not doublings:
        near = units.pixels((max(2 * least, size[0] // 8 * 8), max(2 * least, size[1] // 8 * 8)))
        raise InputError(
            f"data.resolution = {units.pixels(size)} is no doubling of a size from {least} pixels; for example {near} is"
        )
    return height, width, doublings


class Network(Part):
    """A family of networks. A method for each role that it can take makes the network, seeded by the caller."""

    samples: ClassVar[Literal["images", "points"]] = "images"
    """What it makes and judges: (N, channels, H, W), or (N, shape.points)."""
    of_latents: ClassVar[bool] = False
    """Whether its generator draws from latents, and turns no images into images."""
    gives_styles: ClassVar[bool] = False
    """Whether its generator, called with styles=True, returns images and the styles (N, layers, F) they were made from."""
    gives_features: ClassVar[bool] = False
    """Whether its discriminator, called with features=True, returns the features of each layer, logits the last, for each scale."""
    gives_layers: ClassVar[bool] = False
    """Whether its generator of images, called with features=True, returns images and features (N, C, h, w) of its encoder's
    layers; with decode=False the features alone. It has `widths`, their channels."""

    def generator(self, shape: Shape) -> nn.Module:
        """Return a network from (N, latent) numbers [and (N,) classes], or (N, inputs, H, W) images, to (N, channels, H, W), scale times as large."""
        raise self._lacks("generator")

    def discriminator(self, shape: Shape) -> nn.Module:
        """Return a network from (N, channels, H, W) images [and (N,) classes] to (N, ...) logits."""
        raise self._lacks("discriminator")

    def encoder(self, shape: Shape) -> nn.Module:
        """Return a network from (N, channels, H, W) images to means and log-variances of latents, (N, latent) each."""
        raise self._lacks("encoder")

    def _lacks(self, role: str) -> InputError:
        return InputError(f"networks.{role}.kind = {self.kind} has no {role}; choose another kind")
