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
    unit: int = 1
    """Parts begin at multiples of it, in pixels: as many as a pixel of the smallest field of the sample has here."""

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
        steps = [each // self.unit for each in room]
        top, left = (each // 2 * self.unit for each in steps)
        if place is not None:
            top, left = (int(where * (each + 1)) * self.unit for where, each in zip(place, steps, strict=True))
        return image[top : top + self.size[0], left : left + self.size[1]]


def geometry(config: Config, name: str = "") -> Geometry:
    """Return what a config's keys say of a field; by default of one as large as data.resolution."""
    data = config.data
    largest = max((field.scale for field in data.fields.values()), default=1)
    return Geometry(data.size_of(name), data.loaded, data.crop == "random", max(1, largest // data.scale_of(name)))


def places(seed: int, position: int, count: int, name: str = "") -> np.ndarray:
    """Return where the parts of samples of a set at `position`, ... are cut out: (count, 2) in (0, 1)."""
    key = rng.key(seed, f"crop of {name}" if name else "crop")
    found: np.ndarray = rng.uniform(key, torch.arange(position, position + count), 2).numpy()
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
