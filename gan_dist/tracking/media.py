"""What a panel can show, as files under RUN/media: one file for each name and position, whole or absent."""

import dataclasses
import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as Picture
from PIL.PngImagePlugin import PngInfo

from gan_dist import files
from gan_dist.errors import InputError
from gan_dist.tracking import grid

_PART = re.compile(r"(?!images-)\w[\w .+-]{0,99}")
_FILE = re.compile(r"images-(\d{9,})\.(?:png|json)")
MOST_BINS = 512  # W&B shows no more
_RESERVED = ("images", "step")


@dataclasses.dataclass(frozen=True)
class Scalar:
    """A number, kept in metrics.jsonl on the line of its position."""

    value: float


@dataclasses.dataclass(frozen=True)
class Image:
    """A picture, or several in a grid."""

    pixels: torch.Tensor | np.ndarray
    """Tensors (C, H, W) or (N, C, H, W) in [-1, 1], with 1, 3 or 4 channels; or uint8 arrays (H, W), (H, W, C) or (N, H, W, C)."""
    caption: str = ""
    columns: int = 0
    """Of the grid. 0: about a square."""


@dataclasses.dataclass(frozen=True)
class Histogram:
    """How many values fall between neighbouring edges; one edge more than counts."""

    counts: Sequence[float]
    edges: Sequence[float]

    def __post_init__(self) -> None:
        """Raise InputError where counts and edges do not fit together, or are too many."""
        if len(self.counts) > MOST_BINS:
            raise InputError(f"a histogram has at most {MOST_BINS} counts, not {len(self.counts)}; give larger bins")
        if not len(self.counts) or len(self.edges) != len(self.counts) + 1:
            raise InputError(f"a histogram of {len(self.counts)} counts needs one edge more, not {len(self.edges)}")

    @classmethod
    def of(cls, values: torch.Tensor | np.ndarray | Sequence[float], bins: int = 64) -> "Histogram":
        """Return the histogram of values of any shape, in bins of equal width; values that are not finite are left out."""
        numbers = torch.as_tensor(values).detach().flatten()
        numbers = numbers[numbers.isfinite()].double().sort().values
        low, high = (float(numbers[0]), float(numbers[-1])) if len(numbers) else (0.0, 0.0)
        if low == high:  # one value, or none: a bin must have a width
            low, high = low - 0.5 * max(1.0, abs(low)), high + 0.5 * max(1.0, abs(high))
        edges = np.linspace(low, high, bins + 1).tolist()
        # not torch.histc, which has no deterministic form on a GPU (strategy: exact asks for one)
        below = torch.searchsorted(
            numbers, torch.tensor(edges[:-1], dtype=numbers.dtype, device=numbers.device)
        ).tolist()
        return cls(np.diff([*below, len(numbers)]).tolist(), edges)


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of numbers, texts, truth values or None, under named columns."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def __post_init__(self) -> None:
        """Raise InputError for a row of another length."""
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise InputError(f"row {number} of a table of {len(self.columns)} columns has {len(row)} values")


Media = Scalar | Image | Histogram | Table


def check_name(name: str) -> str:
    """Return the name itself, fit for a key of metrics.jsonl and for a folder under RUN/media.

    Slashes group names. Raises InputError for a name that would leave the folder, or that metrics.jsonl or the files use.
    """
    if name in _RESERVED:
        raise InputError(f"{name} is the position of every line of metrics.jsonl; give the panel or score another name")
    if not all(_PART.fullmatch(part) for part in name.split("/")):
        raise InputError(
            f"{name!r} is no name of a panel or score: give letters, digits and -_.+ in parts separated by /, each starting "
            "with a letter or digit, and not with images-"
        )
    return name


def write(folder: Path, images: int, name: str, content: Image | Histogram | Table) -> Path:
    """Write one file of the folder RUN/media, replacing one of the same name and position; returns its path."""
    extension = "png" if isinstance(content, Image) else "json"
    path = folder / check_name(name) / f"images-{images:09d}.{extension}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Image):
        files.write_atomic(path, _png(content))
        return path
    kind = type(content).__name__.lower()
    fields = {field.name: _plain(getattr(content, field.name)) for field in dataclasses.fields(content)}
    files.write_atomic(path, json.dumps({"kind": kind, "images": images, **fields}) + "\n")
    return path


def read(path: Path) -> Histogram | Table:
    """Return what a .json file of RUN/media holds. Raises InputError where that is neither a histogram nor a table."""
    try:
        content = json.loads(path.read_text())
        if content["kind"] == "histogram":
            return Histogram(content["counts"], content["edges"])
        if content["kind"] == "table":
            return Table(content["columns"], content["rows"])
        raise ValueError(content["kind"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a file that a panel wrote ({error}); remove it") from None


def caption(path: Path) -> str:
    """Return the caption in a PNG file; empty where it has none."""
    with Picture.open(path) as picture:
        return str(picture.info.get(grid.CAPTION, ""))


def listed(folder: Path) -> Iterator[tuple[int, str, Path]]:
    """Everything under RUN/media in order of name and position: (images, name, path)."""
    for path in sorted(folder.rglob("images-*")):
        if (match := _FILE.fullmatch(path.name)) and path.is_file():
            yield int(match[1]), path.parent.relative_to(folder).as_posix(), path


def remove_later(folder: Path, start: int) -> None:
    """Remove what was written at positions after `start`, and parts of files that a kill left."""
    for images, _, path in list(listed(folder)):
        if images > start:
            path.unlink(missing_ok=True)
    for part in folder.rglob(".images-*.part"):
        part.unlink(missing_ok=True)


def _png(image: Image) -> bytes:
    info = PngInfo()
    if image.caption:
        info.add_itxt(grid.CAPTION, image.caption)
    buffer = io.BytesIO()
    Picture.fromarray(_sheet(image)).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def _sheet(image: Image) -> np.ndarray:
    """(H, W), (H, W, 3) or (H, W, 4) uint8."""
    pixels = image.pixels
    if isinstance(pixels, torch.Tensor):
        if pixels.ndim not in (3, 4) or not len(pixels) or pixels.shape[-3] not in (1, 3, 4):
            raise InputError(
                f"an image must be (C, H, W) or (N, C, H, W) with 1, 3 or 4 channels, not {tuple(pixels.shape)}"
            )
        if pixels.dtype == torch.uint8:
            raise InputError(
                "an image as a tensor holds numbers in [-1, 1]; give uint8 values as a numpy array (H, W, C)"
            )
        if pixels.ndim == 3:
            return grid.squeezed(grid.to_uint8(pixels))
        return grid.squeezed(grid.sheet([grid.to_uint8(cell) for cell in pixels], image.columns))
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3, 4) or not len(pixels):
        raise InputError(
            f"an image as an array must be uint8 (H, W), (H, W, C) or (N, H, W, C), not {pixels.dtype} {pixels.shape}"
        )
    if pixels.ndim > 2 and pixels.shape[-1] not in (1, 3, 4):
        raise InputError(f"an image must have 1, 3 or 4 channels, not {pixels.shape[-1]}")
    return grid.squeezed(grid.sheet(list(pixels), image.columns) if pixels.ndim == 4 else pixels)


def _plain(value: Any) -> Any:
    """Return the value as JSON knows it: numbers of numpy and torch as Python's, those that are not finite as null."""
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)
