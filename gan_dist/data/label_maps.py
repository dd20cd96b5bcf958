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
from gan_dist.data.names import is_remote
from gan_dist.errors import InputError

_LOSSY = ("JPEG", "MPO")
_NUMBERS = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")


class DamagedError(ValueError):
    """An image that cannot be decoded."""


def decode(content: bytes, field: DataField) -> np.ndarray:
    """Return the classes of a label map's pixels, (H, W) uint8; `field.classes` is of no class. Raises ValueError."""
    numbers = _numbers(content, field)
    if field.unknown >= 0:
        numbers = np.where(numbers == field.unknown, field.classes, numbers)
        allowed = field.classes
    else:
        allowed = field.classes - 1
    least, largest = int(numbers.min()), int(numbers.max())
    if least < 0 or largest > allowed:
        strange = least if least < 0 else largest
        mask = "; a mask of 0 and 255 is an image: leave out classes" if strange == 255 else ""
        raise ValueError(f"has the label {strange}, and classes = {field.classes} means 0..{field.classes - 1}{mask}")
    return numbers.astype(np.uint8)


def _numbers(content: bytes, field: DataField) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            kind, mode = image.format, image.mode
            numbers = np.asarray(image).astype(np.int64) if mode in _NUMBERS else None
            coloured = numbers is None or (mode == "P" and field.palette)
            colours = np.asarray(image.convert("RGB")).astype(np.int64) if coloured else None
    except Exception as error:  # Pillow's decoders raise anything on damaged files
        raise DamagedError(f"cannot be decoded ({type(error).__name__})") from None
    if kind in _LOSSY:
        raise ValueError("is a JPEG, which changes the numbers of pixels; store it as PNG")
    if colours is None:
        assert numbers is not None
        return numbers
    if not field.palette:
        raise ValueError(
            "is stored in colours; give the colours of the classes as palette, or pack it with `gan-dist pack --labels`"
        )
    if numbers is None or field.unknown < 0:
        return _of_colours(colours, field.palette)
    return _of_colours(colours, field.palette, numbers == field.unknown, field.unknown)


def _of_colours(
    colours: np.ndarray, palette: Sequence[str], free: np.ndarray | None = None, unknown: int = -1
) -> np.ndarray:
    """Return the numbers of the classes that colours (H, W, 3) stand for. Other colours are `unknown` where `free` (H, W)."""
    codes = colours[..., 0] << 16 | colours[..., 1] << 8 | colours[..., 2]
    known = np.array([int(name[1:], 16) for name in palette])
    order = np.argsort(known)
    places = np.searchsorted(known[order], codes).clip(max=len(known) - 1)
    numbers: np.ndarray = order[places]
    strange = known[numbers] != codes
    if free is not None:
        numbers[strange & free] = unknown
        strange &= ~free
    if strange.any():
        raise ValueError(f"has the colour #{int(codes[strange][0]):06x}, which palette does not name")
    return numbers


def check(shards: Sequence[str], fields: Mapping[str, DataField], cache: Path) -> None:
    """Decode every label map once, and remember beside the shard that all are in range.

    Raises InputError, naming a sample, where one is not. What cannot be decoded is left to the run, whose
    data.max_bad_fraction says how much of it may be, and so are shards on servers, of which nothing is read twice.
    """
    for name, field in fields.items():
        if not field.classes:
            continue
        known = hashlib.sha256(json.dumps(field.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()[:8]
        for shard in shards:
            if is_remote(shard):
                continue
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
        except DamagedError:
            return ""
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
