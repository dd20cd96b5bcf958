"""Turn tensors in [-1, 1] into PNG files."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from gan_dist import files

_READABLE = 48  # pixels: smaller images are enlarged in a grid, or a person sees nothing
_GAP = 2


def to_uint8(image: torch.Tensor) -> np.ndarray:
    """(C, H, W) in [-1, 1] -> (H, W, C) uint8; values outside are clipped, NaN is black."""
    pixels = ((image.detach().float() + 1) * 127.5).round().clamp(0, 255).nan_to_num(0)
    return pixels.byte().permute(1, 2, 0).cpu().numpy()


def save_png(image: torch.Tensor, path: Path) -> None:
    """Write one image, (C, H, W) in [-1, 1] with 1, 3 or 4 channels."""
    _write(to_uint8(image), path)


def save_grid(images: torch.Tensor | Sequence[torch.Tensor], path: Path, columns: int = 0) -> None:
    """Write (N, C, H, W) images in [-1, 1] as one picture, row by row; `columns` 0: about a square."""
    _write(sheet([to_uint8(image) for image in images], columns), path)


def sheet(images: Sequence[np.ndarray], columns: int = 0) -> np.ndarray:
    """Images (H, W, C) uint8 of one size -> one image, row by row, the small ones enlarged; `columns` 0: about a square."""
    columns = columns or math.ceil(math.sqrt(len(images)))
    scale = max(1, math.ceil(_READABLE / images[0].shape[1]))
    cells = [image.repeat(scale, axis=0).repeat(scale, axis=1) for image in images]
    height, width, channels = cells[0].shape
    rows = math.ceil(len(cells) / columns)
    result = np.full((rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, channels), 255, dtype=np.uint8)
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        top, left = _GAP + row * (height + _GAP), _GAP + column * (width + _GAP)
        result[top : top + height, left : left + width] = cell
    return result


def squeezed(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 1) -> (H, W), as PIL wants grey images; others as they are."""
    return pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels


def save_columns(columns: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write named columns of (N, C, H, W) images in [-1, 1] as one picture: what belongs together stands side by side."""
    most = max(images.shape[1] for images in columns.values())
    wide = [images.expand(-1, most, -1, -1) for images in columns.values()]
    together = torch.stack(wide, dim=1).flatten(0, 1)
    rows = math.sqrt(len(together))
    save_grid(together, path, 0 if len(wide) == 1 else len(wide) * max(1, round(rows / len(wide))))


def _write(pixels: np.ndarray, path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(squeezed(pixels)).save(buffer, "PNG")
    files.write_atomic(path, buffer.getvalue())
