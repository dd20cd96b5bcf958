"""From the data set to this process's micro-batches on its device, in the order of the run."""

import functools
import itertools
import multiprocessing
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from gan_dist import rng
from gan_dist.config import Config
from gan_dist.data import index as index_module, order, shards
from gan_dist.data.decode import Decoder, Note
from gan_dist.data.index import Index
from gan_dist.data.workers import end_with_parent
from gan_dist.errors import InputError
from gan_dist.interfaces import Batch

_PREFETCH = 2  # groups a worker keeps ready
_GROUP = 256  # images of a group: what crosses from a worker at a time


def prepare(config: Config, progress: bool = True) -> None:
    """Pack `data.source` where no shards are, fetch remote shards, and index what has no index.

    For one process of a machine: the others wait, then `open_index`.
    """
    data = config.data
    if data.source:
        from gan_dist.data.pack import packing

        if not isinstance(data.shards, str):
            raise InputError("data.source needs one folder as data.shards")
        if not packing.is_packed(Path(data.shards)):
            packing.pack(
                data.source,
                Path(data.shards),
                resolution=data.resolution,
                channels=data.channels,
                progress=progress,
            )
    cache = config.cache
    local = [str(path) for path in shards.fetch(shards.expand(data.shards, data.allow_pipe), cache)]
    index_module.build(local, cache, data.image, progress)


def open_index(config: Config) -> Index:
    """The data set's index, checked against what the config asks of the data.

    Raises InputError, naming a sample, where the data cannot serve the config.
    """
    cache = config.cache
    local = [str(shards.local(shard, cache)) for shard in shards.expand(config.data.shards, config.data.allow_pipe)]
    index = index_module.load(local, cache, config.data.image)
    check(index, config)
    return index


def check(index: Index, config: Config) -> None:
    data, total = config.data, len(index)
    if total == 0:
        what = "an image" if data.image == "auto" else f"a member .{data.image}"
        raise InputError(f"data.shards: no sample of {len(index.shards)} shards has {what}; see `gan-dist index`")
    if len(index.bad) > data.max_bad_fraction * total:
        raise InputError(
            f"data.shards: {len(index.bad)} of {total} images cannot be read, first {index.bad[0]}; `gan-dist index` "
            f"lists them, `gan-dist pack` leaves them out (data.max_bad_fraction = {data.max_bad_fraction:g})"
        )
    good = index.width > 0  # others stand in for the rest
    for kind, sample in index.channels.items():
        if kind != str(data.channels):
            found = {"1": "is grey", "3": "is RGB", "4": "has transparency or four colours (CMYK)"}[kind]
            advice = f"set data.channels: {kind}, or " if len(index.channels) == 1 and kind != "4" else ""
            raise InputError(
                f"data.shards: {sample} {found}, but data.channels = {data.channels}; "
                f"{advice}convert with `gan-dist pack --channels {data.channels}`"
            )
    smallest = int(np.where(good, np.minimum(index.width, index.height), 65535).argmin())
    width, height = int(index.width[smallest]), int(index.height[smallest])
    if min(width, height) < data.resolution:
        raise InputError(
            f"data.shards: {index.key(smallest)} is {width}x{height}, smaller than data.resolution = {data.resolution}; "
            f"set data.resolution: {min(width, height)} or less, or enlarge with `gan-dist pack --resolution {data.resolution}`"
        )
    if total < config.training.batch:
        raise InputError(
            f"training.batch = {config.training.batch} is more than the {total} samples of data.shards; make it smaller"
        )
    if data.labels:
        without = int(np.where(good, index.label, 1 << 30).argmin())
        if index.label[without] < 0:
            raise InputError(
                f"data.labels is set, but {index.key(without)} has no label (.cls, or `label` in .json); "
                "add them or set data.labels: false"
            )
        if data.classes and index.label.max() >= data.classes:
            worst = int(index.label.argmax())
            raise InputError(
                f"data.classes = {data.classes}, but {index.key(worst)} has label {index.label[worst]}; "
                f"set data.classes: {index.label.max() + 1} or more"
            )


class _Groups(Dataset[dict[str, Any]]):
    """Item k: micro-batches number k * size, ... of this process, counted from position `start` of the run.

    Worker processes write pixels into `ring`, shared memory made once, at row number % len(ring): handing each
    batch over as a new shared tensor would cost them more than a third of their images/s. Small micro-batches go
    several in a group, as an item costs the same whatever is in it.
    """

    def __init__(self, index: Index, config: Config, start: int, slots: range, ahead: int) -> None:
        data, training = config.data, config.training
        self.decoder = Decoder(index, data.resolution, data.channels)
        self.labelled = data.labels
        self.seed, self.streams = config.run.seed, data.streams
        self.batch, self.micro_batch = training.batch, training.micro_batch
        self.start, self.firsts = start, slots[:: training.micro_batch]
        steps = -(-max(0, training.whole_images - start) // training.batch)
        self.total = steps * len(self.firsts)
        self.size = _group(config)
        # the loader asks for `ahead` groups beyond the one that is being taken, so no row is written while read
        rows = (ahead + 1) * self.size
        shape = (rows, self.micro_batch, data.resolution, data.resolution, data.channels)
        self.ring = torch.empty(shape, dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return -(-self.total // self.size)

    def __getitem__(self, group: int) -> list[dict[str, Any]]:  # type: ignore[override]
        numbers = range(group * self.size, min((group + 1) * self.size, self.total))
        return [self._micro_batch(number) for number in numbers]

    def _micro_batch(self, number: int) -> dict[str, Any]:
        step, place = divmod(number, len(self.firsts))
        images, slot, total = self.start + step * self.batch, self.firsts[place], len(self.decoder.index)
        slots = np.arange(slot, slot + self.micro_batch)
        samples = order.samples(self.seed, total, self.batch, self.streams, images, slots)
        substitute = functools.partial(order.substitute, self.seed, total)
        row = number % len(self.ring)
        try:
            samples, notes = self.decoder.read_or_substitute(samples, self.ring[row].numpy(), substitute)
        except InputError as error:  # raised again in the training process, where it is one line
            return {"error": str(error)}
        labels = self.decoder.index.label[samples].astype(np.int64) if self.labelled else None
        return {"row": row, "position": images + slot, "labels": labels, "notes": notes}


def _group(config: Config) -> int:
    return max(1, _GROUP // config.training.micro_batch)


def ahead(config: Config) -> int:
    """Micro-batches that are decoded before they are asked for, at most: a timing of the loader begins after these."""
    return (config.data.workers * _PREFETCH + 1) * _group(config)


def micro_batches(
    index: Index,
    config: Config,
    start: int,
    slots: range,
    device: torch.device,
    note: Callable[[Note], None] = lambda note: None,
) -> Iterator[list[Batch]]:
    """This process's share of every step from position `start` on: a list of micro-batches a step.

    `slots` are the places of the global batch that this process serves. `note` is told of samples that others stand
    in for, and of slow shards. The workers end with the iterator.
    """
    workers = config.data.workers
    dataset = _Groups(index, config, start, slots, ahead=workers * _PREFETCH)
    context = None
    if workers:  # not fork: a fork of a process that runs threads (OpenMP, CUDA, W&B) may hang
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch", "cv2", "gan_dist.data.loader"])  # imported once for all workers
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores is the user's choice
        loader = DataLoader(
            dataset,
            batch_size=None,
            sampler=range(len(dataset)),
            num_workers=workers,
            prefetch_factor=_PREFETCH if workers else None,
            collate_fn=_as_it_is,
            multiprocessing_context=context,
            worker_init_fn=end_with_parent,
        )
        groups = iter(loader)
    step: list[Batch] = []
    for item in itertools.chain.from_iterable(groups):
        if "error" in item:
            raise InputError(item["error"])
        for found in item["notes"]:
            note(found)
        step.append(_to_device(item, dataset.ring, config, device))
        if len(step) == len(dataset.firsts):
            yield step
            step = []


def _as_it_is(item: Any) -> Any:
    return item


def _to_device(item: dict[str, Any], ring: torch.Tensor, config: Config, device: torch.device) -> Batch:
    """Copy a row out of the ring, normalised; when this returns the row may be written again."""
    pixels = ring[item["row"]]
    if device.type == "cuda":  # to pinned memory at once, from there to the GPU while this process goes on
        pixels = pixels.pin_memory().to(device, non_blocking=True)
    dtype = torch.float64 if config.training.precision == "fp64" else torch.float32
    # (M, H, W, C) seen as (M, C, H, W) is channels_last already
    images = pixels.permute(0, 3, 1, 2).to(dtype).div_(127.5).sub_(1)
    positions = torch.arange(item["position"], item["position"] + len(pixels), device=device)
    if config.data.flip:
        mirrored = rng.uniform(rng.key(config.run.seed, "flip"), positions, 1) < 0.5
        images = torch.where(mirrored[:, :, None, None], images.flip(-1), images)
    if not config.training.channels_last:
        images = images.contiguous()
    labels = None if item["labels"] is None else torch.from_numpy(item["labels"]).to(device)
    return Batch({"image": images} | ({} if labels is None else {"class": labels}), positions)
