"""Put a large image through a network piece by piece, and find out how far a network sees."""

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gan_dist.errors import InputError
from gan_dist.games.base import Game
from gan_dist.interfaces import Batch

OVERLAP = 32
"""Pixels at each edge of a tile that are seen and not kept, where nobody says how many."""
_NEAR, _FAR = 64, 1024
"""Pixels within which, and as far as which, the reach of a network is looked for."""
_STRIP = 16


class Span(NamedTuple):
    """A tile along one axis, in pixels: what the network sees of it, and what is kept of the output."""

    start: int
    stop: int
    first: int
    last: int


class Tiling(NamedTuple):
    """Sides of the tiles, both multiples of the game's."""

    side: int
    overlap: int


def tiling(game: Game, side: int, overlap: int) -> Tiling:
    """Return the tiles that --tile and --overlap mean for a game. Raises InputError where nothing of a tile would be kept."""
    whole = -(-max(side, game.least) // game.multiple) * game.multiple
    edge = -(-overlap // game.multiple) * game.multiple
    if whole <= 2 * edge:
        raise InputError(
            f"--tile {side} --overlap {overlap}: nothing of a tile is kept, as {edge} pixels of each edge are seen only; give "
            f"--tile {max(4 * edge, 2 * game.multiple)} or more, or a smaller --overlap"
        )
    return Tiling(whole, edge)


def spans(length: int, tile: Tiling) -> list[Span]:
    """Return the tiles along a side of an image: together they keep each pixel once."""
    starts = list(range(0, max(1, length - tile.side), tile.side - 2 * tile.overlap))
    if length > tile.side:
        starts.append(length - tile.side)
    found, kept = [], 0
    for start in starts:
        stop = min(start + tile.side, length)
        last = length if stop == length else stop - tile.overlap
        found.append(Span(start, stop, kept, last))
        kept = last
    return found


def passed(
    pixels: np.ndarray,
    network: Callable[[np.ndarray], np.ndarray],
    tile: Tiling,
    scale: int,
    progress: Callable[[float], object] = lambda done: None,
) -> np.ndarray:
    """Return an image (H, W, ...) as a network makes it tile by tile: (scale * H, scale * W, C).

    The network makes (h, w, ...) into (scale * h, scale * w, C). Of an image no larger than a tile it sees the whole.
    `progress` is told the part that is done.
    """
    rows, columns = spans(pixels.shape[0], tile), spans(pixels.shape[1], tile)
    output = np.zeros(0)
    for number, (row, column) in enumerate(itertools.product(rows, columns)):
        made = network(np.ascontiguousarray(pixels[row.start : row.stop, column.start : column.stop]))
        if not number:
            output = np.empty((pixels.shape[0] * scale, pixels.shape[1] * scale, made.shape[2]), made.dtype)
        inner = made[_of(row, scale, row.start), _of(column, scale, column.start)]
        output[_of(row, scale), _of(column, scale)] = inner
        progress((number + 1) / (len(rows) * len(columns)))
    return output


def _of(span: Span, scale: int, start: int = 0) -> slice:
    return slice((span.first - start) * scale, (span.last - start) * scale)


@functools.lru_cache(maxsize=4)  # a question for each run, not for each image
def seams(game: Game, channels: int, tile: Tiling, way: str = "") -> str:
    """Say why tiles may show where they meet, and what to do about it; "" where they are the same as the whole image."""
    found = reach(game, channels, way)
    if found is None:
        return (
            "tiles may show where they meet: the network looks at an image as a whole, as by an instance norm or attention, "
            "and each tile is one to it; without --tile there is no seam"
        )
    if found > tile.overlap:
        return (
            f"tiles may show where they meet: the network sees {found} pixels around, and --overlap gives {tile.overlap}; with "
            f"--overlap {found} there is no seam"
        )
    if _drops(game, channels, way):
        return "tiles may show where they meet: the network draws noise, others in each tile; without --tile there is no seam"
    return ""


@torch.no_grad()
def reach(game: Game, channels: int, way: str = "") -> int | None:
    """Return how many pixels beyond its own place an output depends on; None for a whole image, or more than 1,024.

    Half of a strip is NaN, from a multiple of the game's on, as where a tile ends. What becomes NaN of the other half
    depends on it: a convolution makes NaN even of a weight that is 0.
    """
    half = _rounded(_NEAR, game)
    while half <= max(_FAR, game.multiple):
        found = [_reached(game, channels, way, half, axis, side) for axis in (2, 3) for side in (0, 1)]
        if max(found) < half:
            return max(found)
        half *= 2
    return None


def _reached(game: Game, channels: int, way: str, half: int, axis: int, side: int) -> int:
    """Return how far NaN gets out of the first or the second half of a strip along an axis; `half` where all is NaN.

    The last channel stays a number, as it may be a mask, which hides what the others hold. It is `half` too where NaN is
    hidden nevertheless, as then nobody knows.
    """
    shape = [1, channels, _rounded(_STRIP, game), _rounded(_STRIP, game)]
    shape[axis] = 2 * half
    strip = torch.ones(shape)
    strip[:, : max(1, channels - 1)].narrow(axis, side * half, half).fill_(torch.nan)
    touched = _answer(game, strip, way).isnan().any(1).any(4 - axis)[0]
    places = touched.view(2, half, game.scale)
    return int(places[1 - side].any(1).sum()) if bool(places[side].all()) else half


def _drops(game: Game, channels: int, way: str) -> bool:
    """Say whether the same image has another output at another position."""
    image = torch.linspace(-1, 1, channels * _rounded(_STRIP, game) ** 2).view(1, channels, _rounded(_STRIP, game), -1)
    first, second = (_answer(game, image, way, position) for position in (1, 2))
    return not torch.equal(first, second)


def _answer(game: Game, images: Tensor, way: str, position: int = 1) -> Tensor:
    weight = next(game.players[0].network.parameters())
    where = torch.tensor([position], device=weight.device)
    return game.infer(Batch({"input": images.to(weight.device, weight.dtype)}, where), way)


def _rounded(side: int, game: Game) -> int:
    return -(-max(side, game.least) // game.multiple) * game.multiple
