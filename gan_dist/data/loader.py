"""Turn the data set into this rank's micro-batches on its device, in the order of the run."""

import contextlib
import dataclasses
import functools
import hashlib
import math
import sys
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from gan_dist import degrade
from gan_dist.config import Config
from gan_dist.data import (
    batches,
    cached,
    checks,
    fetching,
    geometry,
    index as index_module,
    label_maps,
    order,
    resident,
    shards,
    workers,
)
from gan_dist.data.decode import Note, read_or_substitute
from gan_dist.data.fetching import Item, Waiting
from gan_dist.data.index import Index
from gan_dist.data.picked import decoders, load, shown
from gan_dist.data.stores import StoreError
from gan_dist.data.transfer import SLACK, Sender, Turns
from gan_dist.errors import InputError
from gan_dist.interfaces import Batch, Field

__all__ = ["ahead", "load", "micro_batches", "open_index", "prepare", "shown"]

_PREFETCH = 2  # groups a worker keeps ready
_GROUP = 256  # images of a group at most: what crosses from a worker at a time
_GROUP_BYTES = 8 << 20  # of a group at most, where a micro-batch is not larger: /dev/shm of a container has 64 MiB

_WAITING = Waiting()


def prepare(config: Config, progress: bool = True) -> None:
    """Pack `data.source` where no shards are, fetch remote shards, and index what has no index.

    For one rank of a node: the others wait, then call `open_index`.
    """
    data = config.data
    if data.drawn:
        return
    if data.source:
        from gan_dist.data.pack import packing

        if not isinstance(data.shards, str):
            raise InputError("data.source needs one folder as data.shards")
        if not packing.is_packed(Path(data.shards)):
            if progress:
                print(f"packing {data.source} (data.source) into {data.shards}", file=sys.stderr, flush=True)
            packing.pack(
                data.source,
                Path(data.shards),
                # parts are cut out of whole images
                resolution=data.resolution if data.crop == "centre" else data.load_size or None,
                channels=data.channels,
                progress=progress,
            )
    cache = config.cache
    for set_name, named in data.sets.items():
        local = shards.fetch(shards.expand(named, data.allow_pipe), cache, data.remote == "copy")
        members = data.members(set_name)
        for member in members.values():
            index_module.build(local, cache, member, progress, renew=False)
        fields = {name: field for name, field in data.fields.items() if name in members}
        label_maps.check(local, fields, cache)


def open_index(config: Config, wanted: Mapping[str, Field] | None = None, prepared: bool = False) -> Index:
    """Return the data set's index, checked against the config, this node, and what the game wants of each sample.

    `prepared`: another process of this machine has done so since this start began (`index.load`).
    Raises InputError, naming a sample or a field, where the data cannot serve them.
    """
    if wanted is not None:
        checks.check_fields(config, wanted)
    if config.data.drawn:
        return index_module.nothing()
    cache = config.cache
    fields: dict[str, Index] = {}
    for set_name, named in config.data.sets.items():
        local = shards.places(shards.expand(named, config.data.allow_pipe), cache, config.data.remote == "copy")
        members = config.data.members(set_name)
        fields |= {name: index_module.load(local, cache, member, prepared) for name, member in members.items()}
    first = next(iter(fields.values()))
    index = dataclasses.replace(first, fields=fields, apart=isinstance(config.data.shards, dict))
    if config.data.fields or index.apart:
        text = "".join(f"{name}\0{field.digest}\n" for name, field in fields.items())
        index = dataclasses.replace(index, digest=hashlib.sha256(text.encode()).hexdigest(), old_digest="")
    checks.check(index, config)
    cached.check(index, config)
    checks.check_shared_memory(_ring_bytes(config) if config.data.workers else 0)
    return index


class _Groups(Dataset[list[Item]]):
    """Item k: micro-batches number k * size, ... of this rank, counted from position `start` of the run.

    Worker processes write pixels into `rings`, shared memory made once for each image field, at row number % rows, and
    labels and mirror bits likewise: handing each batch over as a new shared tensor would cost them more than a third of
    their images/s. Small micro-batches go several in a group, as an item costs the same whatever is in it.
    """

    def __init__(
        self, index: Index, config: Config, start: int, slots: range, cache: resident.Cache | None = None
    ) -> None:
        data, training = config.data, config.training
        self.decoders = decoders(index, config, fetching.AT_ONCE)
        self.blocks_kept = {} if cache is not None else cached.of_sets(index, config, slots)
        for kept in self.blocks_kept.values():
            kept.serve(self.decoders)
        self.cache, self.crops = cache, data.crop == "random"
        self.seed, self.streams, self.blocks = config.run.seed, data.streams, order.blocks_of(config)
        self.batch, self.micro_batch = training.batch, training.micro_batch
        self.start, self.firsts = start, slots[:: training.micro_batch]
        steps = -(-max(0, training.whole_images - start) // training.batch)
        self.total = steps * len(self.firsts)
        self.size = _group(config)
        self.rows = _ring_rows(config)
        shape = (self.rows, self.micro_batch)
        self.rings = {
            name: torch.empty((*shape, *data.size_of(name), checks.channels(config, name)), dtype=torch.uint8)
            for name in data.images
        }
        self.degrade = degrade.pipeline(config)
        self.labels = torch.empty(shape, dtype=torch.int64) if data.labels else None
        self.sets = {name: tuple(data.members(name)) for name in data.sets}
        """The fields of each set that are read."""
        self.alike = {name: (*read, *(("input",) if self.degrade else ())) for name, read in self.sets.items()}
        self.mirrored = {name: torch.empty(shape, dtype=torch.bool) for name in self.sets if data.flip}
        of_sets = {name: {field: self.decoders[field] for field in fields} for name, fields in self.sets.items()}
        far = index.is_remote and cache is None
        self.ahead = fetching.Ahead(of_sets, self._samples, len(self)) if far else None
        if data.workers:
            for ring in self.buffers:
                ring.share_memory_()  # type: ignore[no-untyped-call]

    @property
    def buffers(self) -> list[torch.Tensor]:
        return [*self.rings.values(), *self.mirrored.values(), *([] if self.labels is None else [self.labels])]

    def __len__(self) -> int:
        return -(-self.total // self.size)

    def __getitem__(self, group: int) -> list[Item]:
        problem = None if self.ahead is None else self.ahead.hold(group)
        return [problem or self.make(number) for number in self.numbers(group)]

    def _samples(self, name: str, group: int) -> np.ndarray:
        """Return the samples of a set that a group reads."""
        slots = [self._slots(number) for number in self.numbers(group)]
        if kept := self.blocks_kept.get(name):
            kept.at(slots[0][0])
        return np.concatenate([self._of(name, *each) for each in slots])

    def _of(self, name: str, images: int, slots: np.ndarray) -> np.ndarray:
        """Return the samples of a set at some slots of the batch that begins at `images`."""
        total = len(self.decoders[self.sets[name][0]].index)
        return order.samples(self.seed, total, self.batch, self.streams, images, slots, name, self.blocks)

    def _slots(self, number: int) -> tuple[int, np.ndarray]:
        """Return the position of a micro-batch's batch, and its slots there."""
        first = self.firsts[number % len(self.firsts)]
        return self.position(number) - first, np.arange(first, first + self.micro_batch)

    def all(self) -> Iterator[int]:
        """Yield the number of each group. What this process does for a cache ends with it."""
        try:
            yield from range(len(self))
        finally:
            for kept in self.blocks_kept.values():
                kept.close()

    def numbers(self, group: int) -> range:
        """Return the micro-batches of a group."""
        return range(group * self.size, min((group + 1) * self.size, self.total))

    def position(self, number: int) -> int:
        """Return the position in the run of a micro-batch's first image."""
        step, place = divmod(number, len(self.firsts))
        return self.start + step * self.batch + self.firsts[place]

    def make(self, number: int) -> Item:
        """Write a micro-batch into its row of the rings."""
        notes: list[Note] = []
        try:
            for name in self.sets:
                notes += self._read(name, *self._slots(number), number % self.rows)
        except StoreError as error:
            return fetching.outcome(error)
        except InputError as error:  # raised again in the training process, where it is one line
            return {"error": str(error)}
        return {"notes": notes}

    def _read(self, name: str, images: int, slots: np.ndarray, row: int) -> list[Note]:
        """Write samples of a set into a row of the rings: those of some slots of the batch that begins at `images`."""
        kept = self.blocks_kept.get(name)
        if kept and self.ahead is None:
            kept.at(images)
        fields = self.sets[name]
        decoders = {field: self.decoders[field] for field in fields}
        index = decoders[fields[0]].index
        samples = self._of(name, images, slots)
        substitute = functools.partial(order.substitute, self.seed, len(index))
        out = {field: self.rings[field][row].numpy() for field in fields}
        places = geometry.places(self.seed, images + int(slots[0]), self.micro_batch, name) if self.crops else None
        read = functools.partial(read_or_substitute, decoders, samples, out, substitute, places)
        if self.cache is not None:
            samples, notes = self.cache.read(samples, out, lambda missing: read(only=missing))
        else:
            samples, _, notes = read()
        if self.degrade is not None:
            for slot, clean, made in zip(slots, out["target"], self.rings["input"][row].numpy(), strict=True):
                made[:] = self.degrade(clean, images + int(slot))
        if self.labels is not None:
            self.labels[row] = torch.from_numpy(index.label[samples].astype(np.int64))
        if name in self.mirrored:
            self.mirrored[name][row] = torch.from_numpy(batches.mirrored(self.seed, images + slots, name))
        return [*notes, *kept.notes()] if kept else notes


def _group(config: Config) -> int:
    """Return the number of micro-batches in a group."""
    count = config.training.micro_batch
    return max(1, min(_GROUP // count, _GROUP_BYTES // (count * _sample_bytes(config))))


def _sample_bytes(config: Config) -> int:
    return sum(math.prod(config.data.size_of(name)) * checks.channels(config, name) for name in config.data.images)


def _ring_rows(config: Config) -> int:
    # the loader asks for `workers * _PREFETCH` groups beyond the one that is being taken, so no row is written while read;
    # of `_slack` groups before that one a GPU may still be reading (transfer.Turns)
    return (config.data.workers * _PREFETCH + 1 + _slack(config)) * _group(config)


def _slack(config: Config) -> int:
    return SLACK if config.training.device != "cpu" and torch.cuda.is_available() else 0


def _ring_bytes(config: Config) -> int:
    return _ring_rows(config) * config.training.micro_batch * _sample_bytes(config)


def ahead(config: Config) -> int:
    """Return how many micro-batches are decoded before they are asked for, at most: time a loader after these."""
    return _ring_rows(config)


def micro_batches(
    index: Index,
    config: Config,
    start: int,
    slots: range,
    device: torch.device,
    note: Callable[[Note], None] = lambda note: None,
    cache: resident.Cache | None = None,
    say: Callable[[str], None] = lambda text: None,
    waiting: Waiting = _WAITING,
) -> Iterator[list[Batch]]:
    """Yield this rank's share of every step from position `start` on: a list of micro-batches a step.

    A batch has every image field of the index, and "class" with data.labels. `slots` are the places of the global batch
    that this rank serves. `note` is told of samples that others stand in for, and of slow shards. Samples are decoded
    once where there is a `cache` for them, and `say` is told what is kept where. The workers end with the iterator, or when
    the cache is full. Where the game draws its own samples, batches have positions only. Raises OutageError where a server
    does not answer for as long as `waiting` says.
    """
    if config.data.drawn:
        yield from _positions(config, start, slots, device)
        return
    sender = Sender(device)
    try:
        if cache is None:
            if config.data.resident != "no":
                say(resident.absence(config, index, slots))
            yield from _decoded(index, config, start, slots, sender, note, waiting)
            return
        if not cache.is_full:
            say(cache.plan.words)
            every = cache.looks_every(config.training.batch)
            with contextlib.closing(_decoded(index, config, start, slots, sender, note, waiting, cache)) as decoded:
                for number, step in enumerate(decoded, 1):
                    yield step
                    start += config.training.batch
                    if number % every == 0 and cache.is_full:
                        break
            sender.close()  # nobody reads the ring any more
        if start < config.training.whole_images:
            if words := cache.settle(index, config, slots, device):
                say(words)
            yield from cache.batches(index, config, start, slots, sender)
    finally:
        sender.close()


def _decoded(
    index: Index,
    config: Config,
    start: int,
    slots: range,
    sender: Sender,
    note: Callable[[Note], None],
    waiting: Waiting,
    cache: resident.Cache | None = None,
) -> Generator[list[Batch], None, None]:
    count = config.data.workers
    dataset = _Groups(index, config, start, slots, cache)
    context = None
    if count:  # not fork: a fork of a process that runs threads (OpenMP, CUDA, W&B) may hang
        context = workers.context("forkserver")
        context.set_forkserver_preload(["torch", "cv2", "gan_dist.data.loader"])  # imported once for all workers
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores is the user's choice
        loader = DataLoader(
            dataset,
            batch_size=None,
            sampler=range(len(dataset)),
            num_workers=count,
            prefetch_factor=_PREFETCH if count else None,
            timeout=fetching.LOOK if count and dataset.ahead is not None else 0,
            collate_fn=_as_it_is,
            multiprocessing_context=context,
            worker_init_fn=workers.end_with_parent,
        )
        groups = fetching.awaited(iter(loader), waiting)
    for ring in dataset.buffers:
        sender.pin(ring)
    turns, each_step = Turns(sender.mark, _slack(config)), len(dataset.firsts)
    step: list[Batch] = []
    for number in dataset.all():
        turns.await_next()
        items = next(groups)
        micros = dataset.numbers(number)
        items = fetching.patiently(items, lambda place, micros=micros: dataset.make(micros[place]), waiting)  # type: ignore[misc]
        if errors := [item["error"] for item in items if "error" in item]:
            raise InputError(errors[0])
        rows = slice(micros.start % dataset.rows, micros.start % dataset.rows + len(micros))
        # the whole group in one copy for each field, from where the workers wrote it
        pixels = {name: sender.send(ring[rows]) for name, ring in dataset.rings.items()}
        labels = None if dataset.labels is None else sender.send(dataset.labels[rows], copy=True)
        flips = {name: sender.send(ring[rows]) for name, ring in dataset.mirrored.items()}
        turns.sent()
        done = 0
        while done < len(micros):
            part = slice(done, min(done + each_step - len(step), len(micros)))
            for each in (each for item in items[part] for each in item["notes"]):
                note(each)
            step += batches.micro_batches(
                {name: each[part].flatten(0, 1) for name, each in pixels.items()},
                None if labels is None else labels[part].flatten(),
                {field: each[part].flatten() for name, each in flips.items() for field in dataset.alike[name]},
                dataset.position(micros[done]),
                config,
            )
            done = part.stop
            if len(step) == each_step:
                yield step
                step = []


def _positions(config: Config, start: int, slots: range, device: torch.device) -> Iterator[list[Batch]]:
    """Yield micro-batches as `micro_batches` does, with no fields."""
    training = config.training
    for images in range(start, training.whole_images, training.batch):
        firsts = (images + slot for slot in slots[:: training.micro_batch])
        yield [Batch({}, torch.arange(first, first + training.micro_batch, device=device)) for first in firsts]


def _as_it_is(item: Any) -> Any:
    return item
