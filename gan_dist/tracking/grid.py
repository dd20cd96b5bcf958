"""Turn tensors in [-1, 1] into PNG files."""

import functools
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from gan_dist import files

_READABLE = 48  # pixels: smaller images are enlarged in a grid, or a person sees nothing
_GAP = 2
_LETTER = 11  # pixels of a name's height
_MOST_BESIDE = 120  # pixels of a name's width beside a row
_MOST_CLASSES = 20
_LAYOUT = "gan_dist"  # keyword of a PNG's text: where the cells of a grid are
CAPTION = "Description"  # the PNG specification's keyword for a caption


def to_uint8(image: torch.Tensor) -> np.ndarray:
    """(C, H, W) in [-1, 1] -> (H, W, C) uint8; values outside are clipped, NaN is black."""
    pixels = ((image.detach().float() + 1) * 127.5).round().clamp(0, 255).nan_to_num(0)
    return pixels.byte().permute(1, 2, 0).cpu().numpy()


def save_png(image: torch.Tensor, path: Path) -> None:
    """Write one image, (C, H, W) in [-1, 1] with 1, 3 or 4 channels."""
    _write(to_uint8(image), path)


def save_grid(
    images: torch.Tensor | Sequence[torch.Tensor],
    path: Path,
    columns: int = 0,
    caption: str = "",
    together: int = 1,
    below: Sequence[str] = (),
    beside: Sequence[str] = (),
) -> None:
    """Write (N, C, H, W) images in [-1, 1] as one picture, row by row; `columns` 0: about a square.

    The file says where its cells are, for `cut`; `together` neighbours are one sample. Names stand `below` columns, which take
    turns with them, or `beside` rows.
    """
    cells = [to_uint8(image) for image in images]
    columns = columns or _square(len(cells))
    height, width = _scaled(cells[0]).shape[:2]
    info = PngInfo()
    if caption:
        info.add_itxt(CAPTION, caption)
    layout = {"width": width, "height": height, "columns": columns, "cells": len(cells), "together": together}
    info.add_text(_LAYOUT, json.dumps(layout))
    drawn = sheet(cells, columns)
    if below:
        drawn = _below(drawn, [below[place % len(below)] for place in range(columns)], width + _GAP)
    if beside:
        drawn = _beside(drawn, beside, height + _GAP)
    _write(drawn, path, info)


def columns_of_classes(classes: int, count: int) -> int:
    """Return how many columns show each class of samples 0, 1, ... in columns of its own; 0 where they are too many for it.

    Sample k is of class k % classes, so it is a multiple of `classes`.
    """
    if not 1 < classes <= min(_MOST_CLASSES, count):
        return 0
    return classes * max(1, round(math.sqrt(count) / classes))


def _below(pixels: np.ndarray, names: Sequence[str], pitch: int) -> np.ndarray:
    """Return a picture with a name below each column."""
    strip = Image.new("L", (pixels.shape[1], _LETTER + 4), 255)
    pen = ImageDraw.Draw(strip)
    for number, name in enumerate(names):
        pen.text((_GAP + number * pitch, 0), _fitting(name, pitch - _GAP), 0, _font())
    return np.concatenate([pixels, _like(strip, pixels)])


def _beside(pixels: np.ndarray, names: Sequence[str], pitch: int) -> np.ndarray:
    """Return a picture with a name to the right of each row."""
    shown = [_fitting(name, _MOST_BESIDE) for name in names]
    strip = Image.new("L", (2 * _GAP + max(int(_font().getlength(name)) + 1 for name in shown), pixels.shape[0]), 255)
    pen = ImageDraw.Draw(strip)
    for number, name in enumerate(shown):
        pen.text((_GAP, number * pitch + max(0, (pitch - _LETTER) // 2)), name, 0, _font())
    return np.concatenate([pixels, _like(strip, pixels)], axis=1)


def _fitting(name: str, width: int) -> str:
    """Return as much of a name as a width has room for, in letters that the font has."""
    name = "".join(letter if letter.isprintable() and letter < "\u0100" else "?" for letter in name)
    while name and _font().getlength(name) > width:
        name = name[:-1]
    return name


def _like(strip: Image.Image, pixels: np.ndarray) -> np.ndarray:
    """Return a grey strip with the channels of a picture."""
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[pixels.shape[2]]
    return np.asarray(strip.convert(mode)).reshape(strip.height, strip.width, pixels.shape[2])


@functools.cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_LETTER)


def cut(path: Path, count: int) -> list[Image.Image]:
    """Return the first `count` samples of a grid that `save_grid` wrote; none where the file does not say where they are."""
    with Image.open(path) as picture:
        try:
            layout = {name: int(value) for name, value in json.loads(picture.info[_LAYOUT]).items()}
            width, height, columns, cells = (layout[name] for name in ("width", "height", "columns", "cells"))
            together = layout["together"]
        except (KeyError, ValueError, AttributeError, TypeError):  # of an older version, or another program
            return []
        found = []
        for first in range(0, min(cells, count * together) - together + 1, together):
            row, column = divmod(first, columns)
            left, top = _GAP + column * (width + _GAP), _GAP + row * (height + _GAP)
            found.append(picture.crop((left, top, left + together * (width + _GAP) - _GAP, top + height)))
        return found


def join(samples: Sequence[Image.Image]) -> Image.Image:
    """Return pictures of one size as one, about a square. A terminal shows it in few pixels: the lines between are of one."""
    columns, (width, height) = _square(len(samples)), samples[0].size
    gap = width // 8
    rows = -(-len(samples) // columns)
    size = (columns * (width + gap) - gap, rows * (height + gap) - gap)
    joined = Image.new("RGB", size, (90, 90, 160))
    for number, sample in enumerate(samples):
        joined.paste(sample.convert("RGB"), (number % columns * (width + gap), number // columns * (height + gap)))
    return joined


def sheet(images: Sequence[np.ndarray], columns: int = 0) -> np.ndarray:
    """Images (H, W, C) uint8 of one size -> one image, row by row, the small ones enlarged; `columns` 0: about a square."""
    columns = columns or _square(len(images))
    cells = [_scaled(image) for image in images]
    height, width, channels = cells[0].shape
    rows = math.ceil(len(cells) / columns)
    result = np.full((rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, channels), 255, dtype=np.uint8)
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        top, left = _GAP + row * (height + _GAP), _GAP + column * (width + _GAP)
        result[top : top + height, left : left + width] = cell
    return result


def _square(count: int) -> int:
    return math.ceil(math.sqrt(count))


def _scaled(image: np.ndarray) -> np.ndarray:
    scale = max(1, math.ceil(_READABLE / image.shape[1]))
    return image.repeat(scale, axis=0).repeat(scale, axis=1)


def squeezed(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 1) -> (H, W), as PIL wants grey images; others as they are."""
    return pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels


def save_columns(columns: Mapping[str, torch.Tensor], path: Path, classes: Sequence[str] = ()) -> None:
    """Write named columns of (N, C, H, W) images in [-1, 1] as one picture: what belongs together stands side by side.

    `classes` are names of those that the samples take turns with: each stands in columns of its own, with the name below.
    """
    most = max(images.shape[1] for images in columns.values())
    wide = [images.expand(-1, most, -1, -1) for images in columns.values()]
    together = torch.stack(wide, dim=1).flatten(0, 1)
    rows = math.sqrt(len(together))
    across = 0 if len(wide) == 1 else len(wide) * max(1, round(rows / len(wide)))
    if len(wide) == 1 and (apart := columns_of_classes(len(classes), len(together))):
        save_grid(together, path, apart, f"columns by class: {', '.join(classes)}", below=classes)
        return
    save_grid(together, path, across, together=len(wide))


def _write(pixels: np.ndarray, path: Path, info: PngInfo | None = None) -> None:
    buffer = io.BytesIO()
    Image.fromarray(squeezed(pixels)).save(buffer, "PNG", pnginfo=info)
    files.write_atomic(path, buffer.getvalue())
