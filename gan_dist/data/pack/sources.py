"""List the images of a source in order; each item can be read on its own, in any process."""

import bz2
import contextlib
import dataclasses
import functools
import gzip
import json
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from webdataset.tariterators import base_plus_ext

from gan_dist import files
from gan_dist.data import labels, tar
from gan_dist.data.index import IMAGE_ENDINGS
from gan_dist.data.pack import arrays, classes as classes_module
from gan_dist.data.pack.items import Item, Source
from gan_dist.errors import InputError

_COMPRESSIONS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_READABLE = (*IMAGE_ENDINGS, "gif", "avif", "jp2", "tga")
NO_IMAGE = "no image by its name"
STACKED = "stacked-mnist"
EDGES = "edges"
_OTHERS = "these are the training images; --split test takes the test images, --split all both"
_LABELS = tuple(f".{ending}" for ending in labels.ENDINGS)
DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile)


def open_source(
    source: str,
    scratch: Path,
    classes: str | None = None,
    *,
    split: str | None = None,
    size: tuple[int, int] | None = None,
    count: int | None = None,
) -> Source:
    """List a folder, zip, tar, folder of shards, MNIST idx folder, CIFAR archive, or scikit-learn's `digits`.

    `stacked-mnist:SOURCE` are `count` triples of MNIST's digits, to become images of `size` (gan_dist/data/pack/stacked.py);
    `edges:SOURCE` are images with their edges (pairs.py).
    `split` "train", "test" or "all": the images of MNIST's idx files and of a CIFAR archive; None: the training images.
    `classes` "none": no labels; "folder": those of the folders; None: those that the source has, otherwise the folders'.
    Compressed tar files are unpacked once into `scratch`, so that many processes can read from their middle.
    Raises InputError where there is no such source, no image in it, or damage to the archive itself.
    """
    for cached in (_zip_file, arrays.idx_images, arrays.cifar_batch):  # of this process's earlier sources
        cached.cache_clear()
    origin, stacks = made_of(source), source.startswith(f"{STACKED}:")
    if count is not None and not stacks:
        raise InputError(f"count {count} has no effect on {source}: it is for {STACKED}; remove it")
    found = _open(origin or source, scratch, classes if classes != "none" or not stacks else None, split)
    if origin and found.items:
        from gan_dist.data.pack import pairs, stacked  # which read images by this module

        found = stacked.triples(found, origin, count, size) if stacks else pairs.edges(found)
    if classes == "none":
        found = Source([dataclasses.replace(item, label=None) for item in found.items], {}, found.skipped)
    if not found.items:
        more = f" ({len(found.skipped)} other files, first {found.skipped[0][0]})" if found.skipped else ""
        raise InputError(f"{source} holds no images{more}; give a folder, zip or tar of {', '.join(_READABLE[:4])} ...")
    return found


def made_of(source: str) -> str:
    """Return SOURCE of `stacked-mnist:SOURCE` and `edges:SOURCE`; empty for another source."""
    kind, _, origin = source.partition(":")
    return os.path.expanduser(origin) if kind in (STACKED, EDGES) else ""


def _open(source: str, scratch: Path, classes: str | None, split: str | None) -> Source:
    found = _listing(source, scratch, classes, split)
    if split is not None and not found.parted:
        raise InputError(
            f"split {split} has no effect on {source}: it has no files of training and test images; remove it"
        )
    return found


def _listing(source: str, scratch: Path, classes: str | None, split: str | None) -> Source:
    path = Path(source)
    try:
        if source == "digits" and not path.exists():
            return _digits()
        if source == STACKED and not path.exists():
            raise InputError(f"{STACKED} is made of MNIST: add --from MNIST, or write {STACKED}:MNIST")
        if source == EDGES and not path.exists():
            raise InputError(f"{EDGES} are those of images: add --from SOURCE, or write {EDGES}:SOURCE")
        if not path.exists():
            raise InputError(f"no such source: {source}; give a folder, a zip, a tar, an idx file or the word digits")
        if path.is_dir():
            packed = sorted(path.glob("*.tar")) if (path / "pack.json").is_file() else []
            return _idx_folder(path, split) or (_shards(packed, classes) if packed else _folder(path, classes))
        if "idx3-ubyte" in path.name:
            return _idx(path)
        with path.open("rb") as file:
            beginning = file.read(6)
        for magic, opener in _COMPRESSIONS.items():
            if beginning.startswith(magic):
                unpacked = _unpack(path, opener, scratch)
                try:
                    return _tar(unpacked, classes, split)
                except InputError as error:
                    raise InputError(str(error).replace(str(unpacked), source)) from None
        if tarfile.is_tarfile(path):  # before zip: a tar may end in a zip
            return _tar(path, classes, split)
        if zipfile.is_zipfile(path):
            return _zip(path, classes)
    except tar.DamagedError as error:
        raise InputError(f"{source} cannot be read: it {error}; fetch it again") from None
    except DAMAGED as error:
        raise InputError(f"{source} cannot be read: {error}; fix its permissions or fetch it again") from None
    if kind := tar.compression(beginning):
        raise InputError(
            f"{source} is compressed by {kind}, which is not read here; unpack it, or take .gz, .bz2 or .xz"
        )
    raise InputError(f"{source} is no folder, zip, tar or idx file")


def read(place: tuple[Any, ...]) -> bytes | np.ndarray:
    """Return the content of an item: an encoded image, or its pixels (H, W) or (H, W, 3) uint8.

    A source with a module of its own names the function that reads its places.
    """
    kind, *where = place
    if kind == "file":
        return Path(where[0]).read_bytes()
    if kind == "zip":
        return _zip_file(where[0]).read(where[1])
    if kind == "range":
        with open(where[0], "rb") as file:
            file.seek(where[1])
            data = file.read(where[2])
        if len(data) != where[2]:
            raise InputError(f"{where[0]} became shorter while it was packed; put it back and start again")
        return data
    pixels: np.ndarray = kind(*where) if callable(kind) else _PIXELS[kind](*where[:-1])[where[-1]]
    return pixels


_PIXELS: dict[str, Callable[..., np.ndarray]] = {
    "idx": arrays.idx_images,
    "cifar": lambda *where: arrays.cifar_batch(*where)[0],
    "digits": lambda: arrays.digits()[0],
}

_Entry = tuple[tuple[Any, ...], int, int]
"""Place, size and stamp of a file of any kind."""


def _listed(entries: Mapping[str, _Entry], skipped: list[tuple[str, str]], classes: str | None) -> Source:
    """Return the images of a tree of files, with the labels of its dataset.json, its labels.csv or its folders (classes.py).

    Hidden files are no part of a source.
    """
    images = []
    for name in sorted(entries):
        if tar.is_hidden(name):
            continue
        if name.rsplit(".", 1)[-1].lower() in _READABLE:
            images.append(name)
        else:
            skipped.append((name, NO_IMAGE))
    labelled = classes_module.Labels([None] * len(images), {}, [])
    own = None
    if classes is None:
        for kind, reads in (("dataset.json", classes_module.of_dataset_json), ("labels.csv", classes_module.of_csv)):
            listing = next((name for name in entries if name.rsplit("/", 1)[-1] == kind), None)
            if own is None and listing is not None:
                own = reads(listing, _bytes(entries[listing][0]), images)
                skipped = [entry for entry in skipped if own is None or entry[0] != listing]
    if own is not None:
        labelled = own
    elif classes != "none":
        labelled = classes_module.of_folders(images)
    items = [Item(name, label, *entries[name]) for name, label in zip(images, labelled.labels, strict=True)]
    return Source(items, labelled.classes, sorted(skipped), labelled.notes)


def _bytes(place: tuple[Any, ...]) -> bytes:
    content = read(place)
    assert isinstance(content, bytes)
    return content


def _folder(path: Path, classes: str | None) -> Source:
    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename} cannot be listed ({error.strerror}); fix its permissions")

    entries: dict[str, _Entry] = {}
    skipped = []
    for folder, below, names in os.walk(path, onerror=refuse, followlinks=True):  # class folders are often links
        below[:] = [name for name in below if not tar.is_hidden(name) and not _leads_up(folder, name)]
        for file in (os.path.join(folder, name) for name in names if not tar.is_hidden(name)):
            name = os.path.relpath(file, path)
            try:
                state = os.stat(file)
            except OSError as error:
                skipped.append((name, error.strerror or str(error)))
                continue
            if stat.S_ISREG(state.st_mode):
                entries[name] = ("file", file), state.st_size, int(state.st_mtime)
            else:
                skipped.append((name, "no regular file"))
    found = _listed(entries, skipped, classes)
    shards = sorted(path.glob("*.tar"))
    return found if found.items or not shards else _shards(shards, classes)


def _shards(paths: list[Path], classes: str | None) -> Source:
    """Return the images of shards, sorted by key: shards that `pack` made give the images in the order of their source."""
    items, skipped, notes = [], [], []
    for path in paths:
        found = _tar(path, classes, None)
        items += [(item.name, dataclasses.replace(item, name=f"{path.name}/{item.name}")) for item in found.items]
        skipped += [(f"{path.name}/{name}", why) for name, why in found.skipped]
        notes += [f"{path.name}: {note}" for note in found.notes]
    listed = [item for _, item in sorted(items, key=lambda pair: pair[0])]
    named = paths[0].with_name("classes.json")
    numbers = _numbers(item.label for item in listed)
    with contextlib.suppress(OSError, ValueError):
        numbers = {str(name): int(number) for name, number in json.loads(named.read_text()).items()}
    return Source(listed, numbers if classes != "none" else {}, skipped, notes)


def _leads_up(folder: str, name: str) -> bool:
    """Say whether a link leads to a folder that it lies in: following it would never end."""
    path = os.path.join(folder, name)
    return os.path.islink(path) and Path(folder).resolve().is_relative_to(Path(path).resolve())


def _zip(path: Path, classes: str | None) -> Source:
    with zipfile.ZipFile(path) as archive:
        members = [entry for entry in archive.infolist() if not entry.is_dir()]
        first = min((entry.header_offset for entry in archive.infolist()), default=0)
    with path.open("rb") as file:
        if first and file.read(4) == b"PK\x03\x04":
            raise InputError(
                f"{path} is several zip files joined, of which only the last can be read; pack them one by one"
            )
    entries: dict[str, _Entry] = {}
    for member in members:
        if member.filename in entries:
            raise InputError(
                f"{path} holds {member.filename} twice, the second time at byte {member.header_offset}; keep one of each"
            )
        entries[member.filename] = ("zip", str(path), member.filename), member.file_size, member.CRC
    return _listed(entries, [], classes)


@functools.lru_cache(maxsize=2)
def _zip_file(path: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def _unpack(path: Path, opener: Callable[..., Any], scratch: Path) -> Path:
    files.make_directory(scratch, "the folder for the unpacked source")
    unpacked = scratch / "source.tar"
    with opener(path, "rb") as compressed, unpacked.open("wb") as copy:
        while block := compressed.read(1 << 20):
            try:
                copy.write(block)
            except OSError as error:
                raise InputError(
                    f"{path.name} does not fit unpacked into {scratch} ({error.strerror}); make room there"
                ) from None
    return unpacked


def _tar(path: Path, classes: str | None, split: str | None) -> Source:
    found, left_out = tar.members(path)
    members = {member.name: member for member in found}
    places = {name: (member.offset, member.size) for name, member in members.items()}
    batches = sorted(name for name in members if PurePosixPath(name).name in arrays.CIFAR_TRAIN)
    about = {PurePosixPath(name).name for name in members} & {"meta", "batches.meta"}
    if batches and (about or PurePosixPath(batches[0]).name != "train"):
        tests = sorted(name for name in members if PurePosixPath(name).name in arrays.CIFAR_TEST)
        return _cifar(str(path), batches, tests, places, split)
    entries: dict[str, _Entry] = {
        name: (("range", str(path), member.offset, member.size), member.size, member.mtime)
        for name, member in members.items()
    }
    skipped = [(name, f"a {why}") for name, why in left_out if not tar.is_hidden(name)]
    source = _listed(entries, skipped, classes)
    if classes is not None:
        return source
    holders = _label_members(members)
    with path.open("rb") as file:

        def content(member: tar.Member) -> bytes:
            file.seek(member.offset)
            return file.read(member.size)

        items = []
        for item in source.items:
            own = holders.get(item.name.rpartition(".")[0]) or holders.get(base_plus_ext(item.name)[0]) or {}
            items.append(dataclasses.replace(item, label=labels.of_sample(own, content)))
    if all(item.label is None for item in items):
        return source
    without = [item.name for item in items if item.label is None]
    notes = [f"{len(without):,} of {len(items):,} images have no label, first {without[0]}"] if without else []
    skipped = [entry for entry in source.skipped if entry[1] != NO_IMAGE or not entry[0].lower().endswith(_LABELS)]
    return Source(items, _numbers(item.label for item in items), skipped, notes)


def _label_members(members: Mapping[str, tar.Member]) -> dict[str, dict[str, tar.Member]]:
    """Return the label members of a WebDataset: name without .cls or .json -> {ending: member}."""
    holders: dict[str, dict[str, tar.Member]] = {}
    for name, member in members.items():
        stem, _, ending = name.rpartition(".")
        if ending.lower() in labels.ENDINGS:
            holders.setdefault(stem, {})[ending.lower()] = member
    return holders


def _idx_folder(path: Path, split: str | None) -> Source | None:
    """Return the images of a folder of MNIST's idx files; None where it holds no such files."""
    images = sorted(path.glob("*images*idx3-ubyte*"))
    if not images:
        return None
    train, test = (sorted(path.glob(f"{part}-images*idx3-ubyte*"))[:1] for part in ("train", "t10k"))
    chosen = {None: train or images, "train": train, "test": test, "all": [*train, *test]}[split]
    if not chosen or (split == "all" and len(chosen) < 2):
        raise InputError(
            f"{path} holds no train-images or no t10k-images file for split {split}; add it, or remove split"
        )
    if split is None and len({image.name.removesuffix(".gz") for image in chosen}) > 1:
        raise InputError(f"{path} holds {len(images)} idx files of images; name one: {images[0]}")
    found = [_idx(image, f"{image.name[:4]}/" if split == "all" else "") for image in chosen[: 2 if split else 1]]
    items = [item for part in found for item in part.items]
    notes = [_OTHERS] if split is None and train and test else []
    return Source(items, _numbers(item.label for item in items), [], notes, parted=True)


def _idx(images: Path, prefix: str = "") -> Source:
    pixels, numbers = arrays.idx_images(str(images)), arrays.idx_labels(images)
    places = ((f"{prefix}{number:06d}", ("idx", str(images), number)) for number in range(len(pixels)))
    return Source(_pixel_items(places, pixels, numbers), _numbers(numbers), [])


def _cifar(
    path: str, train: list[str], test: list[str], members: Mapping[str, tuple[int, int]], split: str | None
) -> Source:
    """Return the images of the original archive."""
    chosen = {None: train, "train": train, "test": test, "all": [*train, *test]}[split]
    if split in ("test", "all") and not test:
        raise InputError(f"{path} holds no test images for split {split}; remove split")
    items: list[Item] = []
    for name in chosen:
        where = (path, *members[name])
        pixels, numbers = arrays.cifar_batch(*where)
        places = ((f"{PurePosixPath(name).name}/{i:05d}", ("cifar", *where, i)) for i in range(len(pixels)))
        items += _pixel_items(places, pixels, numbers)
    about = [where for name, where in members.items() if PurePosixPath(name).name in ("batches.meta", "meta")]
    classes = arrays.cifar_classes(path, *about[0]) if about else {}
    notes = [_OTHERS] if split is None and test else []
    return Source(items, classes or _numbers([item.label for item in items]), [], notes, parted=True)


def _digits() -> Source:
    pixels, numbers = arrays.digits()
    places = ((f"{number:06d}", ("digits", number)) for number in range(len(pixels)))
    return Source(_pixel_items(places, pixels, numbers), _numbers(numbers), [])


def _pixel_items(
    places: Iterable[tuple[str, tuple[Any, ...]]], pixels: np.ndarray, numbers: Sequence[int | None]
) -> list[Item]:
    size, stamp = int(np.prod(pixels.shape[1:])), zlib.crc32(pixels.tobytes())
    return [Item(name, label, place, size, stamp) for (name, place), label in zip(places, numbers, strict=True)]


def _numbers(numbers: Iterable[int | None]) -> dict[str, int]:
    """Return the numbers of classes as their names, where they have none."""
    return {str(label): label for label in sorted({label for label in numbers if label is not None})}
