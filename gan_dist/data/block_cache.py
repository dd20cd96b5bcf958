"""Keep pieces of a data set in files that all processes of a machine share: checked when they are read, whole or absent.

One process writes (prefetch.py), all read. What is not there, or is damaged, is read from where the shards are, so no result
depends on the cache. A kill at any moment leaves at worst a file with a name of its own that the next writer removes.
"""

import contextlib
import fcntl
import functools
import hashlib
import mmap
import os
import secrets
import socket
import struct
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gan_dist.data.index import Index
from gan_dist.data.names import redact
from gan_dist.data.reading import Piece

_VERSION = 1
_MAGIC = b"gd-block"
_ENTRY = struct.Struct("<I")
_FOLDERS = 256  # of a set, so that none has too many files
_LOOKED_AT = 100_000  # samples
_LEFT = 60.0  # seconds after which a file that is being written has been left by a process that is gone
_POSITION = struct.Struct("<qqq")


class Unit(NamedTuple):
    """Neighbouring samples of a set, in one file."""

    set: str
    first: int
    end: int


class Contents:
    """What the units of a set hold: the images of their samples, field by field."""

    def __init__(self, images: Mapping[str, Index]) -> None:
        """`images` are the index of each field."""
        self.fields = tuple(images)
        """Names of the fields."""
        self._places = {name: place for place, name in enumerate(images)}
        self._index = list(images.values())
        self.set = _identity(self._index)
        """What tells this set from all others, and from other versions of itself."""

    def __len__(self) -> int:
        return len(self._index[0])

    @functools.cached_property
    def stored(self) -> int:
        """Return the bytes of all images; of very many samples about, so that not the whole index is read."""
        step = max(1, len(self) // _LOOKED_AT)
        return sum(int(field.size[::step].mean(dtype=np.float64) * len(self)) for field in self._index)

    def sizes(self, samples: range) -> np.ndarray:
        """Return the bytes of each image: (samples x fields,) int64."""
        found = np.empty((len(samples), len(self._index)), np.int64)
        for place, field in enumerate(self._index):
            found[:, place] = field.size[samples.start : samples.stop]
        return found.reshape(-1)

    def pieces(self, samples: range) -> list[Piece]:
        """Return where each of these images is."""
        shards = {sample: self._index[0].shard_of(sample) for sample in samples}
        return [
            Piece(shards[sample], int(field.offset[sample]), int(field.size[sample]))
            for sample in samples
            for field in self._index
        ]

    def place(self, name: str, sample: int, samples: range) -> int:
        """Return which of the images of `samples` one is."""
        return (sample - samples.start) * len(self._index) + self._places[name]


def _identity(fields: Sequence[Index]) -> str:
    shards = [(redact(shard), *stamp) for shard, stamp in zip(fields[0].shards, fields[0].stamps, strict=True)]
    about = repr((_VERSION, [field.digest for field in fields], shards))
    return hashlib.sha256(about.encode(errors="surrogateescape")).hexdigest()[:16]


class Kept(NamedTuple):
    """A unit that is there."""

    bytes: int
    """That it takes on the disk."""
    written: float
    """Seconds since 1970."""


class Folder:
    """The files of a machine's cache."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def file(self, unit: Unit) -> Path:
        """Return where a unit is, if it is there."""
        number = unit.first // (unit.end - unit.first) % _FOLDERS
        return self.path / "sets" / unit.set / f"{number:02x}" / f"{unit.first}-{unit.end}"

    def write(self, unit: Unit, parts: Sequence[bytes]) -> int:
        """Keep a unit's images. Returns the bytes that its file takes. Raises OSError."""
        path = self.file(unit)
        part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
        checksums = b"".join(_ENTRY.pack(zlib.crc32(each)) for each in parts)
        buffers = [memoryview(each) for each in (_MAGIC, checksums, *parts)]
        for attempt in range(2):
            try:
                descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
                break
            except FileNotFoundError:
                if attempt:
                    raise
                path.parent.mkdir(parents=True, exist_ok=True)
        try:
            try:
                _write_all(descriptor, buffers)
                taken = os.fstat(descriptor).st_blocks * 512
            finally:
                os.close(descriptor)
            part.replace(path)  # no fsync: what a power cut tears is known by its checksums
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return max(taken, sum(map(len, buffers)))

    def read(self, unit: Unit, sizes: np.ndarray, place: int) -> bytes | None:
        """Return one image of a unit whose images have these sizes; None where it is not there or is damaged."""
        start = len(_MAGIC) + len(sizes) * _ENTRY.size + int(sizes[:place].sum())
        size, path = int(sizes[place]), self.file(unit)
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            return None
        try:
            checksum = os.pread(descriptor, _ENTRY.size, len(_MAGIC) + place * _ENTRY.size)
            data = os.pread(descriptor, size, start)
        except OSError:
            checksum = data = b""
        finally:
            os.close(descriptor)
        if len(data) == size and checksum == _ENTRY.pack(zlib.crc32(data)):
            return data
        self.remove(unit)
        return None

    def remove(self, unit: Unit) -> None:
        """Delete a unit from the cache, even while a process reads it."""
        with contextlib.suppress(OSError):
            self.file(unit).unlink(missing_ok=True)

    def scan(self) -> dict[Unit, Kept]:
        """Return all that is there, where it is known to be little: `entries`."""
        return dict(self.entries())

    def entries(self) -> Iterator[tuple[Unit, Kept]]:
        """Yield all that is there. Removes what a killed writer has left."""
        for each in _entries(self.path / "sets"):
            for folder in _entries(each.path):
                for file in _entries(folder.path):
                    if (entry := _entry(each.name, file)) is not None:
                        yield entry


def _entry(set_name: str, file: "os.DirEntry[str]") -> tuple[Unit, Kept] | None:
    """Return what a file holds; None where it is not whole, or no file of a cache."""
    try:
        state = file.stat(follow_symlinks=False)
        if file.name.endswith(".part"):
            if time.time() - state.st_mtime > _LEFT:
                os.unlink(file.path)
            return None
        first, end = map(int, file.name.split("-"))
    except (OSError, ValueError):
        return None
    return Unit(set_name, first, end), Kept(max(state.st_blocks * 512, state.st_size), state.st_mtime)


def _write_all(descriptor: int, buffers: list[memoryview]) -> None:
    while buffers:
        written = os.writev(descriptor, buffers[:512])
        while buffers and written >= len(buffers[0]):
            written -= len(buffers.pop(0))
        if written:
            buffers[0] = buffers[0][written:]


def _entries(path: str | Path) -> "Iterator[os.DirEntry[str]]":
    with contextlib.suppress(OSError), os.scandir(path) as entries:
        yield from entries


def folder_of(cache: Path) -> Folder:
    """Return this machine's folder in a cache, which several machines may share."""
    return Folder(cache / "blocks" / socket.gethostname())


class Reading(NamedTuple):
    """How far a process that reads is."""

    images: int
    slots: range


class Announced:
    """Tells other processes how far this one is: eight bytes in a file that is mapped, for as long as it lives."""

    def __init__(self, folder: Folder, run: str, slots: range) -> None:
        """`run`: a name for the reading of one set by one run. Raises OSError."""
        place = folder.path / "readers"
        place.mkdir(parents=True, exist_ok=True)
        name = f"{run}.{os.getpid()}-{secrets.token_hex(4)}"
        part = place / f".{name}.part"
        self._path = place / name
        self._descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # gone with the process, however that ends
        os.write(self._descriptor, _POSITION.pack(-1, slots.start, slots.stop))
        self._memory = mmap.mmap(self._descriptor, _POSITION.size)
        part.rename(self._path)

    def at(self, images: int) -> None:
        """Say which step is being read."""
        struct.pack_into("<q", self._memory, 0, images)

    def close(self) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def readings(folder: Folder, run: str) -> list[Reading]:
    """Return how far each process is that lives and reads a set for a run. Removes what the others have left."""
    found = []
    for entry in list(_entries(folder.path / "readers")):
        if not entry.name.startswith((f"{run}.", f".{run}.")):
            continue
        with contextlib.suppress(OSError, struct.error):
            descriptor = os.open(entry.path, os.O_RDWR)
            try:
                if is_locked(descriptor):
                    images, start, stop = _POSITION.unpack(os.pread(descriptor, _POSITION.size, 0))
                    if images >= 0:
                        found.append(Reading(images, range(start, stop)))
                elif not entry.name.startswith(".") or time.time() - entry.stat().st_mtime > _LEFT:
                    os.unlink(entry.path)
            finally:
                os.close(descriptor)
    return found


def is_locked(descriptor: int) -> bool:
    """Say whether another process, or another opening of the file, holds its lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False
