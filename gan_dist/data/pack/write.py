"""Write one shard from its items in a worker process: read and convert the images. A shard is whole or absent."""

import contextlib
import dataclasses
import errno
import functools
import os
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import webdataset
from PIL import Image

from gan_dist import files
from gan_dist.data import workers
from gan_dist.data.pack import convert_maps, likeness
from gan_dist.data.pack.convert import DIM, Converted, convert, prepare
from gan_dist.data.pack.items import Item
from gan_dist.data.pack.sources import read
from gan_dist.errors import InputError

_WORTH_A_POOL = 20_000, 128 << 20  # images, bytes: a process takes 2 s to start, mostly for torch; see `run`
_MOST_PIXELS = 1 << 28  # of one image: damaged headers ask for terabytes, and the kernel ends the process
_T = TypeVar("_T")


def run(
    work: Callable[[tuple[str, list[tuple[int, Item]]]], int],
    jobs: Sequence[tuple[str, list[tuple[int, Item]]]],
    processes: int,
) -> Iterator[int]:
    """Run the jobs, and yield how many images each has dealt with.

    On two busy cores two processes were slower than one for 10,000 CIFAR images, and even for MNIST's 60,000.
    """
    items = [item for _, shard in jobs for _, item in shard]
    small = len(items) < _WORTH_A_POOL[0] and sum(item.size for item in items) < _WORTH_A_POOL[1]
    if processes == 1 or len(jobs) <= 1 or small:
        yield from map(work, jobs)
        return
    # spawn: the loader of a training wants a fork server of its own, with other modules loaded
    context = workers.context("spawn")
    with ProcessPoolExecutor(min(processes, len(jobs)), context, initializer=workers.end_with_parent) as pool:
        try:
            for future in as_completed([pool.submit(work, job) for job in jobs]):
                yield future.result()
        except BrokenProcessPool:
            raise InputError(
                "a packing process was killed, for memory most likely; start again with fewer --processes, "
                "whole shards are kept"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def pack_shard(
    job: tuple[str, list[tuple[int, Item]]],
    destination: Path,
    size: tuple[int, int] | None,
    channels: int,
    quality: int,
    compared: bool,
) -> int:
    """Write one shard and, beside it, what happened to its images; the shard's name appears when it is whole.

    `compared`: beside it are the signatures of its images too, by which near-duplicates are found.
    """
    name, items = job
    thumbnails: dict[int, bytes] = {}
    part = files.temporary(destination / name)
    facts: dict[str, Any] = {"images": 0, "kept": 0, "enlarged": 0, "skipped": [], "dim": []}
    try:
        with part.open("wb") as file, pixel_limit():
            # nothing of this machine or hour in it, so that the same source gives the same bytes
            with webdataset.TarWriter(file, user="0", group="0", mode=0o644, mtime=0, encoder=False) as shard:
                for place, item in items:
                    try:
                        members = _converted(item, size, channels, quality, compared)
                    except Unusable as error:
                        facts["skipped"].append((item.name, str(error)))
                        continue
                    sample: dict[str, Any] = {"__key__": f"{place:08d}"}
                    sample |= {name: converted.content for name, converted in members.items()}
                    if item.label is not None:
                        sample["cls"] = str(item.label).encode()
                    shard.write(sample)
                    if compared:
                        thumbnails[place] = next(iter(members.values())).thumbnail
                    facts["images"] += 1
                    facts["kept"] += all(converted.kept for converted in members.values())
                    facts["enlarged"] += any(converted.enlarged for converted in members.values())
                    peaks = [converted.peak for converted in members.values() if converted.peak is not None]
                    if peaks and min(peaks) < DIM:
                        facts["dim"].append((item.name, min(peaks)))
            file.flush()
            os.fsync(file.fileno())
        facts["bytes"] = part.stat().st_size
        if compared:
            likeness.save(destination / f".{name}.npy", thumbnails)
        files.write_json(destination / f".{name}.json", facts)
        part.replace(destination / f"{name}.tar")
        files.sync_directory(destination)
    except OSError as error:
        raise InputError(
            f"{destination} cannot be written ({error.strerror}); make room there and start again, whole shards are kept"
        ) from None
    finally:
        part.unlink(missing_ok=True)
    return len(items)


def compare_items(
    job: tuple[str, list[tuple[int, Item]]], destination: Path, size: tuple[int, int] | None, channels: int
) -> int:
    """Write the signatures of the images that a shard is to have, and not the shard."""
    name, items = job

    def thumbnail(content: bytes | np.ndarray) -> bytes:
        return likeness.thumbnail(prepare(content, size, channels).image)

    thumbnails = {}
    with pixel_limit():
        for place, item in items:
            with contextlib.suppress(Unusable):  # packing will say what is wrong with it
                thumbnails[place] = use(item, thumbnail)
    try:
        likeness.save(destination / f".{name}.npy", thumbnails)
    except OSError as error:
        raise InputError(f"{destination} cannot be written ({error.strerror}); make room there") from None
    return len(items)


def _converted(
    item: Item, size: tuple[int, int] | None, channels: int, quality: int, compared: bool
) -> dict[str, Converted]:
    """Return the images of a sample by their endings. Raises Unusable."""
    if not item.members:
        work_alone = functools.partial(convert, size=size, channels=channels, quality=quality, compared=compared)
        converted = use(item, work_alone)
        return {converted.extension: converted}
    found = {}
    for member in item.members:
        work: Callable[[bytes | np.ndarray], Converted]
        if member.role == "labels":
            work = functools.partial(convert_maps.labels, size=size)
        elif member.role == "edges":
            work = functools.partial(convert_maps.edges, size=size, quality=quality)
        else:
            work = functools.partial(
                convert, size=size, channels=member.channels, quality=quality, lossless=member.lossless
            )
        try:
            converted = use(dataclasses.replace(item, place=member.place), work)
        except Unusable as error:
            raise Unusable(f"{member.field}: {error}") from error
        if (converted.extension != "png" and member.lossless) or (converted.extension == "png" and not member.lossless):
            raise Unusable(f"{member.field}: no JPEG, though its name ends like one")
        found[f"{member.field}.{converted.extension}"] = converted
    return found


class Unusable(Exception):
    """An image that is left out; the message says why."""


def use(item: Item, work: Callable[[bytes | np.ndarray], _T]) -> _T:
    """Apply `work` to what an item holds.

    Raises Unusable for what is no whole image, and InputError where the source itself fails.
    """
    try:
        content = read(item.place)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: a zip with a password
        raise Unusable(_reason(error)) from error
    except OSError as error:
        if error.errno in (None, errno.EACCES, errno.EPERM):
            raise Unusable(_reason(error)) from error
        raise InputError(
            f"{item.name} of the source cannot be read any more ({error.strerror}); "
            "put it back and start again, whole shards are kept"
        ) from None
    try:
        return work(content)
    except Exception as error:  # Pillow's decoders raise anything on damaged files, no class covers it
        raise Unusable(_reason(error)) from error


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return "not an image" if text.startswith("cannot identify image file") else text


@contextlib.contextmanager
def pixel_limit() -> Iterator[None]:
    """Set the same limit in every process: Pillow's is global, and data/index.py lifts it to read headers."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = _MOST_PIXELS // 2  # Pillow warns from there, and refuses from the double
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before
