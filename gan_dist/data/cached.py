"""Read a run's samples through the machine's cache (block_cache.py), which a thread fills ahead of them (prefetch.py)."""

import hashlib
import os
from collections.abc import Sequence

import numpy as np

from gan_dist import files, units
from gan_dist.config import Config
from gan_dist.data.block_cache import Announced, Contents, Folder, Piece, Unit, folder_of
from gan_dist.data.index import Index
from gan_dist.data.prefetch import Fetcher, Source, Thread
from gan_dist.data.upcoming import Schedule
from gan_dist.errors import InputError

_AUTO = 0.5  # of what is free on the disk may be taken where the config asks for no size
_REQUESTS = 8  # shards that a process keeps open


class Cached:
    """The images of one set that are in the cache. It is pickled to workers, and opens nothing before it is used."""

    def __init__(
        self,
        folder: Folder,
        run: str,
        limit: int,
        schedule: Schedule,
        contents: Contents,
        source: Source,
        slots: range,
    ) -> None:
        """`slots` are the places of the batch that this rank serves; for the others see `Fetcher`."""
        self._folder, self._run, self._limit = folder, run, limit
        self._schedule, self._contents, self._source, self._slots = schedule, contents, source, slots
        self._pid = 0
        self._announced: Announced | None = None
        self._thread: Thread | None = None
        self._problems: list[str] = []
        self._said: set[str] = set()

    def __getstate__(self) -> dict[str, object]:
        mine = {"_pid": 0, "_announced": None, "_thread": None, "_problems": [], "_said": set()}
        return {**self.__dict__, **mine}

    def image(self, name: str, sample: int) -> bytes | None:
        """Return the bytes of a field of a sample; None where they are not in the cache."""
        samples = self._schedule.samples_of(int(self._schedule.units_of(np.array([sample]))[0]))
        unit = Unit(self._contents.set, samples.start, samples.stop)
        place = self._contents.place(name, sample, samples)
        return self._folder.read(unit, self._contents.sizes(samples), place)

    def at(self, images: int) -> None:
        """Say that this process reads samples of the step that begins at `images`."""
        if self._pid != os.getpid():
            self._begin()
        if self._announced is not None:
            self._announced.at(images)

    def _begin(self) -> None:
        self._pid = os.getpid()
        try:
            self._announced = Announced(self._folder, self._run, self._slots)
        except OSError as error:
            self._problem(
                f"the cache {self._folder.path} cannot be written ({error.strerror}); shards are read without it"
            )
            return
        fetcher = Fetcher(self._folder, self._run, self._limit, self._schedule, self._contents, self._source)
        self._thread = Thread(fetcher, self._problem)

    def _problem(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._problems.append(text)

    def problems(self) -> list[str]:
        """Return what went wrong since the last call, each thing once."""
        found = []
        while self._problems:
            found.append(self._problems.pop(0))
        return found

    def close(self) -> None:
        """End what this process does for the cache."""
        if self._pid == os.getpid():
            if self._thread is not None:
                self._thread.close()
            if self._announced is not None:
                self._announced.close()
        self._pid, self._thread, self._announced = 0, None, None


class LocalSource:
    """Reads pieces of shards that lie in a file system, such as one that many machines share."""

    def __init__(self, shards: Sequence[str], stamps: Sequence[tuple[int, int]]) -> None:
        """`stamps` are what the index says of each shard."""
        self._shards, self._stamps = shards, stamps

    def read_many(self, pieces: Sequence[Piece], /) -> list[bytes]:
        """Return the bytes of some pieces, in order; close ones of a shard are read at once. Raises OSError."""
        found: list[bytes] = [b""] * len(pieces)
        by_shard: dict[int, list[int]] = {}
        for number, piece in enumerate(pieces):
            by_shard.setdefault(piece.shard, []).append(number)
        for shard, numbers in by_shard.items():
            descriptor = os.open(self._shards[shard], os.O_RDONLY)
            try:
                state = os.fstat(descriptor)
                if (state.st_size, state.st_mtime_ns) != tuple(self._stamps[shard]):
                    raise OSError(0, f"{self._shards[shard]} changed since the run began")
                for number in sorted(numbers, key=lambda number: pieces[number].offset):
                    piece = pieces[number]
                    found[number] = os.pread(descriptor, piece.size, piece.offset)
                    if len(found[number]) != piece.size:
                        raise OSError(0, f"{self._shards[shard]} ends before an image")
            finally:
                os.close(descriptor)
        return found


def of(config: Config, name: str, index: Index, source: Source, slots: range) -> Cached | None:
    """Return the cache of a set; None where the config wants none. Raises InputError where it cannot be had.

    `index` is one of the set `name`, whose shards `source` reads.
    """
    if config.data.cache_limit == "0":
        return None
    members = config.data.members(name)
    contents = Contents({field: index.images.get(field, index) for field in members})
    schedule = Schedule.of(config, name, len(index))
    folder = folder_of(config.cache)
    limit = limit_of(config, folder, contents, schedule)
    about = f"{config.directory.absolute()}\0{name}\0{contents.set}"
    run = hashlib.sha256(about.encode()).hexdigest()[:16]
    return Cached(folder, run, limit, schedule, contents, source, slots)


def limit_of(config: Config, folder: Folder, contents: Contents, schedule: Schedule) -> int:
    """Return the bytes that the cache may have. Raises InputError where there is no room for them, or they are too few."""
    files.make_directory(folder.path, "the cache of blocks (data.cache)")
    used = sum(each.bytes for each in folder.scan().values())
    room = files.room(folder.path) + used
    wanted = config.data.cache_limit
    limit = int(_AUTO * room) if wanted == "auto" else units.bytes_of(wanted)
    if limit > room and min(limit, contents.stored) > room:
        raise InputError(
            f"data.cache_limit = {wanted}: {folder.path} has room for {units.size(room)}; set data.cache_limit lower, 0 for no "
            "cache, or data.cache to a folder of another disk"
        )
    least, what = _least(contents, schedule)
    if limit < least and wanted != "auto":
        raise InputError(
            f"data.cache_limit = {wanted} is less than {what} ({units.size(least)}); set data.cache_limit higher, or 0 for no cache"
        )
    return limit


def _least(contents: Contents, schedule: Schedule) -> tuple[int, str]:
    """Return the bytes below which a cache is of no use, and what they are."""
    mean = contents.stored / max(1, len(contents))
    if schedule.blocks is None:
        return min(contents.stored, int(mean * schedule.batch)), "the images of a batch"
    window = 2 * schedule.blocks.size * schedule.blocks.window * schedule.streams
    words = f"two windows of {schedule.blocks.window} blocks of {schedule.blocks.size} samples"
    return min(contents.stored, int(mean * window)), words
