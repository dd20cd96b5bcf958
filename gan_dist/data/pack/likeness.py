"""Find images that show nearly the same: one picture saved twice, in another size or quality.

Each image becomes 9x9 colours, of which 128 signs of differences (dHash, Krawetz 2013, along rows and columns), the brightness of
8x8 fields and the colours of 2x2 are kept. What is compared are neighbours in sorted tables of the signs, each table beginning with other
signs (Manku et al., "Detecting near-duplicates for web crawling", 2007), so that the work grows as the number of images.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

SIDE = 9
BYTES = 16 + 64 + 12
"""Of a signature: signs, brightness of 8x8 fields, colours of 2x2."""
MOST_SIGNS = 10
"""Of 128 that may differ between near-duplicates."""
MOST_COLOUR = 16
"""Of 255, by which a field's brightness or colour may differ."""
_SIGNS = 16  # bytes
_STEP = 2  # bytes by which the tables are turned
_WINDOW = 16  # neighbours in a table
_GREY = np.array([77, 150, 29], np.float32)  # of 256: ITU-R 601's weights; sums of pixels are exact


class Likeness(NamedTuple):
    """An image that shows nearly what an earlier one shows."""

    image: int
    like: int
    """The first image that shows it."""
    signs: int
    """How many of 128 signs differ. 0: the same, to the eye."""


def thumbnail(image: Image.Image) -> bytes:
    """Return the 9x9 RGB pixels of a loaded image with 8 bits, each the mean of its part; what is transparent is white."""
    if image.mode not in ("L", "RGB", "RGBA", "CMYK", "YCbCr"):
        image = image.convert("RGBA" if "A" in image.mode or "transparency" in image.info else "RGB")
    small = image.resize((SIDE, SIDE), Image.Resampling.BOX)
    if small.mode == "RGBA":
        small = Image.alpha_composite(Image.new("RGBA", small.size, "white"), small)
    return (small if small.mode == "RGB" else small.convert("RGB")).tobytes()


def signatures(thumbnails: Sequence[bytes]) -> np.ndarray:
    """Return a signature for each thumbnail, (N, BYTES) uint8."""
    pixels = np.frombuffer(b"".join(thumbnails), np.uint8).reshape(-1, SIDE, SIDE, 3)
    grey = (pixels.reshape(-1, 3).astype(np.float32) @ _GREY).astype(np.int32).reshape(-1, SIDE, SIDE)
    along = grey[:, :8, 1:] > grey[:, :8, :-1]
    down = grey[:, 1:, :8] > grey[:, :-1, :8]
    signs = np.packbits(np.stack([along, down], 1).reshape(len(pixels), 8 * _SIGNS), axis=1)
    colours = pixels[:, :8, :8].reshape(-1, 2, 4, 2, 4, 3).sum((2, 4), dtype=np.uint16)
    fields = (grey[:, :8, :8] >> 8).reshape(len(pixels), 64)
    return np.concatenate(
        [signs, fields.astype(np.uint8), (colours // 16).astype(np.uint8).reshape(len(pixels), 12)], axis=1
    )


def save(path: Path, thumbnails: Mapping[int, bytes]) -> None:
    """Write the signatures of images by their places in the source, of one shard."""
    places = np.array(list(thumbnails), "<i8").reshape(-1, 1).view(np.uint8)
    np.save(path, np.concatenate([places.reshape(-1, 8), signatures(list(thumbnails.values()))], axis=1))


def load(paths: Iterable[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Return the places, ascending, and the signatures of all images whose shards have such files."""
    found = [np.load(path) for path in paths if path.exists()]
    rows = np.concatenate(found) if found else np.empty((0, 8 + BYTES), np.uint8)
    places = np.ascontiguousarray(rows[:, :8]).view("<i8")[:, 0]
    order = np.argsort(places)
    return places[order], rows[order, 8:]


def count(paths: Iterable[Path]) -> int:
    """Return how many images have a signature in these files."""
    return sum(len(np.load(path, mmap_mode="r")) for path in paths if path.exists())


def near(signed: np.ndarray) -> list[Likeness]:
    """Return the near-duplicates among images with these signatures (N, BYTES), by number; each names the first of its kind.

    An image that is named by others is never one of them itself: leave them out, and one of each kind is left.
    """
    unique, first, same = np.unique(signed, axis=0, return_index=True, return_inverse=True)
    pairs = _candidates(unique)
    partners: dict[int, list[int]] = {}
    for one, other in pairs.tolist():
        early, late = sorted((int(first[one]), int(first[other])))
        partners.setdefault(late, []).append(early)
    kind: dict[int, Likeness] = {}
    for late in sorted(partners):
        leaders = sorted({kind[early].like if early in kind else early for early in partners[late]})
        for leader in leaders:
            if (signs := _differ(signed[leader], signed[late])) is not None:
                kind[late] = Likeness(late, leader, signs)
                break
    found = []
    for number, group in enumerate(same.reshape(-1).tolist()):
        origin = int(first[group])
        leader = kind[origin].like if origin in kind else origin
        if number != leader:
            found.append(Likeness(number, leader, kind[origin].signs if origin in kind else 0))
    return found


def _candidates(signed: np.ndarray) -> np.ndarray:
    """Return the pairs (P, 2) of neighbours in some table that differ little."""
    words = np.ascontiguousarray(signed[:, :_SIGNS]).view(np.uint64)
    colours = signed[:, _SIGNS:].astype(np.int16)
    found = [np.empty((0, 2), np.int64)]
    for turned in range(0, _SIGNS, _STEP):
        keys = np.ascontiguousarray(np.roll(signed[:, :_SIGNS], -turned, axis=1)).view(">u8").astype(np.uint64)
        order = np.lexsort((keys[:, 1], keys[:, 0]))
        for apart in range(1, min(_WINDOW, len(order) - 1) + 1):
            one, other = order[:-apart], order[apart:]
            close = np.bitwise_count(words[one] ^ words[other]).sum(1) <= MOST_SIGNS
            one, other = one[close], other[close]
            alike = (np.abs(colours[one] - colours[other]) <= MOST_COLOUR).all(1)
            found.append(np.sort(np.stack([one[alike], other[alike]], 1), axis=1))
    return np.unique(np.concatenate(found), axis=0)


def _differ(one: np.ndarray, other: np.ndarray) -> int | None:
    """Return how many signs of two images differ; None where they are no near-duplicates."""
    signs = int(np.bitwise_count(one[:_SIGNS] ^ other[:_SIGNS]).sum())
    colour = np.abs(one[_SIGNS:].astype(np.int16) - other[_SIGNS:].astype(np.int16)).max()
    return signs if signs <= MOST_SIGNS and colour <= MOST_COLOUR else None
