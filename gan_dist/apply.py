"""Put images of any size through the averaged networks of a run that turns images into images."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps

from gan_dist import rng
from gan_dist.config import Config
from gan_dist.config.data_field import DataField
from gan_dist.data import label_maps
from gan_dist.data.index import IMAGE_ENDINGS
from gan_dist.errors import InputError
from gan_dist.games.base import Game
from gan_dist.interfaces import Batch, one_hot
from gan_dist.tiles import Tiling, passed, seams

_LUMA = (0.299, 0.587, 0.114)
"""BT.601's weights of red, green and blue in a grey image."""
_BITS = 258
"""TIFF's tag of the bits of each channel."""
_ORIENTATION = 0x0112
"""EXIF's tag of how a camera was held."""
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).swapaxes(0, 1),
    8: np.rot90,
}
"""What turns it back, for images that Pillow does not read whole."""


class Read(NamedTuple):
    """An image as it was read."""

    pixels: np.ndarray
    """(H, W, C) float32 in [0, 1], or the numbers (H, W) of a label map."""
    alpha: np.ndarray | None
    """(H, W) float32 in [0, 1], where it has transparency that the network does not see."""
    deep: bool
    """Whether it has 16 bits."""
    converted: str = ""
    """What was done to its channels, as the network takes others."""


def images_in(source: Path, out: Path) -> dict[Path, Path]:
    """Return the images of a folder, or the one image, each with the file that its output goes to.

    Raises InputError where there is none, where two outputs would have one name, and where one would replace an image.
    """
    if not source.exists():
        raise InputError(f"no such folder or image: {source}")
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise InputError(f"--out {out} lies within {source}; give a folder outside of it")
    files = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
    images = [path for path in files if path.suffix.lower().lstrip(".") in IMAGE_ENDINGS]
    if not images:
        raise InputError(f"{source} holds no images; give a folder of {', '.join(IMAGE_ENDINGS[:5])} ...")
    below = source if source.is_dir() else source.parent
    outputs: dict[Path, Path] = {}
    for path in images:
        target = out / path.relative_to(below).with_suffix(".png")
        if target in outputs:
            raise InputError(f"{outputs[target]} and {path} would both become {target}; rename one of them")
        outputs[target] = path
    inputs = {path.resolve() for path in images}
    if own := [target for target in outputs if target.resolve() in inputs]:
        raise InputError(f"{own[0]} is an image to read, and would be replaced; give --out another folder")
    return {path: target for target, path in outputs.items()}


def apply(
    game: Game,
    config: Config,
    content: bytes,
    name: str,
    way: str = "",
    tile: Tiling | None = None,
    say: Callable[[str], object] = lambda remark: None,
    progress: Callable[[float], object] = lambda done: None,
) -> bytes:
    """Return what the game makes of an encoded image, as a PNG of the same size, times `game.scale`.

    Transparency and 16 bits are kept. Sides are padded by reflection to multiples of `game.multiple`, and cut again. An image
    larger than a `tile` passes the network in tiles. What is random, such as dropout, depends on `name`. `say` is told what a
    person should know, `progress` the part that is done. Raises InputError for a wrong way, ValueError for what cannot be read.
    """
    field = game.takes(way)
    channels, labels = config.data.seen(field), config.data.fields.get(field) or DataField(member="")
    found = read(content, channels, labels)
    if found.converted:
        say(found.converted)
    height, width = found.pixels.shape[:2]
    beyond = [(0, max(-side % game.multiple, game.least - side)) for side in (height, width)]
    padded = np.pad(found.pixels, [*beyond, (0, 0)][: found.pixels.ndim], mode="symmetric")
    if tile is not None and max(padded.shape[:2]) > tile.side and (remark := seams(game, channels, tile, way)):
        say(remark)
    position = rng.key(config.run.seed, f"apply {name}") >> 2

    def network(pixels: np.ndarray) -> np.ndarray:
        weight = next(game.players[0].network.parameters())
        if labels.classes:
            seen = one_hot(torch.from_numpy(pixels)[None], labels.classes, weight.dtype)
        else:
            seen = torch.from_numpy(pixels).permute(2, 0, 1)[None] * 2 - 1
        inputs = Batch({"input": seen.to(weight.device, weight.dtype)}, torch.tensor([position], device=weight.device))
        made: np.ndarray = (game.infer(inputs, way)[0].float().cpu().permute(1, 2, 0).numpy() + 1) / 2
        return made

    made = passed(padded, network, tile or Tiling(max(padded.shape[:2]), 0), game.scale, progress)
    height, width = height * game.scale, width * game.scale
    alpha = found.alpha
    if alpha is not None and game.scale > 1:
        alpha = cv2.resize(alpha, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    return encode(made[:height, :width], alpha, found.deep)


def read(content: bytes, channels: int, labels: DataField) -> Read:
    """Read an encoded image as a network with so many channels sees it. Raises ValueError."""
    if labels.classes:
        return Read(label_maps.decode(content, labels), None, False)
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            if image.mode == "F":
                raise ValueError("has floating-point pixels, which have no agreed range")
            bits = getattr(image, "tag_v2", {}).get(_BITS, (8,))  # of a TIFF: Pillow shows RGB of 16 bits as of 8
            deep = image.mode.startswith("I") or (content[1:4] == b"PNG" and content[24] == 16) or max(bits) > 8
            clear = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
            grey = image.mode in ("1", "L", "LA")
            kind = ("LA" if grey else "RGBA") if clear else ("L" if grey else "RGB")
            pixels = None if deep else np.asarray(ImageOps.exif_transpose(image).convert(kind))
            turned = image.getexif().get(_ORIENTATION, 1) if image.format == "PNG" else 1  # OpenCV turns TIFFs itself
    except (ValueError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise anything on damaged files
        raise ValueError(f"cannot be decoded ({type(error).__name__})") from None
    if pixels is None:  # which Pillow would cut to 8 bits
        try:
            pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error:  # more pixels than OpenCV decodes
            pixels = None
        if pixels is None:
            raise ValueError("cannot be decoded")
        if pixels.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"has {pixels.dtype} pixels, which have no agreed range; store 8 or 16 bits")
        deep = pixels.dtype == np.uint16
        if pixels.ndim == 3:
            pixels = cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB)
        turn = _TURNS.get(turned)
        pixels = pixels if turn is None else np.ascontiguousarray(turn(pixels))
    whole = (pixels if pixels.ndim == 3 else pixels[..., None]).astype(np.float32) / np.iinfo(pixels.dtype).max
    alpha = whole[..., -1] if whole.shape[2] in (2, 4) else None
    colours = whole if alpha is None else whole[..., :-1]
    converted = ""
    if channels <= 2 and colours.shape[2] == 3:
        colours, converted = (
            (colours @ np.array(_LUMA, np.float32))[..., None],
            "has colours, and the run takes grey images: converted",
        )
    elif channels >= 3 and colours.shape[2] == 1:
        colours, converted = colours.repeat(3, axis=2), "is grey, and the run takes colours: converted"
    if channels in (2, 4):
        opaque = np.ones(colours.shape[:2], np.float32) if alpha is None else alpha
        return Read(np.dstack([colours, opaque]), None, deep, converted)
    return Read(colours, alpha, deep, converted)


def encode(pixels: np.ndarray, alpha: np.ndarray | None, deep: bool) -> bytes:
    """Return (H, W, C) in [0, 1] as a PNG of 8 or 16 bits, with this transparency."""
    if alpha is not None and pixels.shape[2] in (1, 3):
        pixels = np.dstack([pixels.repeat(3, axis=2) if pixels.shape[2] == 1 else pixels, alpha])
    kind = np.uint16 if deep else np.uint8
    values = np.nan_to_num(pixels * np.iinfo(kind).max).round().clip(0, np.iinfo(kind).max).astype(kind)
    ways = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
    good, encoded = cv2.imencode(".png", cv2.cvtColor(values, ways[values.shape[2]]) if values.shape[2] > 1 else values)
    assert good
    return encoded.tobytes()
