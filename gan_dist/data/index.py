"""Where every sample lies: tar shards are scanned once, and the result is kept beside them.

The index of a shard is a safetensors file that records the shard's size and time, and is made anew when they
change. All shards together are a few flat arrays (20 bytes a sample) that loader workers share.
"""

import dataclasses
import functools
import hashlib
import io
import json
import multiprocessing
import os
import struct
import sys
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from rich.progress import Progress
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from webdataset.tariterators import base_plus_ext

from gan_dist import files
from gan_dist.data.workers import end_with_parent
from gan_dist.errors import InputError

VERSION = 2
IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp", "bmp", "ppm", "pgm", "tif", "tiff")
_CHANNELS = {"1": 1, "L": 1, "I": 1, "I;16": 1, "I;16B": 1, "RGB": 3, "YCbCr": 3, "P": 3}
_HEADER = 1 << 15  # enough of an image to know its size, but for long metadata
_BLOCK = 512
_WORTH_A_POOL = 256 << 20  # bytes: less is scanned sooner than processes start

Image.MAX_IMAGE_PIXELS = None  # only headers are read here


@dataclasses.dataclass(frozen=True, kw_only=True)
class Index:
    """Every sample of a data set. Arrays are (samples,); `first` is (shards + 1,). Loader workers share the memory."""

    shards: tuple[str, ...]
    first: np.ndarray
    """Number of the first sample of each shard, then the number of samples."""
    offset: np.ndarray
    """Byte of the shard at which the image begins, int64."""
    size: np.ndarray
    """Bytes of the image, uint32."""
    label: np.ndarray
    """Class, or -1 where the sample has none, int32."""
    width: np.ndarray
    height: np.ndarray
    """Stored pixels before any rotation that the image asks for, uint16 (65535: that or more)."""
    digest: str
    """SHA-256 over keys, sizes and labels in order: the same data under other paths has the same digest."""
    channels: dict[str, str]
    """Which kinds of image there are ("1", "3", "4" with transparency or CMYK), each with the key of one."""
    bad: tuple[str, ...]
    """Samples whose image cannot be read: "shard: key: reason"."""
    cache: Path
    image: str
    """What the index was made with, to find its files again."""
    stamps: tuple[tuple[int, int], ...]
    """Bytes and time of change (ns) of each shard when it was indexed: a file that has others is another file."""
    shared: dict[str, torch.Tensor]
    """The arrays as tensors in shared memory: what crosses to a worker is a handle."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in self.shared}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__dict__.update({name: tensor.numpy() for name, tensor in self.shared.items()})

    def __len__(self) -> int:
        return int(self.first[-1])

    def shard_of(self, sample: int) -> int:
        return int(np.searchsorted(self.first, sample, side="right")) - 1

    def key(self, sample: int) -> str:
        """The sample's WebDataset key, with its shard: read from disk, so for messages and checks only."""
        shard = self.shard_of(sample)
        return f"{self.shards[shard]}: {self.keys(shard)[sample - int(self.first[shard])]}"

    def keys(self, shard: int) -> list[str]:
        """The WebDataset keys of a shard's samples."""
        return _keys(self.shards[shard], self.cache, self.image)


@functools.lru_cache(maxsize=8)
def _keys(shard: str, cache: Path, image: str) -> list[str]:
    part = _read(shard, cache, image, ("keys",))
    if part is None:
        raise InputError(f"data.shards: {shard} changed since the run began; put the old file back or start a new run")
    return bytes(part[0]["keys"]).decode(errors="surrogateescape").split("\0")[:-1]


def _group(path: Path) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    """The samples of a tar file in order of their first member: key -> {extension: (offset, size)}.

    Members of a sample need not be neighbours. Raises InputError where the file is damaged.
    """
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    length = path.stat().st_size
    try:
        with tarfile.open(path, mode="r:") as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # or tarfile keeps every member it has seen
                if member.offset_data + member.size > length:
                    raise InputError(f"data.shards: {path} is truncated inside {member.name}; copy or pack it again")
                key, extension = base_plus_ext(member.name)
                if member.isfile() and key is not None and not _is_hidden(member.name):
                    samples.setdefault(key, {})[extension.lower()] = (member.offset_data, member.size)
            end = archive.offset
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"data.shards: {path} cannot be read as a tar file: {error}") from None
    # tarfile ends at a damaged header as it does at the end: only zeros up to the end of the file prove it
    with path.open("rb") as file:
        file.seek(end)
        rest = iter(functools.partial(file.read, 1 << 20), b"")
        if length < max(2 * _BLOCK, end + _BLOCK) or any(block.strip(b"\0") for block in rest):
            raise InputError(
                f"data.shards: {path} is truncated or damaged after {len(samples)} samples "
                "(no end-of-archive marker); copy or pack it again"
            )
    yield from samples.items()


def _is_hidden(name: str) -> bool:
    """Files that no person sees, such as a Mac's `._photo.jpg`."""
    return any(part.startswith(".") for part in PurePosixPath(name).parts)


def _choose_image(path: Path, key: str, members: dict[str, Any], wanted: str) -> str | None:
    if wanted != "auto":
        return wanted if wanted in members else None
    found = [extension for extension in members if extension.rsplit(".", 1)[-1] in IMAGE_ENDINGS]
    if len(found) > 1:
        raise InputError(
            f"data.shards: {path}: sample {key} has {len(found)} images ({', '.join(found)}); say which with data.image"
        )
    return found[0] if found else None


def _image_header(file: BinaryIO, offset: int, size: int) -> tuple[int, int, int]:
    """Width, height and channels (4: transparency or CMYK) of the image in `file` at `offset`."""
    for length in (min(size, _HEADER), size):
        file.seek(offset)
        try:
            with Image.open(io.BytesIO(file.read(length))) as image:
                clear = "transparency" in image.info
                return image.width, image.height, 4 if clear else _CHANNELS.get(image.mode, 4)
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError, struct.error) as error:
            problem = error
    raise ValueError("empty" if size == 0 else f"not an image ({type(problem).__name__})")


def _label(file: BinaryIO, members: dict[str, tuple[int, int]]) -> int:
    """The class in .cls or .json, -1 where there is none or it is not a whole number."""
    for extension in ("cls", "json"):
        if extension in members:
            offset, size = members[extension]
            file.seek(offset)
            content = file.read(size)
            try:
                # .cls as WebDataset reads it: 007 and +7 are numbers
                value: Any = content.decode() if extension == "cls" else json.loads(content)
                if isinstance(value, dict):
                    value = value["label"]
                whole = isinstance(value, int | str) or (isinstance(value, float) and value.is_integer())
                label = int(value) if whole and not isinstance(value, bool) else -1
                return label if 0 <= label < 1 << 31 else -1
            except (ValueError, KeyError):
                return -1
    return -1


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"data.shards: {path} cannot be read ({error.strerror})") from None


def scan(shard: str, image: str = "auto") -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a shard's headers: (arrays, summary). The image of a sample is its member `image`.

    Samples without that member (extra files) are left out. Raises InputError where the tar file is damaged.
    """
    path = Path(shard)
    rows: list[tuple[int, int, int, int, int]] = []
    channels: dict[str, str] = {}
    bad: list[str] = []
    content = hashlib.sha256()
    names: list[str] = []
    with _open(path) as file:
        for key, members in _group(path):
            extension = _choose_image(path, key, members, image)
            if extension is None:
                continue
            offset, size = members[extension]
            try:
                width, height, kind = _image_header(file, offset, size)
                channels.setdefault(str(kind), key)
            except ValueError as error:
                width = height = 0
                bad.append(f"{shard}: {key}.{extension}: {error}")
            label = _label(file, members)
            rows.append((offset, size, label, min(width, 65535), min(height, 65535)))
            names.append(key)
            content.update(f"{key}\0{size}\0{label}\n".encode(errors="surrogateescape"))
    columns = np.array(rows, dtype=np.int64).reshape(-1, 5)
    arrays: dict[str, np.ndarray] = {
        "offset": columns[:, 0].copy(),
        "size": columns[:, 1].astype(np.uint32),
        "label": columns[:, 2].astype(np.int32),
        "width": columns[:, 3].astype(np.uint16),
        "height": columns[:, 4].astype(np.uint16),
        "keys": np.frombuffer(
            "".join(f"{name}\0" for name in names).encode(errors="surrogateescape"), dtype=np.uint8
        ),  # names in a tar file may be in any encoding
    }
    return arrays, {"channels": channels, "bad": bad, "digest": content.hexdigest()}


def build(shards: Sequence[str], cache: Path, image: str = "auto", progress: bool = True) -> None:
    """Make the index of every shard that has none or an old one, several processes at a time."""
    stale = [shard for shard in shards if _read(shard, cache, image) is None]
    if not stale:
        return
    work = functools.partial(_build_one, cache=cache, image=image)
    processes = min(len(stale), len(os.sched_getaffinity(0)))
    if sum(Path(shard).stat().st_size for shard in stale) < _WORTH_A_POOL:
        processes = 1
    with Progress(transient=True, disable=not (progress and sys.stdout.isatty())) as bar:
        task = bar.add_task("indexing shards", total=len(stale))
        if processes == 1:
            for shard in stale:
                work(shard)
                bar.advance(task)
            return
        context = multiprocessing.get_context("forkserver")
        with ProcessPoolExecutor(processes, context, initializer=end_with_parent) as pool:
            for _ in pool.map(work, stale):
                bar.advance(task)


def load(shards: Sequence[str], cache: Path, image: str = "auto") -> Index:
    """The index of `shards`, which `build` has made."""
    parts, stamps = [], []
    for shard in shards:
        stamps.append(_stamp(shard))  # before the reading: a change during it is noticed
        part = _read(shard, cache, image)
        if part is None:
            raise InputError(f"data.shards: {shard} changed while its index was made; start again")
        parts.append(part)
    arrays = {name: np.concatenate([part[0][name] for part in parts]) for name in _COLUMNS}
    # torch has no arithmetic on uint16 and uint32, but shares their memory as any other
    shared = {name: _to_shared_memory(array) for name, array in arrays.items()}
    channels: dict[str, str] = {}
    for shard, (_, summary) in zip(shards, parts, strict=True):
        for kind, key in summary["channels"].items():
            channels.setdefault(kind, f"{shard}: {key}")
    return Index(
        shards=tuple(shards),
        first=np.cumsum([0, *(len(part[0]["offset"]) for part in parts)]),
        digest=hashlib.sha256("".join(part[1]["digest"] for part in parts).encode()).hexdigest(),
        channels=channels,
        bad=tuple(bad for part in parts for bad in part[1]["bad"]),
        cache=cache,
        image=image,
        stamps=tuple((int(stamp["bytes"]), int(stamp["mtime_ns"])) for stamp in stamps),
        shared=shared,
        **{name: tensor.numpy() for name, tensor in shared.items()},
    )


def _to_shared_memory(array: np.ndarray) -> torch.Tensor:
    tensor: torch.Tensor = torch.from_numpy(array).share_memory_()  # type: ignore[no-untyped-call]
    return tensor


def _places(shard: str, cache: Path, image: str) -> tuple[Path, Path]:
    name = ".index" if image == "auto" else f".{image}.index"
    absolute = str(Path(shard).absolute())
    return Path(shard + name), cache / "index" / (hashlib.sha256(absolute.encode()).hexdigest()[:24] + name)


def _stamp(shard: str) -> dict[str, str]:
    try:
        state = Path(shard).stat()
    except OSError as error:
        raise InputError(f"data.shards: {shard} cannot be read ({error.strerror})") from None
    return {"version": str(VERSION), "bytes": str(state.st_size), "mtime_ns": str(state.st_mtime_ns)}


_COLUMNS = ("offset", "size", "label", "width", "height")


def _read(
    shard: str, cache: Path, image: str, columns: Sequence[str] = _COLUMNS
) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    stamp = _stamp(shard)
    for place in _places(shard, cache, image):
        try:
            with safe_open(place, framework="numpy") as file:
                recorded = file.metadata()
                if {name: recorded.get(name) for name in stamp} == stamp:
                    return {name: file.get_tensor(name) for name in columns}, json.loads(recorded["summary"])
        except (OSError, SafetensorError, KeyError, ValueError, AttributeError):
            continue  # absent, unreadable or torn: it is made anew
    return None


def _build_one(shard: str, cache: Path, image: str) -> None:
    stamp = _stamp(shard)  # before the scan: a change during it makes the index stale
    arrays, summary = scan(shard, image)
    content = save(arrays, metadata={**stamp, "summary": json.dumps(summary)})
    beside, cached = _places(shard, cache, image)
    try:
        files.write_atomic(beside, content)
    except OSError:
        files.make_directory(cached.parent, "the index cache (data.cache)")
        files.write_atomic(cached, content)
