"""Sets of images to score or to compare with: a data set's shards, or images of anybody's in a folder or an archive."""

import contextlib
import dataclasses
import hashlib
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gan_dist import rng, units
from gan_dist.data import order
from gan_dist.data.decode import SUBSTITUTES, Decoder, UnusableError, how
from gan_dist.data.geometry import Geometry, fit
from gan_dist.data.index import Index
from gan_dist.data.pack import convert, sources
from gan_dist.data.pack.items import Item
from gan_dist.errors import InputError

_SEED = 0
"""Of the order in which real images are taken: the same for all runs, so that they share what is kept of a data set."""
_UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, cv2.error, Image.DecompressionBombError)


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
    notes: Callable[[], list[str]] = list
    """What a reader of the scores must know of the images that were read until now."""

    @property
    def identity(self) -> dict[str, Any]:
        """Return the facts that name these images, without the path by which they were asked for."""
        return {name: fact for name, fact in self.facts.items() if name != "where"}

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
    items = sources.open_source(source, scratch).items
    dim: dict[str, int] = {}

    def opened(number: int) -> bytes | np.ndarray:
        return _content(items[number], f"{source}: {items[number].name}")

    def pixels(number: int, content: bytes | np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
        image, whole, peak = _pixels(content, channels, f"{source}: {items[number].name}", like[0] if like else None)
        if peak is not None and peak < convert.DIM:
            dim[items[number].name] = peak
        return image, whole

    first = opened(0)
    grey = _is_grey(first, f"{source}: {items[0].name}")
    channels = like[1] if like else (1 if grey else 3)
    size = like[0] if like else pixels(0, first)[1]

    def read(number: int) -> np.ndarray:
        name, content = f"{source}: {items[number].name}", opened(number)
        if like is None and _is_grey(content, name) != grey:
            raise InputError(
                f"images of mixed kinds: {name} {'has colours' if grey else 'is grey'}, and {items[0].name} "
                f"{'is grey' if grey else 'has colours'}; convert them with `gan-dist pack --channels`"
            )
        image, whole = pixels(number, content)
        if like is None and whole != size:
            raise InputError(
                f"images of mixed sizes: {name} has {units.pixels(whole)} pixels, and {items[0].name} "
                f"{units.pixels(size)}; give images of one size"
            )
        if whole[0] < size[0] or whole[1] < size[1]:
            raise InputError(
                f"{name} has {units.pixels(whole)} pixels, fewer than the images that it is compared with "
                f"({units.pixels(size)}); give images of that size or larger"
            )
        fitted = fit(image, size)
        return fitted if fitted.ndim == 3 else fitted[..., None]

    digest = hashlib.sha256()
    if items[0].place[0] != "zip":  # its stamps are CRCs; others are times, and two folders may have been made at once
        digest.update(f"{Path(source).resolve()}\n".encode(errors="surrogateescape"))
    for item in items:
        digest.update(f"{item.name}\0{item.size}\0{item.stamp}\n".encode(errors="surrogateescape"))
    labels = np.array([-1 if item.label is None else item.label for item in items], np.int64)
    facts = {"data": digest.hexdigest(), "size": list(size), "channels": channels, "mirrored": False, "where": source}
    labelled = labels if labels.min(initial=0) >= 0 else None
    return ImageSet(len(items), size, channels, read, facts, labelled, lambda: convert.about_dim(list(dim.items())))


def _content(item: Item, name: str) -> bytes | np.ndarray:
    """Return what an item holds. Raises InputError for one that cannot be read."""
    try:
        return sources.read(item.place)
    except (*sources.DAMAGED, RuntimeError, NotImplementedError) as error:  # the last two: of an encrypted or odd zip
        raise InputError(f"{name} cannot be read ({error}); remove it, or fetch it again") from None


def _is_grey(content: bytes | np.ndarray, name: str) -> bool:
    try:
        return convert.is_grey(content)
    except _UNREADABLE:
        raise InputError(f"{name} cannot be decoded; remove it, or convert it to PNG or JPEG") from None


def _pixels(
    content: bytes | np.ndarray, channels: int, name: str, target: tuple[int, int] | None
) -> tuple[np.ndarray, tuple[int, int], int | None]:
    """Return an image as it would come from shards: its pixels, its (height, width), its brightest pixel if it is deep.

    The pixels (H, W, C) are fewer than the image has, but no fewer than `target`, where a JPEG can be decoded so. A deep
    image has more than 8 bits. Raises InputError.
    """
    if isinstance(content, np.ndarray) and channels == (1 if content.ndim == 2 else 3):
        return (content if content.ndim == 3 else content[..., None]), (content.shape[0], content.shape[1]), None
    try:
        converted = convert.convert(content, None, channels, convert.QUALITY)
        with Image.open(io.BytesIO(converted.content)) as image:
            whole = image.height, image.width
        flag = how(converted.content, channels, whole, target or whole)
        decoded = cv2.imdecode(np.frombuffer(converted.content, np.uint8), flag)
    except _UNREADABLE:
        decoded = None
    if decoded is None:
        raise InputError(f"{name} cannot be decoded; remove it, or convert it to PNG or JPEG")
    pixels = decoded[..., None] if channels == 1 else cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
    return pixels, whole, converted.peak
