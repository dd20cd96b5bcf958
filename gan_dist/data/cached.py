"""Read a run's samples through the machine's cache (block_cache.py), which a thread fills ahead of them (prefetch.py)."""

import functools
import hashlib
import os
from collections.abc import Mapping, Sequence

import numpy as np

from gan_dist import files, units
from gan_dist.config import Config
from gan_dist.data.block_cache import Announced, Contents, Folder, Unit, folder_of
from gan_dist.data.decode import Decoder, Note
from gan_dist.data.index import Index
from gan_dist.data.prefetch import Fetcher, Plan, Thread
from gan_dist.data.reading import Direct, Piece
from gan_dist.data.stores import Patience
from gan_dist.data.upcoming import Schedule
from gan_dist.errors import InputError

_PATIENCE = Patience(3.0)
"""For how long the one who reads ahead tries again; then it looks whether the same is still wanted."""
_AUTO, _MOST = 0.5, 20 << 30  # of what is free on the disk, and bytes, may be taken where the config asks for no size


class Cached:
    """The images of one set that are in the cache. It is pickled to workers, and opens nothing before it is used."""

    def __init__(self, plan: Plan, slots: range) -> None:
        """`slots` are the places of the batch that this rank serves."""
        self.plan, self._slots = plan, slots
        self._schedule, self._contents, self._folder = plan.schedule, plan.contents, plan.folder
        self._pid = 0
        self._announced: Announced | None = None
        self._thread: Thread | None = None
        self._problems: list[str] = []
        self._said: set[str] = set()

    def __getstate__(self) -> dict[str, object]:
        mine: dict[str, object] = {"_pid": 0, "_announced": None, "_thread": None, "_problems": [], "_said": set()}
        return {**self.__dict__, **mine}

    def serve(self, decoders: Mapping[str, Decoder]) -> None:
        """Let the decoders of this set's fields look here first."""
        for name in self._contents.fields:
            decoders[name].kept = functools.partial(self.image, name)

    def image(self, name: str, sample: int) -> bytes | None:
        """Return the bytes of a field of a sample; None where they are not in the cache."""
        samples = self._schedule.samples_of(int(self._schedule.units_of(np.array([sample]))[0]))
        unit = Unit(self._contents.set, samples.start, samples.stop)
        place = self._contents.place(name, sample, samples)
        return self._folder.read(unit, self._contents.sizes(samples), place)

    def at(self, images: int) -> None:
        """Say that this process reads samples of the step that begins at `images`.

        Fetching ahead begins with the second call, so that it takes no bandwidth from what the first step waits for.
        """
        if self._pid != os.getpid():
            self._begin()
        elif self._thread is None and self._announced is not None:
            self._thread = Thread(Fetcher(self.plan), self._problem)
        if self._announced is not None:
            self._announced.at(images)

    def _begin(self) -> None:
        self._pid = os.getpid()
        try:
            self._announced = Announced(self._folder, self.plan.run, self._slots)
        except OSError as error:
            self._problem(
                f"the cache {self._folder.path} cannot be written ({error.strerror}); shards are read without it"
            )

    def _problem(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._problems.append(text)

    def notes(self) -> list[Note]:
        """Return what went wrong since the last call, each thing once."""
        return [
            Note("cache", -1, str(self._folder.path), "", self._problems.pop(0)) for _ in range(len(self._problems))
        ]

    def close(self) -> None:
        """End what this process does for the cache."""
        if self._pid == os.getpid():
            if self._thread is not None:
                self._thread.close()
            if self._announced is not None:
                self._announced.close()
        self._pid, self._thread, self._announced = 0, None, None


class Shards:
    """Reads pieces of the shards of an index, in a file system or on servers."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._far = Direct(index.addresses, index.facts, _PATIENCE) if index.is_remote else None

    def read_many(self, pieces: Sequence[Piece]) -> list[bytes]:
        """Return the bytes of some pieces, in order. Raises OSError and StoreError."""
        found: list[bytes] = [b""] * len(pieces)
        near: dict[int, list[int]] = {}
        far = []
        for number, piece in enumerate(pieces):
            if self._far is not None and self._index.addresses[piece.shard]:
                far.append(number)
            else:
                near.setdefault(piece.shard, []).append(number)
        for shard, numbers in near.items():
            self._read_file(shard, sorted(numbers, key=lambda number: pieces[number].offset), pieces, found)
        if self._far is not None and far:
            for number, data in zip(far, self._far.read_many([pieces[number] for number in far]), strict=True):
                found[number] = data
        return found

    def _read_file(self, shard: int, numbers: list[int], pieces: Sequence[Piece], found: list[bytes]) -> None:
        name = self._index.shards[shard]
        descriptor = os.open(name, os.O_RDONLY)
        try:
            state = os.fstat(descriptor)
            if (state.st_size, state.st_mtime_ns) != tuple(self._index.stamps[shard]):
                raise OSError(0, f"{name} changed since the run began")
            for number in numbers:
                piece = pieces[number]
                found[number] = os.pread(descriptor, piece.size, piece.offset)
                if len(found[number]) != piece.size:
                    raise OSError(0, f"{name} ends before an image")
        finally:
            os.close(descriptor)


def check(index: Index, config: Config) -> None:
    """Raise InputError where the cache that the config asks for cannot be had, or has no effect."""
    data = config.data
    far = any(each.is_remote for each in index.images.values())
    if not far and not data.cache_local:
        if data.cache_bytes:
            raise InputError(
                f"data.cache_limit = {data.cache_limit} has no effect, as all shards are local; remove it, or set "
                "data.cache_local: true where they are on a network disk"
            )
        return
    if data.cache_local and data.cache_bytes == 0:
        raise InputError("data.cache_local has no effect with data.cache_limit: 0; remove one of them")
    of_sets(index, config, range(config.training.batch))


def lend(index: Index, config: Config, decoders: Mapping[str, Decoder]) -> None:
    """Let decoders that read chosen samples look into the cache of a training."""
    for kept in of_sets(index, config, range(config.training.batch), limited=False).values():
        kept.serve(decoders)


def of_sets(index: Index, config: Config, slots: range, limited: bool = True) -> dict[str, Cached]:
    """Return the cache of each set that has one. Raises InputError where it cannot be had; not `limited`: to read only."""
    data = config.data
    if data.cache_bytes == 0:
        return {}
    found = {}
    for name in data.sets:
        images = {field: index.images[field] for field in data.members(name)}
        first = next(iter(images.values()))
        if first.is_remote or data.cache_local:
            found[name] = _of(config, name, images, slots, limited)
    return found


def _of(config: Config, name: str, images: Mapping[str, Index], slots: range, limited: bool) -> Cached:
    contents = Contents(images)
    schedule = Schedule.of(config, name, len(contents))
    folder = folder_of(config.cache)
    limit = limit_of(config, folder, contents, schedule) if limited else 0
    about = f"{config.directory.absolute()}\0{name}\0{contents.set}"
    run = hashlib.sha256(about.encode()).hexdigest()[:16]
    source = Shards(next(iter(images.values())))
    plan = Plan(folder=folder, run=run, limit=limit, schedule=schedule, contents=contents, source=source)
    return Cached(plan, slots)


def limit_of(config: Config, folder: Folder, contents: Contents, schedule: Schedule) -> int:
    """Return the bytes that the cache may have. Raises InputError where there is no room for them, or they are too few."""
    files.make_directory(folder.path, "the cache of blocks (data.cache)")
    room, asked, wanted = files.room(folder.path), config.data.cache_bytes, config.data.cache_limit
    if (
        _MOST / _AUTO if asked is None else asked
    ) > room:  # only then what is there counts: it may be millions of files
        room += sum(kept.bytes for _, kept in folder.entries())
    limit = min(_MOST, int(_AUTO * room)) if asked is None else asked
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
