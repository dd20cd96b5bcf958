"""Know where every sample lies: tar shards are scanned once, and the result is kept beside them.

The index of a shard is a safetensors file that records the shard's size and time, and is made again when they change.
All shards together are one table (20 bytes a sample), in a file that all ranks and loader workers of a node map.
"""

import dataclasses
import functools
import hashlib
import io
import json
import os
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError
from rich.progress import Progress
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from webdataset.tariterators import base_plus_ext

from gan_dist import files
from gan_dist.data import labels, tables, tar, workers
from gan_dist.errors import InputError

VERSION = 3
IMAGE_ENDINGS = ("jpg", "jpeg", "jfif", "jpe", "png", "webp", "bmp", "ppm", "pgm", "tif", "tiff")
_CHANNELS = {"1": 1, "L": 1, "I": 1, "I;16": 1, "I;16B": 1, "RGB": 3, "YCbCr": 3, "P": 3}
_HEADER = 1 << 15  # enough of an image to know its size, but for long metadata
_ROW = np.dtype([("offset", "i8"), ("size", "u4"), ("label", "i4"), ("width", "u2"), ("height", "u2")])
_COLUMNS = _ROW.names or ()
_WORTH_A_FILE = 1 << 20  # bytes of a table: a process may as well have a copy of less
_WORTH_A_POOL = 256 << 20  # bytes: less is scanned sooner than processes start

Image.MAX_IMAGE_PIXELS = None  # only headers are read here


@dataclasses.dataclass(frozen=True, kw_only=True)
class Index:
    """Every sample of a data set, by number: the table `rows` has one row a sample."""

    shards: tuple[str, ...]
    first: np.ndarray
    """Number of the first sample of each shard, then the number of samples: (shards + 1,)."""
    rows: np.ndarray
    """(samples,) of the columns below, 20 bytes each."""
    table: Path | None
    """The file that `rows` maps, so that a node has it in memory once; None for a small table, of which each process has a copy."""
    digest: str
    """SHA-256 over keys, sizes, labels and the images' beginnings in order: the same data under other paths has the same digest."""
    old_digest: str
    """The same without the images' beginnings, as runs recorded it before version 3 of the index."""
    channels: dict[str, str]
    """Which kinds of image there are ("1", "3", "4" with transparency or CMYK), each with the key of one."""
    bad: tuple[str, ...]
    """Samples whose image cannot be read: "shard: key: reason"."""
    left_out: dict[str, int]
    """Members that belong to no sample with an image: how many of each ending, or of each reason."""
    key_digests: tuple[str, ...]
    """Of each shard, over its samples' keys."""
    cache: Path
    image: str
    """What the index was made with, to find its files again."""
    stamps: tuple[tuple[int, int], ...]
    """Bytes and time of change (ns) of each shard when it was indexed: a file that has others is another file."""
    fields: "dict[str, Index]" = dataclasses.field(default_factory=dict)
    """The image fields of each sample by name, the same samples in each; this index is the first one's."""
    apart: bool = False
    """Whether the fields are sets without pairs, each with samples of its own."""

    def __getstate__(self) -> dict[str, Any]:
        if self.table is None:
            return self.__dict__
        if not self.table.exists():  # a cleaner of temporary folders was here
            tables.write(self.table, self.rows)
        return {name: value for name, value in self.__dict__.items() if name != "rows"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.table is not None:
            self.__dict__["rows"] = tables.map_rows(self.table)

    @property
    def images(self) -> "dict[str, Index]":
        """Return the index of each image field by name."""
        return self.fields or {"image": self}

    @property
    def sets(self) -> "tuple[Index, ...]":
        """Return the index of each set of samples: one, unless the fields are apart."""
        return tuple(self.images.values()) if self.apart else (self,)

    @property
    def offset(self) -> np.ndarray:
        """Byte of the shard at which the image begins, int64."""
        return self.rows["offset"]

    @property
    def size(self) -> np.ndarray:
        """Bytes of the image, uint32."""
        return self.rows["size"]

    @property
    def classes(self) -> int:
        """Return the largest label plus one: the number of classes, where the config leaves it to the data."""
        return int(self.label.max()) + 1

    @property
    def label(self) -> np.ndarray:
        """Class, or -1 where the sample has none, int32."""
        return self.rows["label"]

    @property
    def width(self) -> np.ndarray:
        """Stored pixels before any rotation that the image asks for, uint16 (65535: that or more; 0: it cannot be read)."""
        return self.rows["width"]

    @property
    def height(self) -> np.ndarray:
        """As `width`."""
        return self.rows["height"]

    def __len__(self) -> int:
        return int(self.first[-1])

    def shard_of(self, sample: int) -> int:
        return int(np.searchsorted(self.first, sample, side="right")) - 1

    def key(self, sample: int) -> str:
        """Return the sample's WebDataset key, with its shard: read from disk, so for messages and checks only."""
        shard = self.shard_of(sample)
        return f"{self.shards[shard]}: {self.keys(shard)[sample - int(self.first[shard])]}"

    def keys(self, shard: int) -> list[str]:
        """Return the WebDataset keys of a shard's samples."""
        return _keys(self.shards[shard], self.cache, self.image)


def nothing() -> Index:
    """Return the index of no samples, for a game that draws its own."""
    nowhere: dict[str, Any] = {"table": None, "cache": Path(), "image": ""}
    empty: dict[str, Any] = {"shards": (), "bad": (), "key_digests": (), "stamps": (), "channels": {}, "left_out": {}}
    first, rows = np.zeros(1, np.int64), np.zeros(0, _ROW)
    return Index(first=first, rows=rows, digest="", old_digest="", **nowhere, **empty)


@functools.lru_cache(maxsize=8)
def _keys(shard: str, cache: Path, image: str) -> list[str]:
    part = _read(shard, cache, image, ("keys",))
    if part is None:
        raise InputError(f"data.shards: {shard} changed since the run began; put the old file back or start a new run")
    return bytes(part[0]["keys"]).decode(errors="surrogateescape").split("\0")[:-1]


def _choose_image(path: Path, key: str, members: Mapping[str, Any], wanted: str) -> str | None:
    if wanted != "auto":
        return wanted if wanted in members else None
    images = [ending for ending in members if ending.rsplit(".", 1)[-1] in IMAGE_ENDINGS]
    if len(images) > 1:
        raise InputError(
            f"data.shards: {path}: sample {key} has {len(images)} images ({', '.join(images)}), as its key ends at the first "
            "dot of the name; choose one with data.image or name several in data.fields, or, if each is a sample of its own, "
            f"make shards with `gan-dist pack {path} FOLDER`"
        )
    return images[0] if images else None


def _image_header(file: BinaryIO, member: tar.Member) -> tuple[int, int, int]:
    """Return width, height and channels (4: transparency or CMYK) of the image in `file`."""
    for length in (min(member.size, _HEADER), member.size):
        try:
            with Image.open(io.BytesIO(_bytes(file, member, length))) as image:
                clear = "transparency" in image.info
                return image.width, image.height, 4 if clear else _CHANNELS.get(image.mode, 4)
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError, struct.error) as error:
            problem = error
    raise ValueError("empty" if member.size == 0 else f"not an image ({type(problem).__name__})")


def _bytes(file: BinaryIO, member: tar.Member, most: int | None = None) -> bytes:
    file.seek(member.offset)
    return file.read(member.size if most is None else min(most, member.size))


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"data.shards: {path} cannot be read ({error.strerror})") from None


def scan(shard: str, image: str = "auto") -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a shard's headers: (arrays, summary). The image of a sample is its member `image`.

    Samples without that member are left out and counted. Raises InputError where the tar file is damaged or ambiguous.
    """
    path = Path(shard)
    rows: list[tuple[int, int, int, int, int]] = []
    channels: dict[str, str] = {}
    bad: list[str] = []
    content, old_content, key_content = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    names: list[str] = []
    with _open(path) as file:
        try:
            found, left_out = tar.members(path)
            samples = tar.samples(path, found)
        except tar.DamagedError as error:
            raise InputError(f"data.shards: {path} {error}; copy or pack it again") from None
        except InputError as error:
            raise InputError(f"data.shards: {error}") from None
        unused = Counter(why for _, why in left_out)
        unused.update("no ending" for member in found if base_plus_ext(member.name)[0] is None)
        for key, members in samples.items():
            ending = _choose_image(path, key, members, image)
            if ending is None:
                unused.update(members.keys())
                continue
            member = members[ending]
            try:
                width, height, kind = _image_header(file, member)
                channels.setdefault(str(kind), key)
            except ValueError as error:
                width = height = 0
                bad.append(f"{shard}: {key}.{ending}: {error}")
            label = labels.of_sample(members, functools.partial(_bytes, file))
            label = -1 if label is None else label
            rows.append((member.offset, member.size, label, min(width, 65535), min(height, 65535)))
            names.append(key)
            checksum = zlib.crc32(_bytes(file, member, _HEADER))
            fact = f"{key}\0{member.size}\0{label}"
            content.update(f"{fact}\0{checksum:08x}\n".encode(errors="surrogateescape"))
            old_content.update(f"{fact}\n".encode(errors="surrogateescape"))
            key_content.update(f"{key}\0".encode(errors="surrogateescape"))
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
    return arrays, {
        "channels": channels,
        "bad": bad,
        "digest": content.hexdigest(),
        "old_digest": old_content.hexdigest(),
        "keys": key_content.hexdigest(),
        "left_out": dict(unused),
    }


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
        context = workers.context("forkserver")
        with ProcessPoolExecutor(processes, context, initializer=workers.end_with_parent) as pool:
            for _ in pool.map(work, stale):
                bar.advance(task)


def load(shards: Sequence[str], cache: Path, image: str = "auto") -> Index:
    """Return the index of `shards`, which `build` has made."""
    parts, stamps = [], []
    for shard in shards:
        stamps.append(stamp(shard))  # before the reading: a change during it is noticed
        part = _read(shard, cache, image)
        if part is None:
            raise InputError(f"data.shards: {shard} changed while its index was made; start again")
        parts.append(part)
    summaries = [summary for _, summary in parts]
    counts = [len(arrays["offset"]) for arrays, _ in parts]
    rows = np.empty(sum(counts), _ROW)
    for name in _COLUMNS:
        rows[name] = np.concatenate([arrays[name] for arrays, _ in parts]) if parts else []
    del parts
    digest, old_digest = (
        hashlib.sha256("".join(summary[name] for summary in summaries).encode()).hexdigest()
        for name in ("digest", "old_digest")
    )
    table = None
    if rows.nbytes >= _WORTH_A_FILE:
        # named by all that is in it; a rank that comes later maps the file that is there
        about = json.dumps([VERSION, image, digest, [str(Path(shard).absolute()) for shard in shards], stamps])
        table = tables.folder() / f"index-{hashlib.sha256(about.encode()).hexdigest()[:24]}.npy"
        if not table.exists():
            tables.write(table, rows)
        rows = tables.map_rows(table)
    channels: dict[str, str] = {}
    left_out: Counter[str] = Counter()
    for shard, summary in zip(shards, summaries, strict=True):
        left_out.update(summary["left_out"])
        for kind, key in summary["channels"].items():
            channels.setdefault(kind, f"{shard}: {key}")
    return Index(
        shards=tuple(shards),
        first=np.cumsum([0, *counts]),
        rows=rows,
        table=table,
        digest=digest,
        old_digest=old_digest,
        channels=channels,
        bad=tuple(bad for summary in summaries for bad in summary["bad"]),
        left_out=dict(left_out.most_common()),
        key_digests=tuple(summary["keys"] for summary in summaries),
        cache=cache,
        image=image,
        stamps=tuple((int(stamp["bytes"]), int(stamp["mtime_ns"])) for stamp in stamps),
    )


def places(shard: str, cache: Path, image: str) -> tuple[Path, Path]:
    """Return where the index of a shard may lie: beside it, or in the cache."""
    name = ".index" if image == "auto" else f".{image}.index"
    absolute = str(Path(shard).absolute())
    return Path(shard + name), cache / "index" / (hashlib.sha256(absolute.encode()).hexdigest()[:24] + name)


def stamp(shard: str) -> dict[str, str]:
    """Return what tells a shard from what it was before. Raises InputError where it cannot be read."""
    try:
        state = Path(shard).stat()
    except OSError as error:
        raise InputError(f"data.shards: {shard} cannot be read ({error.strerror})") from None
    return {"version": str(VERSION), "bytes": str(state.st_size), "mtime_ns": str(state.st_mtime_ns)}


def _read(
    shard: str, cache: Path, image: str, columns: Sequence[str] = _COLUMNS
) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    recent = stamp(shard)
    for place in places(shard, cache, image):
        try:
            with safe_open(place, framework="numpy") as file:
                recorded = file.metadata()
                if {name: recorded.get(name) for name in recent} == recent:
                    return {name: file.get_tensor(name) for name in columns}, json.loads(recorded["summary"])
        except (OSError, SafetensorError, KeyError, ValueError, AttributeError):
            continue  # absent, unreadable or torn: it is made again
    return None


def _build_one(shard: str, cache: Path, image: str) -> None:
    before = stamp(shard)  # before the scan: a change during it makes the index stale
    arrays, summary = scan(shard, image)
    content = save(arrays, metadata={**before, "summary": json.dumps(summary)})
    beside, cached = places(shard, cache, image)
    try:
        files.write_atomic(beside, content)
    except OSError:
        files.make_directory(cached.parent, "the index cache (data.cache)")
        files.write_atomic(cached, content)
