"""Crop and resize what is decoded: the same part of every field of a sample, chosen by its position in the run."""

import dataclasses

import cv2
import numpy as np
import torch

from gan_dist import rng, units
from gan_dist.config import Config


@dataclasses.dataclass(frozen=True)
class Geometry:
    """How a stored image becomes one of a size."""

    size: tuple[int, int]
    """Height and width of what comes out."""
    load: tuple[int, int] | None = None
    """Height and width that images are brought to before a part is cut out of them; None: they stay as stored."""
    random: bool = False
    """Whether parts are cut out of images in training."""

    @property
    def least(self) -> tuple[int, int] | None:
        """Height and width that a decoder may reduce an image to while it decodes; None: it must decode all pixels."""
        return self.load if self.random else self.size

    def cut(self, image: np.ndarray, place: np.ndarray | None, nearest: bool = False) -> np.ndarray:
        """Return an image (H, W, ...) cropped, and resized, to `size`. Raises ValueError where it is too small.

        `place` are two numbers in [0, 1), where the part begins among all places that it may have, from above and from the
        left; None: an image as grids and scores see it. `nearest`: pixels are numbers, of which none may lie between two.
        """
        if not self.random or (place is None and self.load is not None):
            return fit(image, self.size, nearest)
        if self.load is not None:
            image = fit(image, self.load, nearest, enlarging=True)
        room = image.shape[0] - self.size[0], image.shape[1] - self.size[1]
        if min(room) < 0:
            raise ValueError(f"{units.pixels(image.shape[:2])} pixels are fewer than data.resolution")
        top, left = (each // 2 for each in room)
        if place is not None:
            top, left = (int(where * (each + 1)) for where, each in zip(place, room, strict=True))
        return image[top : top + self.size[0], left : left + self.size[1]]


def geometry(config: Config) -> Geometry:
    """Return what a config's keys say."""
    data = config.data
    return Geometry(data.size, data.loaded, data.crop == "random")


def places(seed: int, position: int, count: int) -> np.ndarray:
    """Return where the parts of samples at `position`, ... are cut out: (count, 2) in (0, 1)."""
    found: np.ndarray = rng.uniform(rng.key(seed, "crop"), torch.arange(position, position + count), 2).numpy()
    return found


def fit(image: np.ndarray, size: tuple[int, int], nearest: bool = False, enlarging: bool = False) -> np.ndarray:
    """Return an image (H, W, ...) cropped at the centre and reduced by area to a (height, width).

    `nearest` takes the nearest pixels instead. `enlarging`: smaller images are enlarged by cubic interpolation.
    """
    if image.shape[:2] != size:
        top, left, height, width = units.centre((image.shape[0], image.shape[1]), size)
        image = image[top : top + height, left : left + width]
        if image.shape[:2] != size:
            larger = height < size[0] or width < size[1]
            way = cv2.INTER_CUBIC if enlarging and larger else cv2.INTER_AREA
            image = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT if nearest else way)
    return image
