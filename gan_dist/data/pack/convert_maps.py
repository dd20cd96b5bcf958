"""Convert label maps, whose numbers must not be mixed, and draw the edges of an image."""

import io

import cv2
import numpy as np
from PIL import Image

from gan_dist.data.geometry import fit
from gan_dist.data.pack.convert import Converted, convert

_LOW, _HIGH = 60, 120
"""Differences of grey levels between which an edge goes on, and above which it begins (Canny, 1986)."""


def labels(content: bytes | np.ndarray, size: tuple[int, int] | None) -> Converted:
    """Convert a label map to PNG with the same numbers, or colours; the nearest pixels are taken for another (height, width).

    Raises ValueError for a JPEG, and what Pillow raises for what is no image.
    """
    if isinstance(content, np.ndarray):
        image = Image.fromarray(content)
    else:
        image = Image.open(io.BytesIO(content))
        image.load()
        if image.format in ("JPEG", "MPO"):
            raise ValueError("a label map as JPEG, which changes the numbers of pixels; store it as PNG")
        fits = size is None or image.size == (size[1], size[0])
        if fits and image.format == "PNG" and image.mode in ("L", "P", "RGB", "I;16"):
            return Converted("png", content, kept=True, enlarged=False)
    pixels = np.asarray(image.convert("RGB") if image.mode in ("RGBA", "LA", "PA", "CMYK") else image)
    if image.mode == "1":
        pixels = pixels.astype(np.uint8)
    if image.mode == "I":
        pixels = pixels.astype(np.uint16)
    enlarged = size is not None and (pixels.shape[0] < size[0] or pixels.shape[1] < size[1])
    buffer = io.BytesIO()
    Image.fromarray(fit(pixels, size, nearest=True) if size else pixels).save(buffer, "PNG")
    return Converted("png", buffer.getvalue(), kept=False, enlarged=enlarged)


def edges(content: bytes | np.ndarray, size: tuple[int, int] | None, quality: int) -> Converted:
    """Draw the edges of an image (Canny, 1986) in white on black, as a grey PNG of its size, or of a (height, width)."""
    grey = convert(content, size, 1, quality).content
    pixels = np.asarray(Image.open(io.BytesIO(grey)).convert("L"))
    buffer = io.BytesIO()
    Image.fromarray(cv2.Canny(pixels, _LOW, _HIGH)).save(buffer, "PNG")
    return Converted("png", buffer.getvalue(), kept=False, enlarged=False)
