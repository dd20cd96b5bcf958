"""Know where every sample lies: tar shards are scanned once, and the result is kept beside them.

The index of a shard is a safetensors file that records the shard's size and time, and is made again when they change.
That of remote shards is in the cache (remote_index.py). All shards together are one table (20 bytes a sample), in a file
that all ranks and loader workers of a node map. Beside it is a summary, so that one rank of a node opens the shards' indexes.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from gan_dist import files
from gan_dist.data import parts, remote_index, tables, workers
from gan_dist.data.names import is_remote, redact
from gan_dist.data.parts import VERSION
from gan_dist.data.scan import IMAGE_ENDINGS, scan
from gan_dist.data.stores import Facts
from gan_dist.errors import InputError

__all__ = ["IMAGE_ENDINGS", "VERSION", "Index", "build", "load", "nothing", "places", "scan", "stamp"]

_ROW = np.dtype([("offset", "i8"), ("size", "u4"), ("label", "i4"), ("width", "u2"), ("height", "u2")])
_COLUMNS = _ROW.names or ()
_WORTH_A_FILE = 1 << 20  # bytes of a table: a process may as well have a copy of less
_WORTH_A_POOL = 256 << 20  # bytes: less is scanned sooner than processes start


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
    """Bytes and time of change (ns) of each shard when it was indexed: a file that has others is another file. A remote one's
    second number stands for its ETag or date."""
    fields: "dict[str, Index]" = dataclasses.field(default_factory=dict)
    """The image fields of each sample by name, the same samples in each; this index is the first one's."""
    addresses: tuple[str, ...] = ()
    """Of each shard where its bytes are read: "" for a file, else its address, which may hold a secret. () for files alone."""
    facts: tuple[Facts, ...] = ()
    """What each of these was when it was indexed."""
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
            self.__dict__["rows"] = tables.map_rows(self.table, _ROW)

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
        if self.addresses and self.addresses[shard]:
            return remote_index.keys(self.addresses, shard, self.cache, self.image)
        return _keys(self.shards[shard], self.cache, self.image)

    @property
    def is_remote(self) -> bool:
        """Say whether bytes of some shard come from a server."""
        return any(self.addresses)


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
    return parts.split(part[0]["keys"])


def build(shards: Sequence[str], cache: Path, image: str = "auto", progress: bool = True, renew: bool = True) -> None:
    """Make the index of every shard that has none or an old one, several at a time.

    `renew`: also of remote shards that changed since they were indexed; otherwise InputError names one.
    """
    if far := [shard for shard in shards if is_remote(shard)]:
        remote_index.build(far, cache, image, progress, renew)
    near = [shard for shard in shards if not is_remote(shard)]
    stale = [shard for shard in near if _read(shard, cache, image) is None]
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


def load(shards: Sequence[str], cache: Path, image: str = "auto", prepared: bool = False) -> Index:
    """Return the index of `shards`, which `build` has made. It asks no server.

    `prepared`: another process of this machine has loaded it since this start began. What that one left is then read in
    place of each shard's index, as long as no shard has another size or date.
    """
    if prepared and (index := _prepared(shards, cache, image)) is not None:
        return index
    far = [shard for shard in shards if is_remote(shard)]
    next_far = iter(remote_index.load(far, cache, image) if far else ())
    found = [next(next_far) if is_remote(shard) else _near(shard, cache, image) for shard in shards]
    summaries = [part.summary for part in found]
    counts = [part.count for part in found]
    digest, old_digest = (
        hashlib.sha256("".join(summary[name] for summary in summaries).encode()).hexdigest()
        for name in ("digest", "old_digest")
    )
    stamps = tuple(part.stamp for part in found)
    table, total = None, sum(counts)
    if total * _ROW.itemsize >= _WORTH_A_FILE:
        # named by all that is in it; a rank that comes later maps the file that is there
        places = [parts.identity(shard) if is_remote(shard) else str(Path(shard).absolute()) for shard in shards]
        about = json.dumps([VERSION, image, digest, places, stamps])
        table = tables.folder() / f"index-{hashlib.sha256(about.encode()).hexdigest()[:24]}.rows"
    if table is not None and table.exists():
        rows = tables.map_rows(table, _ROW)
    else:
        if table is not None:
            with tables.alone(table):  # the other ranks of the machine wait, then map what one has written
                if not table.exists():
                    tables.write_parts(table, _ROW, total, map(_rows_of, found))
            rows = tables.map_rows(table, _ROW)
        else:
            rows = np.concatenate([np.empty(0, _ROW), *map(_rows_of, found)])
    shown = tuple(redact(shard) if is_remote(shard) else shard for shard in shards)
    channels: dict[str, str] = {}
    left_out: Counter[str] = Counter()
    for shard, summary in zip(shown, summaries, strict=True):
        left_out.update(summary["left_out"])
        for kind, key in summary["channels"].items():
            channels.setdefault(kind, f"{shard}: {key}")
    index = Index(
        shards=shown,
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
        stamps=stamps,
        addresses=tuple(shard if is_remote(shard) else "" for shard in shards) if far else (),
        facts=tuple(part.facts for part in found) if far else (),
    )
    if table is not None and not far:
        _leave(index)
    return index


_SUMMARY = ("digest", "old_digest", "channels", "bad", "left_out", "key_digests")


def _summary_place(shards: Sequence[str], image: str, stamps: Sequence[tuple[int, int]]) -> Path:
    """Return where the summary of local shards lies: another place for shards of another size or date."""
    absolute = [str(Path(shard).absolute()) for shard in shards]
    about = json.dumps([VERSION, image, list(shards), absolute, stamps])
    return tables.folder() / f"summary-{hashlib.sha256(about.encode()).hexdigest()[:24]}.json"


def _leave(index: Index) -> None:
    """Write what is known beside the table for the other ranks, who read the shards' own indexes where that fails."""
    assert index.table is not None
    content = {name: getattr(index, name) for name in _SUMMARY}
    text = json.dumps({"table": index.table.name, "first": index.first.tolist(), **content})
    place = _summary_place(index.shards, index.image, index.stamps)
    with contextlib.suppress(OSError):
        if not place.exists() or place.read_text() != text:  # by now a shard's index may be a newer one
            files.write_atomic(place, text)


def _prepared(shards: Sequence[str], cache: Path, image: str) -> Index | None:
    """Return the index that another process of this machine has left; None where there is none of these files."""
    if any(is_remote(shard) for shard in shards):
        return None  # these have one index together
    states = [stamp(shard) for shard in shards]
    stamps = tuple((int(state["bytes"]), int(state["mtime_ns"])) for state in states)
    try:
        found = json.loads(_summary_place(shards, image, stamps).read_text())
        table, first = tables.folder() / found.pop("table"), np.array(found.pop("first"))
        rows = tables.map_rows(table, _ROW)
        for name in ("bad", "key_digests"):
            found[name] = tuple(found[name])
        index = Index(
            shards=tuple(shards), first=first, rows=rows, table=table, cache=cache, image=image, stamps=stamps, **found
        )
        return index if len(rows) == len(index) else None
    except (OSError, LookupError, ValueError, TypeError, AttributeError):
        return None


def _rows_of(part: parts.Part) -> np.ndarray:
    rows = np.empty(part.count, _ROW)
    for name in _COLUMNS:
        rows[name] = part.column(name)
    return rows


def _near(shard: str, cache: Path, image: str) -> parts.Part:
    before = stamp(shard)  # before the reading: a change during it is noticed
    part = _read(shard, cache, image)
    if part is None:
        raise InputError(f"data.shards: {shard} changed while its index was made; start again")
    arrays, summary = part
    facts = Facts(int(before["bytes"]), "", "")
    return parts.Part(len(arrays["offset"]), summary, (facts.size, int(before["mtime_ns"])), facts, arrays.__getitem__)


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
    found = (parts.read(place, recent, columns) for place in places(shard, cache, image))
    return next((part for part in found if part is not None), None)


def _build_one(shard: str, cache: Path, image: str) -> None:
    before = stamp(shard)  # before the scan: a change during it makes the index stale
    arrays, summary = scan(shard, image)
    content = parts.content(before, arrays, summary)
    beside, cached = places(shard, cache, image)
    try:
        files.write_atomic(beside, content)
    except OSError:
        files.make_directory(cached.parent, "the index cache (data.cache)")
        files.write_atomic(cached, content)
