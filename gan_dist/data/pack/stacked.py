"""StackedMNIST: three of MNIST's digits in the channels of an RGB image, and so 1,000 modes that can be counted."""

import io
import zlib
from typing import Any

import numpy as np
import torch
from PIL import Image

from gan_dist import rng
from gan_dist.data.pack.items import Item, Source
from gan_dist.data.pack.sources import read
from gan_dist.errors import InputError

COUNT = 128_000
"""Triples, as in PacGAN's protocol (Lin et al., 2018)."""
_SIZE, _PADDED = 28, 32


def triples(digits: Source, name: str, count: int | None, size: tuple[int, int] | None) -> Source:
    """Return `count` random triples of digits; None: 128,000. The same digits in the same order give the same triples.

    The first digit is the red channel and the hundreds of the label. Zeros pad the digits to 32x32 pixels, unless `size` is
    (28, 28). Raises InputError for a source, called `name`, of anything but 28x28 digits with labels from 0 to 9.
    """
    check_digits(digits, name)
    count = COUNT if count is None else count
    side = _SIZE if size == (_SIZE, _SIZE) else _PADDED
    chosen = rng.integers(rng.key(0, "stacked-mnist"), torch.arange(3 * count), len(digits.items)).view(-1, 3)
    items = []
    for number, places in enumerate(chosen.tolist()):
        three = [digits.items[place] for place in places]
        label = int("".join(str(item.label) for item in three))
        stamp = zlib.crc32(repr([(item.name, item.stamp) for item in three]).encode())
        place = (_pixels, side, *(item.place for item in three))
        items.append(Item(f"{number:06d}", label, place, sum(item.size for item in three), stamp))
    return Source(items, {f"{label:03d}": label for label in range(1000)}, digits.skipped, digits.notes)


def check_digits(digits: Source, name: str) -> None:
    """Raise InputError for a source, called `name`, of anything but 28x28 digits with labels from 0 to 9."""
    if strange := [item for item in digits.items if item.label is None or item.label > 9]:
        label = "no label" if strange[0].label is None else f"the label {strange[0].label}"
        raise InputError(
            f"{name} is not MNIST: {strange[0].name} has {label}; digits with labels from 0 to 9 are needed"
        )
    try:
        digit(digits.items[0].place)
    except OSError as error:
        raise InputError(f"{name} is not MNIST: {digits.items[0].name} is {error}") from None


def digit(place: tuple[Any, ...]) -> np.ndarray:
    """Return a digit, (28, 28) uint8. Raises OSError for what is none."""
    content = read(place)
    if isinstance(content, bytes):
        try:
            content = np.asarray(Image.open(io.BytesIO(content)).convert("L"))
        except Exception:  # Pillow's decoders raise anything on damaged files, no class covers it
            raise OSError("no whole image") from None
    if content.shape != (_SIZE, _SIZE):
        raise OSError(f"an image of {'x'.join(map(str, content.shape))} pixels, and no digit of 28x28")
    return content


def _pixels(side: int, *places: tuple[Any, ...]) -> np.ndarray:
    """Return the image of three digits, (side, side, 3) uint8."""
    border = (side - _SIZE) // 2
    return np.pad(np.stack([digit(place) for place in places], 2), ((border, border), (border, border), (0, 0)))
