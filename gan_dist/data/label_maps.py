"""Read label maps: images whose pixels are numbers of classes, or colours that stand for them."""

import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from gan_dist import files
from gan_dist.config.data_field import DataField
from gan_dist.data import index as index_module
from gan_dist.data.index import Index
from gan_dist.errors import InputError

_LOSSY = ("JPEG", "MPO")
_NUMBERS = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")


def decode(content: bytes, field: DataField) -> np.ndarray:
    """Return the classes of a label map's pixels, (H, W) uint8; `field.classes` is of no class. Raises ValueError."""
    numbers = _numbers(content, field)
    if field.unknown >= 0:
        numbers = np.where(numbers == field.unknown, field.classes, numbers)
        allowed = field.classes
    else:
        allowed = field.classes - 1
    if (largest := int(numbers.max())) > allowed:
        mask = "; a mask of 0 and 255 is an image: leave out classes" if largest == 255 else ""
        raise ValueError(f"has the label {largest}, and classes = {field.classes} means 0..{field.classes - 1}{mask}")
    return numbers.astype(np.uint8)


def _numbers(content: bytes, field: DataField) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            kind, mode = image.format, image.mode
            if kind in _LOSSY:
                raise ValueError("is a JPEG, which changes the numbers of pixels; store it as PNG")
            if mode in _NUMBERS and not (mode == "P" and field.palette):
                return np.asarray(image).astype(np.int64)
            colours = np.asarray(image.convert("RGB")).astype(np.int64)
    except ValueError:
        raise
    except Exception as error:  # Pillow's decoders raise anything on damaged files
        raise ValueError(f"cannot be decoded ({type(error).__name__})") from None
    if not field.palette:
        raise ValueError(
            "is stored in colours; give the colours of the classes as palette, or pack it with `gan-dist pack --labels`"
        )
    return _of_colours(colours, field.palette)


def _of_colours(colours: np.ndarray, palette: Sequence[str]) -> np.ndarray:
    """Return the numbers of the classes that colours (H, W, 3) stand for."""
    codes = colours[..., 0] << 16 | colours[..., 1] << 8 | colours[..., 2]
    known = np.array([int(name[1:], 16) for name in palette])
    order = np.argsort(known)
    places = np.searchsorted(known[order], codes).clip(max=len(known) - 1)
    numbers: np.ndarray = order[places]
    if (strange := known[numbers] != codes).any():
        raise ValueError(f"has the colour #{int(codes[strange][0]):06x}, which palette does not name")
    return numbers


def check(shards: Sequence[str], fields: Mapping[str, DataField], cache: Path) -> None:
    """Decode every label map once, and remember beside the shard that all are in range.

    Raises InputError, naming a sample, where one is not.
    """
    for name, field in fields.items():
        if not field.classes:
            continue
        known = hashlib.sha256(json.dumps(field.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()[:8]
        for shard in shards:
            beside, cached = index_module.places(shard, cache, f"{field.member}.labels-{known}")
            stamp = json.dumps(index_module.stamp(shard))
            if any(_text(path) == stamp for path in (beside, cached)):
                continue
            if problem := _problem(index_module.load([shard], cache, field.member), field):
                raise InputError(f"data.fields.{name}: {problem}")
            try:
                files.write_atomic(beside, stamp)
            except OSError:
                files.make_directory(cached.parent, "the index cache (data.cache)")
                files.write_atomic(cached, stamp)


def _problem(index: Index, field: DataField) -> str:
    """Return what is wrong with the first label map of a shard that is out of range, with its key; else ""."""

    def of_sample(sample: int) -> str:
        try:
            with open(index.shards[0], "rb") as file:
                decode(os.pread(file.fileno(), int(index.size[sample]), int(index.offset[sample])), field)
        except ValueError as error:
            return f"{index.key(sample)} {error}"
        return ""

    readable = np.flatnonzero(index.width > 0).tolist()  # others stand in for the rest
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return next(filter(None, pool.map(of_sample, readable)), "")


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
