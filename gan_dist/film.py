"""Show how a run learned: its sample grids, one after the other, with their positions."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gan_dist.errors import InputError
from gan_dist.tracking import media

_READABLE = 240  # pixels: narrower grids are enlarged, so that the caption fits
Grid = tuple[int, Path]
"""Position in images, and file."""


def grids(run: Path, gallery: str = "", every: int = 0) -> list[Grid]:
    """Return the grids of a run in order, or those of a gallery beside them (`live`, `classes`); the last one always.

    `every`: each at least so many images after the one before. Raises InputError where there is none.
    """
    names: dict[str, list[Grid]] = {}
    for images, name, path in media.listed(run / "samples"):
        names.setdefault("" if name == "." else name, []).append((images, path))
    if gallery not in names:
        others = ", ".join(name for name in names if name)
        which = f" named {gallery}; it has {others or 'no others'}" if gallery else " yet (samples/images-*.png)"
        raise InputError(f"{run} has no grids{which}")
    found = sorted(names[gallery])
    chosen: list[Grid] = []
    for grid in reversed(found):
        if not chosen or chosen[-1][0] - grid[0] >= every:
            chosen.append(grid)
    return chosen[::-1]


def frames(
    shown: Sequence[Grid], hold: int = 1, left_out: Callable[[str], object] = lambda reason: None
) -> Iterator[np.ndarray]:
    """Yield a frame (H, W, 3) uint8 for each grid, and the last one `hold` times. All are of the size of the largest.

    A grid that is broken, or that the run takes away meanwhile, is left out, and `left_out` is told why. Raises InputError
    where none is left.
    """
    sizes = [size for _, path in shown if (size := _size(path))]
    width, height = (max(side) for side in zip(*sizes, strict=True)) if sizes else (1, 1)
    scale = -(-_READABLE // width)
    frame = None
    for images, path in shown:
        try:
            with Image.open(path) as picture:
                pixels = picture.convert("RGBA")
        except Exception as error:  # Pillow's decoders raise anything on damaged files
            reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
            left_out(f"{path} is left out: it cannot be read ({reason})")
            continue
        page = Image.new("RGB", (width, height), "white")
        page.paste(pixels, (0, 0), pixels)
        frame = _captioned(page.resize((width * scale, height * scale), Image.Resampling.NEAREST), images)
        yield frame
    if frame is None:
        raise InputError("no grid could be read")
    for _ in range(hold - 1):
        yield frame


def _size(path: Path) -> tuple[int, int] | None:
    try:
        with Image.open(path) as picture:
            return picture.size
    except Exception:  # reported when it is read
        return None


def _captioned(page: Image.Image, images: int) -> np.ndarray:
    """Return the page with a line below it that says the position."""
    points = max(12, page.width // 40)
    framed = Image.new("RGB", (page.width, page.height + 2 * points), "white")
    framed.paste(page)
    font = ImageFont.load_default(points)
    ImageDraw.Draw(framed).text(
        (points // 2, page.height + points // 2), f"{images:,} images", fill=(60, 60, 60), font=font
    )
    return np.asarray(framed)
