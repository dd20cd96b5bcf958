"""Compare the data set with what config, game and machine ask of it, before anything is allocated; one line for each fault."""

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from gan_dist import units
from gan_dist.config import Config
from gan_dist.config.data_field import DataField
from gan_dist.data.index import Index
from gan_dist.errors import InputError
from gan_dist.interfaces import Field

_AT_ONCE = 1 << 20  # samples
_SHARED_MEMORY = Path("/dev/shm")


def check(index: Index, config: Config) -> None:
    """Raise InputError, naming a sample, where the data cannot serve the config."""
    if not index.apart:
        _check(index, config, "data.shards")
        return
    for name, field in index.images.items():
        _check(dataclasses.replace(field, fields={name: field}), config, f"data.shards.{name}")


def _check(index: Index, config: Config, key: str) -> None:
    data, total = config.data, len(index)
    if total == 0:
        what = "an image" if index.image == "auto" else f"a member .{index.image}"
        raise InputError(
            f"{key}: no sample of {units.count(len(index.shards), 'shard')} has {what}; see `gan-dist index`"
        )
    _check_keys(index)
    bad = unreadable(index)
    if len(bad) > data.max_bad_fraction * total:
        first = next(field.bad[0] for field in index.images.values() if field.bad)
        raise InputError(
            f"{key}: {len(bad)} of {total} images cannot be read, first {first}; `gan-dist index` "
            f"lists them, `gan-dist pack` leaves them out (data.max_bad_fraction = {data.max_bad_fraction:g})"
        )
    for name, field in index.images.items():
        where = f"data.fields.{name}.channels" if name in data.fields else "data.channels"
        size = data.size_of(name)
        _check_images(field, None if name in label_maps(config) else channels(config, name), where, size)
    _check_sizes(index, {name: data.scale_of(name) for name in index.images})
    if total < config.training.batch:
        raise InputError(
            f"training.batch = {config.training.batch} is more than the {total} samples of {key}; make it smaller"
        )
    if data.labels:
        _check_labels(index, config)


def channels(config: Config, name: str) -> int:
    """Return the channels of an image field as it is stored and decoded: of a label map one, the classes."""
    return 1 if name in label_maps(config) else config.data.seen(name)


def label_maps(config: Config) -> dict[str, DataField]:
    """Return the fields that are label maps."""
    return {name: field for name, field in config.data.fields.items() if field.classes}


def unreadable(index: Index) -> np.ndarray:
    """Return the numbers of the samples of which the index could not read some image."""
    assert not index.apart, "sets without pairs have numbers of their own"
    fields = list(index.images.values())
    found = []
    for part in _parts(index):
        bad = np.zeros(part.stop - part.start, bool)
        for field in fields:
            bad |= field.width[part] == 0
        found.append(part.start + np.flatnonzero(bad))
    return np.concatenate([np.empty(0, np.int64), *found])


def _parts(index: Index) -> Iterator[slice]:
    """Yield all samples in parts: what is computed of all at once would take more memory than the index itself."""
    for start in range(0, len(index), _AT_ONCE):
        yield slice(start, min(start + _AT_ONCE, len(index)))


def _least(index: Index, values: Callable[[slice], np.ndarray]) -> tuple[int, float]:
    """Return the first sample that has the least value, and that value."""
    found: list[tuple[float, int]] = [
        (float(part_values.min()), part.start + int(part_values.argmin()))
        for part in _parts(index)
        for part_values in [values(part)]
    ]
    value, sample = min(found)
    return sample, value


def _check_keys(index: Index) -> None:
    (first_name, first), *others = index.images.items()
    for name, other in others:
        for shard, path in enumerate(index.shards):
            if first.key_digests[shard] == other.key_digests[shard]:
                continue
            keys, other_keys = first.keys(shard), other.keys(shard)
            for has, lacks, lacking in ((keys, set(other_keys), name), (other_keys, set(keys), first_name)):
                if key := next((key for key in has if key not in lacks), None):
                    member = index.images[lacking].image
                    raise InputError(
                        f"data.fields: sample {key} of {path} has no member .{member} ({lacking}); every sample needs all "
                        "fields: add the member or remove the sample"
                    )


def _check_sizes(index: Index, scales: Mapping[str, int]) -> None:
    """`scales` say how many times smaller the sides of each field are than data.resolution."""
    (first_name, first), *others = index.images.items()
    for name, other in others:
        one, another = scales[first_name], scales[name]

        def alike(part: slice, other: Index = other, one: int = one, another: int = another) -> np.ndarray:
            same: np.ndarray = first.width[part] * one == other.width[part] * another
            same &= first.height[part] * one == other.height[part] * another
            same |= (first.width[part] == 0) | (other.width[part] == 0)  # others stand in for the unreadable
            return same

        sample, all_alike = _least(first, alike)
        if not all_alike:
            sizes = [
                f"{called} is {field.width[sample]}x{field.height[sample]}"
                for called, field in ((first_name, first), (name, other))
            ]
            if one != another:
                large, small = (first_name, name) if one < another else (name, first_name)
                raise InputError(
                    f"data.fields: {index.key(sample)} is a pair whose sizes do not fit: {', '.join(sizes)}; {large} must be "
                    f"{max(one, another) // min(one, another)} times as large as {small}, pixel for pixel: correct "
                    f"data.fields.{small}.scale, or the images"
                )
            raise InputError(
                f"data.fields: {index.key(sample)} is a pair of different sizes: {', '.join(sizes)}; all fields of a sample are "
                "cropped alike, so give them one size (`gan-dist pack --resolution`), or a data.fields.NAME.scale"
            )


def _check_images(index: Index, channels: int | None, key: str, size: tuple[int, int]) -> None:
    for kind, sample in index.channels.items():
        if channels is not None and kind != str(channels):
            found = {"1": "is grey", "3": "is RGB", "4": "has transparency or four colours (CMYK)"}[kind]
            advice = f"set {key}: {kind}, or " if len(index.channels) == 1 else ""
            raise InputError(
                f"data.shards: {sample} {found}, but {key} = {channels}; "
                f"{advice}convert with `gan-dist pack --channels {channels}`"
            )

    def scales(part: slice) -> np.ndarray:
        scale = np.minimum(index.height[part] / size[0], index.width[part] / size[1])
        usable: np.ndarray = np.where(index.width[part] > 0, scale, np.inf)
        return usable

    smallest, scale = _least(index, scales)
    width, height = int(index.width[smallest]), int(index.height[smallest])
    if scale < 1:
        asked = units.pixels(size)
        less = units.pixels((int(size[0] * scale), int(size[1] * scale)))
        raise InputError(
            f"data.shards: {index.key(smallest)} is {width}x{height}, smaller than data.resolution = {asked}; "
            f"set data.resolution: {less} or less, or enlarge with `gan-dist pack --resolution {asked}`"
        )


def _check_labels(index: Index, config: Config) -> None:
    classes = config.data.classes
    # others stand in for the unreadable
    without, _ = _least(index, lambda part: np.where(index.width[part] > 0, index.label[part], 1 << 30))
    if index.label[without] < 0:
        raise InputError(
            f"data.labels is set, but {index.key(without)} has no label (.cls, or `label` in .json); "
            "add them or set data.labels: false"
        )
    if classes and index.label.max() >= classes:
        worst = int(index.label.argmax())
        raise InputError(
            f"data.classes = {classes}, but {index.key(worst)} has label {index.label[worst]}; "
            f"set data.classes: {index.label.max() + 1} or more"
        )


def check_fields(config: Config, wanted: Mapping[str, Field]) -> None:
    """Raise InputError where the data and the game differ in a field: its name, kind, channels or size."""
    data, game = config.data, config.game.kind
    if data.drawn:
        if wanted:
            raise InputError(
                f"the game {game} wants {', '.join(wanted)}, and has no data: take NoData out of its parts"
            )
        return
    images = {name: field for name, field in wanted.items() if field.kind in ("image", "labels")}
    have = list(data.images)
    if missing := [name for name in images if name not in have]:
        raise InputError(
            f"the game {game} wants the images {', '.join(images)}, and data.fields has no {missing[0]}; name the member "
            f"that holds it: data.fields: {{{missing[0]}: {{member: ENDING}}}}"
        )
    if unused := [name for name in have if name not in images]:
        raise InputError(
            f"data.fields names {unused[0]}, which the game {game} does not want ({', '.join(wanted)}); remove it"
        )
    for name, field in images.items():
        if (field.kind == "labels") != (name in label_maps(config)):
            what, key = ("a label map", "add") if field.kind == "labels" else ("an image", "remove")
            raise InputError(f"the game {game} wants {name} to be {what}; {key} data.fields.{name}.classes")
        if field.channels not in (0, data.seen(name)):
            raise InputError(
                f"the game {game} wants {name} with {field.channels} channels, the data has {data.seen(name)}"
            )
        if field.size not in ((0, 0), data.size_of(name)):
            raise InputError(
                f"the game {game} wants {name} at {units.pixels(field.size)} pixels, data.resolution = {data.resolution}"
            )
    classes = [name for name, field in wanted.items() if field.kind == "class"]
    if classes not in ([], ["class"]):
        raise InputError(f"the game {game} wants the classes {', '.join(classes)}; the data has one, called class")
    if classes and not data.labels:
        raise InputError(f"the game {game} wants classes; set data.labels: true")
    if data.labels and not classes:
        raise InputError(f"data.labels is set, and the game {game} takes no classes; set data.labels: false")


def check_shared_memory(needed: int) -> None:
    """Raise InputError where the free space of /dev/shm is less than this node's ranks need, `needed` bytes each."""
    if not needed or not _SHARED_MEMORY.is_dir():
        return
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    free = shutil.disk_usage(_SHARED_MEMORY).free
    if free < needed * ranks:
        raise InputError(
            f"{_SHARED_MEMORY} has {free >> 20:,} MiB free, the data loader needs {-(-needed * ranks >> 20):,} MiB ({ranks} "
            "rank(s)); give the container more (--shm-size), or set data.workers lower, 0 for none, or a smaller "
            "training.micro_batch"
        )
