"""Put picture grids into the page: WebP as data URIs, made smaller until all of them fit."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

MOST_GRIDS = 40
_LEVELS = ((1024, 80), (768, 75), (576, 70), (448, 60), (320, 50))
"""Longest side in pixels, and WebP's quality: from the best to the smallest."""
_BASE64 = 4 / 3


def chosen(grids: Sequence[tuple[int, Path]], most: int = MOST_GRIDS) -> list[tuple[int, Path]]:
    """Return at most `most` grids, evenly spread over the list, the first and the last among them."""
    if len(grids) <= most:
        return list(grids)
    if most < 2:
        return [grids[-1]] if most else []
    return [grids[round(number * (len(grids) - 1) / (most - 1))] for number in range(most)]


def encoded(grids: Sequence[tuple[int, Path]], budget: float) -> list[tuple[int, str]]:
    """Return images and data URI of each grid that can be read; together about `budget` bytes at most."""
    level = _LEVELS[-1]
    for level in _LEVELS:
        probes = [len(content) for _, path in chosen(grids, 3) if (content := webp(path, *level))]
        if not probes or sum(probes) / len(probes) * _BASE64 * len(grids) <= budget:
            break
    found = [(images, data_uri(content)) for images, path in grids if (content := webp(path, *level))]
    while len(found) > 1 and sum(len(uri) for _, uri in found) > budget:
        found = [*found[:-1:2], found[-1]]  # every second one, and the newest
    return found


def webp(path: Path, side: int, quality: int) -> bytes:
    """Return a picture as WebP, its longer side at most `side` pixels; empty where it is torn, or too large to be one."""
    try:
        with Image.open(path) as picture:
            shown = picture.convert("RGBA" if "A" in picture.getbands() else "RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return b""
    shown.thumbnail((side, side), Image.Resampling.BOX if max(shown.size) > 2 * side else Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    shown.save(buffer, "WEBP", quality=quality, method=2)
    return buffer.getvalue()


def caption(path: Path) -> str:
    """Return the caption in a PNG file (PNG's keyword Description); empty where it has none, or cannot be read."""
    try:
        with Image.open(path) as picture:
            return str(picture.info.get("Description", ""))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return ""


def data_uri(content: bytes) -> str:
    """Return WebP bytes as an address that needs no network."""
    return f"data:image/webp;base64,{base64.b64encode(content).decode()}"
