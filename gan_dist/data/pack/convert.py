"""Convert one image of any kind to what a shard holds: grey, RGB or RGBA with 8 bits, cropped and resized, PNG or JPEG."""

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from gan_dist import units
from gan_dist.data.pack import likeness

QUALITY = 95
"""Of JPEG files that must be encoded again."""
DIM = 64
"""Of 255: the brightest pixel of a picture that fills its range is brighter."""
_ORIENTATION = 0x0112  # the EXIF tag
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class Converted(NamedTuple):
    extension: str
    content: bytes
    kept: bool
    """Whether `content` is the source's own bytes."""
    enlarged: bool
    peak: int | None = None
    """The brightest pixel of 255, of an image that has more than 8 bits."""
    thumbnail: bytes = b""
    """What near-duplicates are found by (gan_dist/data/pack/likeness.py)."""


def is_grey(content: bytes | np.ndarray) -> bool:
    """Say whether an image has no colours by its kind (not by its pixels)."""
    if isinstance(content, np.ndarray):
        return content.ndim == 2
    with Image.open(io.BytesIO(content)) as image:
        return image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I")


class Prepared(NamedTuple):
    """A picture as a shard is to hold it, before it is encoded."""

    image: Image.Image
    lossy: bool
    """Whether it is to be a JPEG, which has no transparency."""
    kept: bool
    """Whether the source's own bytes hold just this."""
    enlarged: bool = False
    peak: int | None = None
    """As in `Converted`."""


def prepare(
    content: bytes | np.ndarray, size: tuple[int, int] | None, channels: int, lossless: bool = False
) -> Prepared:
    """Decode an image, or take pixels, and bring it to `channels` and, if asked, a (height, width).

    Raises ValueError, OSError or SyntaxError for what is no whole image.
    """
    lossy = False
    if isinstance(content, np.ndarray):
        image = Image.fromarray(content)
    else:
        if not content:
            raise ValueError("empty")
        image = Image.open(io.BytesIO(content))
        image.load()  # to the last pixel: a truncated image must not get into a shard
        lossy = (
            image.format in ("JPEG", "MPO") and channels != 4 and not lossless
        )  # MPO: a phone's JPEG with further pictures behind the first
        fits = size is None or image.size == (size[1], size[0])
        turned = image.getexif().get(_ORIENTATION, 1) != 1
        clear = "transparency" in image.info
        plain = image.mode == _MODES[channels] and not turned and not clear and not _is_deep_png(content)
        if fits and plain and (lossy or image.format == "PNG"):
            return Prepared(image, lossy, kept=True)
        image = ImageOps.exif_transpose(image)
    deep = not isinstance(content, np.ndarray) and (image.mode.startswith("I") or _is_deep_png(content))
    image = eight_bits(image, keep_alpha=channels == 4).convert(_MODES[channels])
    peak = int(np.asarray(image).max()) if deep else None
    enlarged = False
    if size is not None and image.size != (size[1], size[0]):
        top, left, height, width = units.centre((image.height, image.width), size)
        enlarged = height < size[0] or width < size[1]
        # BOX is the mean over the area that a new pixel covers
        method = Image.Resampling.BICUBIC if enlarged else Image.Resampling.BOX
        image = image.resize((size[1], size[0]), method, box=(left, top, left + width, top + height))
    return Prepared(image, lossy, kept=False, enlarged=enlarged, peak=peak)


def convert(
    content: bytes | np.ndarray,
    size: tuple[int, int] | None,
    channels: int,
    quality: int,
    lossless: bool = False,
    compared: bool = False,
) -> Converted:
    """Convert an encoded image or pixels to an encoded image with `channels` and, if asked, of a (height, width).

    It is a JPEG where the source is one, unless `lossless`. `compared`: its thumbnail is wanted.

    Bytes are kept as they are where nothing would change. Raises ValueError, OSError or SyntaxError for what is
    no whole image.
    """
    image, lossy, kept, enlarged, peak = prepare(content, size, channels, lossless)
    thumbnail = likeness.thumbnail(image) if compared else b""
    ending = "jpg" if lossy else "png"
    if kept:
        assert isinstance(content, bytes)
        return Converted(ending, content, kept=True, enlarged=False, thumbnail=thumbnail)
    buffer = io.BytesIO()
    if lossy:
        image.save(buffer, "JPEG", quality=quality, subsampling=0)
    else:
        image.save(buffer, "PNG")
    return Converted(ending, buffer.getvalue(), False, enlarged, peak, thumbnail)


def about_dim(dim: Sequence[tuple[str, int]]) -> list[str]:
    """Return what to say of images of more than 8 bits whose brightest pixel is dark, by name: they fill a part of the range."""
    if not dim:
        return []
    name, peak = max(dim, key=lambda entry: (entry[1], entry[0]))
    return [
        f"{len(dim):,} images of more than 8 bits are nearly black; the brightest pixel of them is {peak} of 255, in {name}: "
        "their values may fill 12 or 8 of 16 bits, scale them first"
    ]


def eight_bits(image: Image.Image, keep_alpha: bool) -> Image.Image:
    """Return the same picture in L, RGB, RGBA or a mode that converts to them without loss.

    What is transparent becomes white, unless `keep_alpha`.
    """
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float64)
        return Image.fromarray(np.rint(values / 257).clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        if keep_alpha:
            return image
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image


def _is_deep_png(content: bytes) -> bool:
    """Say whether a PNG has 16 bits a channel, which Pillow shows as RGB, like one with 8."""
    return content[1:4] == b"PNG" and content[24] == 16
