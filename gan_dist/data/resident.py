"""Keep decoded samples in memory: a cache of the decoder, which changes no sample of a run.

While it fills, the loader's workers decode what is not kept yet and write it to its place, in memory that all ranks of a
machine share. Once it is full there are no workers: a batch is one selection by the sample numbers of the order.
"""

import contextlib
import dataclasses
import errno
import math
import mmap
import os
import platform
import secrets
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import psutil
import torch
from torch import Tensor

from gan_dist import units
from gan_dist.config import Config
from gan_dist.data import batches, checks, order
from gan_dist.data.decode import Note
from gan_dist.data.index import Index
from gan_dist.data.transfer import Sender
from gan_dist.errors import InputError
from gan_dist.interfaces import Batch

_PAGE = 4096
_SPARE = 0.9  # of free memory may be taken where the config asks for it,
_SPARE_AUTO = 0.5  # and where it does not
_LOOKS = 16  # in an epoch, for whether all samples are kept
_ROWS_AT_ONCE = 8192  # sample numbers computed by one call
Read = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, list[Note]]]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a machine is to keep, and where."""

    where: str
    """host or device."""
    samples: tuple[range, ...]
    """Those that its ranks read: ascending, each after a gap."""
    shapes: dict[str, tuple[int, int, int]]
    """Height, width and channels of each image field."""
    spare: float
    """Part of free memory that may be taken."""

    @property
    def count(self) -> int:
        """Return the number of samples."""
        return sum(map(len, self.samples))

    def places(self, samples: np.ndarray) -> np.ndarray:
        """Return where samples (N,) stand among those that are kept: (N,) int64."""
        if len(self.samples) == 1:
            return samples - self.samples[0].start
        starts = np.array([each.start for each in self.samples])
        before = np.cumsum([0, *map(len, self.samples[:-1])])
        part = np.searchsorted(starts, samples, side="right") - 1
        found: np.ndarray = samples - starts[part] + before[part]
        return found

    @property
    def bytes(self) -> int:
        """Return the memory it takes."""
        return self.count * (8 + sum(math.prod(shape) for shape in self.shapes.values()))

    @property
    def words(self) -> str:
        """Say in a line what is kept, and how much that is."""
        place = "the memory of the device" if self.where == "device" else "this machine's memory"
        return (
            f"data.resident: {self.where}: {self.count:,} decoded samples, {units.size(self.bytes)}, are kept in "
            f"{place} after their first use"
        )


def plan(
    config: Config, index: Index, slots: Sequence[range], own: range, device: torch.device, left: float = math.inf
) -> Plan | None:
    """Return what a machine keeps whose ranks serve these `slots`, of which this rank has its `own`.

    None where it does not fit. `left` are the bytes that limits leave to this process. Raises InputError where the config
    names a place that is too small.
    """
    wanted, on_gpu = config.data.resident, device.type == "cuda"
    spare = _SPARE_AUTO if wanted == "auto" else _SPARE
    made = Plan(
        "device" if wanted == "device" or (wanted == "auto" and on_gpu) else "host",
        _joined([read_by(config, len(index), each) for each in slots]),
        _shapes(config, index),
        spare,
    )
    if not hasattr(os, "memfd_create"):
        if wanted == "auto":
            return None
        raise InputError(
            f"data.resident = {wanted} shares memory as Linux does, and this is another system; set it to no"
        )
    room = min(psutil.virtual_memory().available, left)
    if made.bytes > spare * room:
        if wanted == "auto":
            return None
        raise InputError(_too_large(wanted, made, spare * room, "this machine's memory"))
    if made.where == "device" and on_gpu:
        total = torch.cuda.mem_get_info(device)[1]
        part = dataclasses.replace(made, samples=(read_by(config, len(index), own),))
        if part.bytes > spare * total:
            if wanted == "auto":
                return dataclasses.replace(made, where="host")
            raise InputError(_too_large(wanted, part, spare * total, "the GPU's memory"))
    return made


def read_by(config: Config, total: int, slots: range) -> range:
    """Return the samples that some neighbouring slots ever read."""
    return order.read_by(slots, total, config.training.batch, config.data.streams)


def _joined(ranges: Sequence[range]) -> tuple[range, ...]:
    """Return what is in some ranges, as few ascending ranges. Ranks of a machine need not be neighbours."""
    found: list[range] = []
    for each in sorted(ranges, key=lambda each: each.start):
        if found and each.start <= found[-1].stop:
            found[-1] = range(found[-1].start, max(found[-1].stop, each.stop))
        else:
            found.append(each)
    return tuple(found)


def _too_large(wanted: str, made: Plan, most: float, what: str) -> str:
    return (
        f"data.resident = {wanted}: {made.count:,} decoded samples are {units.size(made.bytes)}, and at most "
        f"{units.size(most)} of {what} may be taken; set data.resident: auto, or pack smaller images"
    )


class Ranks(Protocol):
    """What is asked of an engine: this rank's part, and what ranks tell each other."""

    slots: range
    device: torch.device

    def gather(self, value: Any) -> list[Any]: ...
    def on_main(self, work: Callable[[], Any], where: Literal["first", "machine"]) -> Any: ...


def shared(config: Config, index: Index, ranks: Ranks, left: float) -> "Cache | None":
    """Return what this rank keeps samples in together with the ranks of its machine; None where it keeps none.

    All ranks call it. For `left` see `plan`.
    """
    if config.data.drawn or config.data.resident == "no":
        return None
    machine, slots = _machine(), ranks.slots
    told_slots = ranks.gather((machine, (slots.start, slots.stop)))
    together = [range(*each) for where, each in told_slots if where == machine]

    def make() -> Cache | None:
        made = plan(config, index, together, slots, ranks.device, left)
        return Cache(made) if made is not None else None

    cache: Cache | None = ranks.on_main(make, where="machine")
    told = (machine, cache.plan, cache.path, cache.name) if cache is not None else None
    found = [each for each in ranks.gather(told) if each is not None and each[0] == machine]
    if cache is not None or not found:
        return cache
    _, made, path, name = found[0]
    try:
        return Cache(made, path, name)
    except OSError:  # processes that do not see each other, as in containers of their own: this one decodes as ever
        return None


def absence(config: Config, index: Index, slots: range) -> str:
    """Say in a line that nothing is kept, though the config asks for it."""
    samples = read_by(config, len(index), slots)
    needed = Plan("host", (samples,), _shapes(config, index), 0).bytes
    return (
        f"data.resident: {config.data.resident}: nothing is kept, as {len(samples):,} decoded samples, {units.size(needed)}, "
        "do not fit into half of the free memory"
    )


def _shapes(config: Config, index: Index) -> dict[str, tuple[int, int, int]]:
    return {name: (*config.data.size, checks.channels(config, name)) for name in index.images}


def _machine() -> str:
    """Return what tells this machine, since its start, from all others."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        return platform.node()


def _opened(path: str, name: str) -> int:
    """Open another process's memory. Raises OSError where `path` is not what it calls `name`, as in another container."""
    if os.readlink(path) != name:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return os.open(path, os.O_RDWR)


class Cache:
    """Decoded samples, each at its number: pixels of every image field, and which sample they are of.

    Another one stands in for a sample that cannot be read. The memory has no name in any file system, so it is gone when
    the last process that uses it ends, however that ends. It is taken page by page, as it is written.
    """

    def __init__(self, made: Plan, path: str = "", name: str = "") -> None:
        """Make the memory, or share what another process made. Raises OSError where `path` is not what it calls `name`."""
        self.plan = made
        self.labels: np.ndarray | None = None
        """The classes of what is kept, once all is."""
        self._selected: dict[str, Tensor] = {}
        self._first = made.samples[0].start
        """The sample that is first in `_selected`."""
        if path:
            descriptor = _opened(path, name)
        else:
            descriptor = os.memfd_create(f"gan_dist-{secrets.token_hex(8)}")
            os.truncate(descriptor, self._layout()[1])
        self.path = f"/proc/{os.getpid()}/fd/{descriptor}"
        """How other processes of this machine open it, for as long as this one holds it."""
        self.name = os.readlink(self.path)
        """What tells this memory from all other files."""
        self._close = weakref.finalize(self, os.close, descriptor)
        self._map(descriptor)

    def _layout(self) -> tuple[list[int], int]:
        """Return where the numbers and each field begin, and the size of it all."""
        count, places, end = self.plan.count, [0], 0
        for size in (8, *(math.prod(shape) for shape in self.plan.shapes.values())):
            end = -(-(end + count * size) // _PAGE) * _PAGE
            places.append(end)
        return places[:-1], end

    def _map(self, descriptor: int) -> None:
        places, size = self._layout()
        memory, count = mmap.mmap(descriptor, size), self.plan.count
        self._numbers = np.frombuffer(memory, np.int64, count, places[0])
        """For each sample 0, or 1 + the sample whose pixels are kept at its place."""
        self._rows = {
            name: np.frombuffer(memory, np.uint8, count * math.prod(shape), place).reshape(count, *shape)
            for (name, shape), place in zip(self.plan.shapes.items(), places[1:], strict=True)
        }

    def __getstate__(self) -> dict[str, object]:
        return {"plan": self.plan, "path": self.path, "name": self.name}

    def __setstate__(self, state: Mapping[str, object]) -> None:
        """Share the memory in a worker, which ends before the process that holds it open. One that cannot keeps nothing."""
        self.__dict__.update(state)
        try:
            descriptor = _opened(self.path, self.name)
        except OSError:
            self._rows = {}
            return
        try:
            self._map(descriptor)
        finally:
            os.close(descriptor)

    def read(self, samples: np.ndarray, out: Mapping[str, np.ndarray], read: Read) -> tuple[np.ndarray, list[Note]]:
        """Write samples (N,) into `out` as `decode.read_or_substitute` does; only those that are not kept yet are decoded.

        `read(places)` decodes some places of `out`. Returns the numbers of the samples that were read, and what happened.
        """
        if not self._rows:
            found, _, notes = read(np.arange(len(samples)))
            return found, notes
        at = self.plan.places(samples)
        used = self._numbers[at] - 1
        kept = used >= 0
        for name, rows in self._rows.items():
            out[name][kept] = rows[at[kept]]
        missing = np.flatnonzero(~kept)
        if not len(missing):
            return used, []
        found, passing, notes = read(missing)
        used[missing] = found[missing]
        lasting = missing[~passing[missing]]  # what a later epoch may read is not kept
        for name, rows in self._rows.items():
            rows[at[lasting]] = out[name][lasting]
        self._numbers[at[lasting]] = used[lasting] + 1  # last: others look here for what they may use
        return used, notes

    @property
    def is_full(self) -> bool:
        """Say whether every sample is kept."""
        return bool(self._selected) or bool(self._numbers.all())

    def looks_every(self, batch: int) -> int:
        """Return after how many steps of a batch it is worth to ask whether it is full."""
        return max(1, self.plan.count // batch // _LOOKS)

    def settle(self, index: Index, config: Config, slots: range, device: torch.device) -> str:
        """Bring what these slots read to where batches are selected from; all samples are kept.

        Returns in words where that is; "" where it was done before.
        """
        own = read_by(config, len(index), slots)
        begin = int(self.plan.places(np.array([own.start]))[0])
        if self._selected:
            assert own.start == self._first, "a cache settles for one rank's slots"
            return ""
        part = slice(begin, begin + len(own))
        if config.data.labels:
            self.labels = index.label[self._numbers[part] - 1].astype(np.int64)
        self._first = own.start
        self._selected = {name: torch.from_numpy(each[part]) for name, each in self._rows.items()}
        words = "data.resident: all samples are in memory, workers have ended"
        if self.plan.where == "device" and device.type == "cuda":
            needed, free = sum(each.nbytes for each in self._selected.values()), torch.cuda.mem_get_info(device)[0]
            if needed > self.plan.spare * free:
                return f"{words}; not on the GPU, where {units.size(free)} are free beside the training"
            with contextlib.suppress(torch.OutOfMemoryError):
                self._selected = {name: each.to(device) for name, each in self._selected.items()}
                self._rows, self._numbers = {}, self._numbers[:0].copy()
                self._close()
                words += ", pixels are on the GPU"
        return words

    def batches(self, index: Index, config: Config, start: int, slots: range, sender: Sender) -> Iterator[list[Batch]]:
        """Yield what `loader.micro_batches` yields, of samples that are all kept and settled, without workers."""
        batch, offsets = config.training.batch, np.arange(slots.start, slots.stop)
        for images, places in self._blocks(config, len(index), start, offsets):
            labels = flips = None
            if self.labels is not None:
                labels = sender.send_values(self.labels[places])
            if config.data.flip:
                positions = images + np.arange(len(places))[:, None] * batch + offsets
                flips = sender.send_values(batches.mirrored(config.run.seed, positions))
            on_device = next(iter(self._selected.values())).device.type != "cpu"
            chosen = sender.send_values(places) if on_device else torch.from_numpy(places)
            for number, each in enumerate(chosen):
                yield batches.micro_batches(
                    self._select(each, sender),
                    None if labels is None else labels[number],
                    {} if flips is None else dict.fromkeys(self._selected, flips[number]),
                    images + number * batch + slots.start,
                    config,
                )

    def _blocks(self, config: Config, total: int, start: int, offsets: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the position of some steps, and the places of what they read: (steps, slots) int64."""
        batch, end = config.training.batch, config.training.whole_images
        many = max(1, _ROWS_AT_ONCE // len(offsets))
        for images in range(start, end, many * batch):
            steps = min(many, (end - images) // batch)
            numbers = order.samples_of_steps(
                config.run.seed,
                total,
                batch,
                config.data.streams,
                images,
                steps,
                offsets,
                blocks=order.blocks_of(config),
            )
            yield images, numbers - self._first

    def _select(self, places: Tensor, sender: Sender) -> dict[str, Tensor]:
        """Return the pixels (N, H, W, C) uint8 at some places (N,) on the device; `places` are where the pixels are."""
        found = {}
        for name, rows in self._selected.items():
            if rows.device.type == "cpu":
                buffer = sender.buffer((len(places), *rows.shape[1:]), rows.dtype)
                found[name] = sender.send(torch.index_select(rows, 0, places, out=buffer))
            else:
                found[name] = rows.index_select(0, places)
        return found
