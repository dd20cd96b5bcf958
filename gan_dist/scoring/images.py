"""Sets of images to score or to compare with: a data set's shards, or images of anybody's in a folder or an archive."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from gan_dist import rng, units
from gan_dist.data import order
from gan_dist.data.decode import SUBSTITUTES, Decoder, UnusableError
from gan_dist.data.geometry import Geometry, fit
from gan_dist.data.index import Index
from gan_dist.data.pack import convert, sources
from gan_dist.errors import InputError

_SEED = 0
"""Of the order in which real images are taken: the same for all runs, so that they share what is kept of a data set."""


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Images of one size, by number."""

    count: int
    size: tuple[int, int]
    """Height and width."""
    channels: int
    read: Callable[[int], np.ndarray]
    """Number to (H, W, C) uint8. Raises InputError."""
    facts: Mapping[str, Any]
    """What they are, for the record and for the key of what is kept of them."""
    labels: np.ndarray | None = None
    """(count,) int64, where they have labels."""

    def draw(self, numbers: range, device: torch.device) -> Tensor:
        """Return images of some numbers: (N, C, H, W) in [-1, 1]."""
        pixels = torch.from_numpy(np.stack([self.read(number) for number in numbers]))
        return pixels.permute(0, 3, 1, 2).to(device).float().div_(127.5).sub_(1)

    def shuffled(self, count: int = 0) -> "ImageSet":
        """Return `count` of them, or all, in a fixed shuffled order: they may be sorted by class."""
        number = min(count or self.count, self.count)
        chosen = order.permute(rng.key(_SEED, "reference"), self.count, np.arange(number))
        labels = None if self.labels is None else self.labels[chosen]
        facts = {**self.facts, "images": number, "of": self.count, "order": "shuffled, seed 0"}
        return dataclasses.replace(
            self, count=number, read=lambda place: self.read(int(chosen[place])), facts=facts, labels=labels
        )


def of_index(
    index: Index, size: tuple[int, int] | Geometry, channels: int, field: str = "image", where: str = ""
) -> ImageSet:
    """Return the images of shards, decoded, cropped and reduced as for training, and not mirrored.

    Another image stands in for one that cannot be read, always the same.
    """
    found = index.images[field]
    decoder = Decoder(found, size, channels)
    geometry = decoder.geometry

    def read(number: int) -> np.ndarray:
        candidate = number
        for attempt in range(SUBSTITUTES):
            with contextlib.suppress(UnusableError):
                return decoder.decode(candidate)
            candidate = order.substitute(_SEED, len(found), number, attempt)
        raise InputError(f"data.shards: {SUBSTITUTES} samples in a row cannot be read; see `gan-dist index`")

    stamps = hashlib.sha256(repr(found.stamps).encode()).hexdigest()[:16]
    unreadable = int((found.width == 0).sum())
    facts = {"data": index.digest, "files": stamps, "field": field, "size": list(geometry.size), "channels": channels}
    facts |= {"cut": "not resized"} if geometry.random and geometry.load is None else {}
    facts |= {"mirrored": False, "unreadable": unreadable, **({"where": where} if where else {})}
    labels = found.label.astype(np.int64)
    own_labels = labels if labels.min(initial=0) >= 0 else None
    return ImageSet(len(found), geometry.size, channels, read, facts, own_labels)


def of_source(source: str, scratch: Path, like: tuple[tuple[int, int], int] | None = None) -> ImageSet:
    """Return the images of a folder, zip or tar, or whatever else `gan-dist pack` takes.

    They must have one size, unless they are to be cropped and reduced by area to the size and channels of others (`like`).
    Raises InputError for images of mixed sizes, and for one that cannot be read.
    """
    found = sources.open_source(source, scratch)
    items = found.items
    first = sources.read(items[0].place)
    channels = like[1] if like else (1 if convert.is_grey(first) else 3)
    size = like[0] if like else _pixels(first, channels, f"{source}: {items[0].name}").shape[:2]

    def read(number: int) -> np.ndarray:
        item = items[number]
        name = f"{source}: {item.name}"
        pixels = _pixels(sources.read(item.place), channels, name)
        if like is None and pixels.shape[:2] != size:
            raise InputError(
                f"images of mixed sizes: {name} has {units.pixels(pixels.shape[:2])} pixels, and {items[0].name} "
                f"{units.pixels(size)}; give images of one size"
            )
        if pixels.shape[0] < size[0] or pixels.shape[1] < size[1]:
            raise InputError(
                f"{name} has {units.pixels(pixels.shape[:2])} pixels, fewer than the images that it is compared with "
                f"({units.pixels(size)}); give images of that size or larger"
            )
        fitted = fit(pixels, size)
        return fitted if fitted.ndim == 3 else fitted[..., None]

    digest = hashlib.sha256()
    for item in items:
        digest.update(f"{item.name}\0{item.size}\0{item.stamp}\n".encode(errors="surrogateescape"))
    labels = np.array([-1 if item.label is None else item.label for item in items], np.int64)
    facts = {"data": digest.hexdigest(), "size": list(size), "channels": channels, "mirrored": False, "where": source}
    return ImageSet(len(items), size, channels, read, facts, labels if labels.min(initial=0) >= 0 else None)


def _pixels(content: bytes | np.ndarray, channels: int, name: str) -> np.ndarray:
    """Return an encoded image, or pixels, as (H, W, C) uint8 with so many channels. Raises InputError."""
    if isinstance(content, np.ndarray):
        image = content if content.ndim == 3 else content[..., None]
        if image.shape[2] < channels:
            return image.repeat(channels, axis=2)
        return image if image.shape[2] == channels else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    kind = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR
    try:
        decoded = cv2.imdecode(np.frombuffer(content, np.uint8), kind) if content else None
    except cv2.error:
        decoded = None
    if decoded is None:
        raise InputError(f"{name} cannot be decoded; remove it, or convert it to PNG or JPEG")
    return decoded[..., None] if channels == 1 else cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
