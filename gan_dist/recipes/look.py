"""Look at a source of images: how many, how large, which kinds, what is broken or there twice. And at this machine."""

import dataclasses
import functools
import io
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from gan_dist.data.pack import likeness, write
from gan_dist.data.pack.items import Item
from gan_dist.data.pack.sources import open_source

MOST = 5_000
"""Images that are decoded; of more, these are spread evenly over the source."""
_SMALL = 64  # pixels that a JPEG is decoded to at least: all of the file is read, which finds the truncated
_TURNED = 5  # EXIF orientations from here on swap width and height


@dataclasses.dataclass(frozen=True)
class Picture:
    """What is known of one image that can be read."""

    size: tuple[int, int]
    """Height and width."""
    channels: int
    """1, 3, or 4 where some pixel is transparent."""
    thumbnail: bytes


@dataclasses.dataclass(frozen=True)
class Images:
    """What is known of a source."""

    source: str
    images: int
    bytes: int
    pictures: list[Picture]
    """Of those that were decoded."""
    broken: list[tuple[str, str]]
    """(name, reason), among those that were decoded."""
    others: int
    """Files that are no image by their names."""
    classes: dict[str, int]
    """Name -> images."""
    unlabelled: int
    twice: list[tuple[str, str]]
    """(name, the earlier image that shows nearly the same), among those that were decoded."""
    notes: list[str]
    resolution: tuple[int, int] | None = None
    """The size of all images; None where they differ."""

    @property
    def looked(self) -> int:
        return len(self.pictures) + len(self.broken)

    @property
    def channels(self) -> int:
        """Return what most images ask for: 1 where all are grey, 4 where most are transparent somewhere, else 3."""
        kinds = Counter(picture.channels for picture in self.pictures)
        if kinds[1] == len(self.pictures):
            return 1
        return 4 if 2 * kinds[4] > len(self.pictures) else 3

    def shorter(self, part: float) -> int:
        """Return the length of the shorter side that a part of the images falls below."""
        return int(np.quantile([min(picture.size) for picture in self.pictures], part, method="lower"))

    @property
    def aspect(self) -> float:
        """Return width / height, the median."""
        return float(np.median([picture.size[1] / picture.size[0] for picture in self.pictures]))

    def of_aspect(self, aspect: float) -> float:
        """Return the part of the images with nearly this width / height: they lose at most a twentieth."""
        ratios = np.array([picture.size[1] / picture.size[0] for picture in self.pictures]) / aspect
        return float(np.mean((ratios > 0.95) & (ratios < 1 / 0.95)))


@dataclasses.dataclass(frozen=True)
class Machine:
    """What there is to train on."""

    cores: int
    memory: int
    """Bytes."""
    gpus: Sequence[tuple[str, int]] = ()
    """Name and bytes of each."""


def images(source: str, most: int = MOST) -> Images:
    """Look at a SOURCE of `gan-dist pack`. Raises InputError where it holds no images."""
    with tempfile.TemporaryDirectory(prefix="gan-dist-") as scratch:
        found = open_source(source, Path(scratch))
        step = max(1, -(-len(found.items) // most))
        looked = found.items[::step]
        pictures: list[Picture] = []
        names: list[str] = []
        broken: list[tuple[str, str]] = []
        with write.pixel_limit(), ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            for item, seen in zip(looked, pool.map(_picture, looked), strict=True):
                if isinstance(seen, Picture):
                    pictures.append(seen)
                    names.append(item.name)
                else:
                    broken.append((item.name, seen))
    twice = []
    if pictures:
        signed = likeness.signatures([picture.thumbnail for picture in pictures])
        twice = [(names[each.image], names[each.like]) for each in likeness.near(signed)]
    named = {number: name for name, number in found.classes.items()}
    unlabelled = sum(item.label is None for item in found.items)
    labels = Counter(item.label for item in found.items if item.label is not None)
    sizes = {picture.size for picture in pictures}
    return Images(
        source=source,
        images=len(found.items),
        bytes=sum(item.size for item in found.items),
        pictures=pictures,
        broken=broken,
        others=len(found.skipped),
        classes={named.get(label, str(label)): labels[label] for label in sorted(labels)},
        unlabelled=unlabelled,
        twice=twice,
        notes=found.notes,
        resolution=sizes.pop() if len(sizes) == 1 else None,
    )


def _picture(item: Item) -> Picture | str:
    """Return what is known of an image, or why it cannot be read."""
    try:
        return write.use(item, _look)
    except write.Unusable as error:
        return str(error)


def _look(content: bytes | np.ndarray) -> Picture:
    if isinstance(content, np.ndarray):
        image = Image.fromarray(content)
        return Picture(content.shape[:2], 1 if content.ndim == 2 else 3, likeness.thumbnail(image))
    if not content:
        raise ValueError("empty")
    with Image.open(io.BytesIO(content)) as image:
        width, height = image.size
        size = (width, height) if image.getexif().get(0x0112, 1) >= _TURNED else (height, width)
        image.draft("RGB" if image.mode not in ("L", "CMYK") else image.mode, (_SMALL, _SMALL))
        image.load()
        if image.mode == "F":
            raise ValueError("floating-point pixels have no agreed range")
        channels = 1 if image.mode in ("1", "L", "LA", "I") or image.mode.startswith("I;") else 3
        if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
            channels = 4 if np.asarray(image.convert("RGBA"))[..., 3].min() < 255 else channels
        if image.mode.startswith("I"):
            pixels = np.asarray(image).astype(np.float64)
            image = Image.fromarray((pixels / 257).clip(0, 255).astype(np.uint8))
        return Picture(size, channels, likeness.thumbnail(image))


@functools.cache
def machine() -> Machine:
    """Return this machine."""
    import torch

    gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return Machine(
        len(os.sched_getaffinity(0)),
        psutil.virtual_memory().total,
        tuple((gpu.name, gpu.total_memory) for gpu in gpus),
    )
