"""Where images come from before they are shards: an ordered list of items, each read on its own, in any process."""

import bz2
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
from gan_dist.data.index import IMAGE_ENDINGS
from gan_dist.data.pack import arrays
from gan_dist.errors import InputError

_COMPRESSIONS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_READABLE = (*IMAGE_ENDINGS, "gif", "jp2", "tga")
_DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile)
_BLOCK = 512


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One image of a source."""

    name: str
    """What a person calls it: its path within the source."""
    label: int | None
    place: tuple[Any, ...]
    """Where it lies: a kind of place and what finds it there (see `read`)."""
    size: int
    """Bytes, as stored."""
    stamp: int
    """Differs when the content does: a CRC-32 where reading it is free, else the time of change in seconds."""


@dataclasses.dataclass(frozen=True)
class Source:
    items: list[Item]
    classes: dict[str, int]
    """Names of the classes, where the source has names."""
    skipped: list[tuple[str, str]]
    """What is no image: (name, reason)."""


def open_source(source: str, scratch: Path) -> Source:
    """List a folder, zip, tar, MNIST idx folder, CIFAR archive, or scikit-learn's `digits`.

    Compressed tar files are unpacked once into `scratch`, so that many processes can read from their middle.
    Raises InputError where there is no such source, no image in it, or damage to the archive itself.
    """
    for cached in (_zip_file, arrays.idx_images, arrays.cifar_batch):  # of this process's earlier sources
        cached.cache_clear()
    found = _open(source, scratch)
    if not found.items:
        more = f" ({len(found.skipped)} other files, first {found.skipped[0][0]})" if found.skipped else ""
        raise InputError(f"{source} holds no images{more}; give a folder, zip or tar of {', '.join(_READABLE[:4])} ...")
    return found


def _open(source: str, scratch: Path) -> Source:
    path = Path(source)
    try:
        if source == "digits" and not path.exists():
            return _digits()
        if not path.exists():
            raise InputError(f"no such source: {source}; give a folder, a zip, a tar, an idx file or the word digits")
        if path.is_dir():
            images = sorted(path.glob("train-images*idx3-ubyte*")) or sorted(path.glob("*images*idx3-ubyte*"))
            if len({image.name.removesuffix(".gz") for image in images}) > 1:
                raise InputError(f"{source} holds {len(images)} idx files of images; name one: {images[0]}")
            return _idx(images[0]) if images else _folder(path)
        if "idx3-ubyte" in path.name:
            return _idx(path)
        with path.open("rb") as file:
            beginning = file.read(6)
        for magic, opener in _COMPRESSIONS.items():
            if beginning.startswith(magic):
                return _tar(_unpack(path, opener, scratch))
        if tarfile.is_tarfile(path):  # before zip: a tar may end in a zip
            return _tar(path)
        if zipfile.is_zipfile(path):
            return _zip(path)
    except _DAMAGED as error:
        raise InputError(f"{source} cannot be read: {error}; mend its permissions or fetch it again") from None
    raise InputError(f"{source} is no folder, zip, tar or idx file")


def read(place: tuple[Any, ...]) -> bytes | np.ndarray:
    """The content of an item: an encoded image, or its pixels (H, W) or (H, W, 3) uint8."""
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
    pixels: np.ndarray = _PIXELS[kind](*where[:-1])[where[-1]]
    return pixels


_PIXELS: dict[str, Callable[..., np.ndarray]] = {
    "idx": arrays.idx_images,
    "cifar": lambda *where: arrays.cifar_batch(*where)[0],
    "digits": lambda: arrays.digits()[0],
}

_Entry = tuple[tuple[Any, ...], int, int]
"""Place, size and stamp of a file of any kind."""


def _listed(entries: Mapping[str, _Entry], skipped: list[tuple[str, str]]) -> Source:
    """The images of a tree of files. Below the folders that all share, the next folder is the class, if all have one.

    Two classes at least: images that all lie in one folder have none. Hidden files are no part of a source.
    """
    images = []
    for name in sorted(entries):
        if _hidden(name):
            continue
        if name.rsplit(".", 1)[-1].lower() in _READABLE:
            images.append(name)
        else:
            skipped.append((name, "no image by its name"))
    parents = {name: PurePosixPath(name).parent.parts for name in images}
    least, most = min(parents.values(), default=()), max(parents.values(), default=())  # what they share, all share
    common = next((i for i, pair in enumerate(zip(least, most, strict=False)) if pair[0] != pair[1]), len(least))
    classed = all(len(parent) > common for parent in parents.values())
    names = sorted({parent[common] for parent in parents.values()}) if classed else []
    classes = {name: number for number, name in enumerate(names)}
    items = [Item(name, classes[parents[name][common]] if classed else None, *entries[name]) for name in images]
    return Source(items, classes, sorted(skipped))


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def _folder(path: Path) -> Source:
    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename} cannot be listed ({error.strerror}); mend its permissions")

    entries: dict[str, _Entry] = {}
    skipped = []
    for folder, below, names in os.walk(path, onerror=refuse, followlinks=True):  # class folders are often links
        below[:] = [name for name in below if not _hidden(name) and not _leads_up(folder, name)]
        for file in (os.path.join(folder, name) for name in names if not _hidden(name)):
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
    return _listed(entries, skipped)


def _leads_up(folder: str, name: str) -> bool:
    """Whether a link leads to a folder that it lies in: following it would never end."""
    path = os.path.join(folder, name)
    return os.path.islink(path) and Path(folder).resolve().is_relative_to(Path(path).resolve())


def _zip(path: Path) -> Source:
    with zipfile.ZipFile(path) as archive:
        members = [entry for entry in archive.infolist() if not entry.is_dir()]
    return _listed({e.filename: (("zip", str(path), e.filename), e.file_size, e.CRC) for e in members}, [])


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


def _tar(path: Path) -> Source:
    members: dict[str, tuple[int, int]] = {}
    entries: dict[str, _Entry] = {}
    skipped = []
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            archive.members = []  # type: ignore[attr-defined]  # or tarfile keeps every member it has seen
            if member.isfile():
                members[member.name] = member.offset_data, member.size
                entries[member.name] = ("range", str(path), *members[member.name]), member.size, int(member.mtime)
            elif not member.isdir() and not _hidden(member.name):
                skipped.append((member.name, "a link or a device"))
        end = archive.offset
    with path.open("rb") as file:  # tarfile ends at a damaged header as it does at the end, where zeros are
        file.seek(end)
        if file.read(_BLOCK) != bytes(_BLOCK):
            raise tarfile.ReadError(f"cut or damaged after {len(members)} files (no end-of-archive marker)")
    batches = sorted(name for name in members if PurePosixPath(name).name in arrays.CIFAR_TRAIN)
    about = {PurePosixPath(name).name for name in members} & {"meta", "batches.meta"}
    if batches and (about or PurePosixPath(batches[0]).name != "train"):
        return _cifar(str(path), batches, members)
    source = _listed(entries, skipped)
    labels = _webdataset_labels(path, members)
    if not labels:
        return source
    skipped = [(name, reason) for name, reason in source.skipped if not name.endswith((".cls", ".json"))]
    items = [dataclasses.replace(item, label=labels.get(base_plus_ext(item.name)[0])) for item in source.items]
    return Source(items, _numbers(labels.values()), skipped)


def _webdataset_labels(path: Path, members: dict[str, tuple[int, int]]) -> dict[str, int]:
    """Labels of a WebDataset: key -> the integer in its .cls, or `label` in its .json."""
    labels: dict[str, int] = {}
    with path.open("rb") as file:
        for name, (offset, size) in members.items():
            key, extension = base_plus_ext(name)
            if key is None or extension.lower() not in ("cls", "json"):
                continue
            file.seek(offset)
            try:
                value = json.loads(file.read(size))
                labels[key] = int(value["label"] if isinstance(value, dict) else value)
            except (ValueError, KeyError, TypeError):
                continue
    return labels


def _idx(images: Path) -> Source:
    pixels, labels = arrays.idx_images(str(images)), arrays.idx_labels(images)
    places = ((f"{number:06d}", ("idx", str(images), number)) for number in range(len(pixels)))
    return Source(_pixel_items(places, pixels, labels), _numbers(labels), [])


def _cifar(path: str, batches: list[str], members: Mapping[str, tuple[int, int]]) -> Source:
    """The training images of the original archive."""
    items: list[Item] = []
    for name in batches:
        where = (path, *members[name])
        pixels, labels = arrays.cifar_batch(*where)
        places = ((f"{PurePosixPath(name).name}/{i:05d}", ("cifar", *where, i)) for i in range(len(pixels)))
        items += _pixel_items(places, pixels, labels)
    about = [where for name, where in members.items() if PurePosixPath(name).name in ("batches.meta", "meta")]
    classes = arrays.cifar_classes(path, *about[0]) if about else {}
    return Source(items, classes or _numbers([item.label for item in items]), [])


def _digits() -> Source:
    pixels, labels = arrays.digits()
    places = ((f"{number:06d}", ("digits", number)) for number in range(len(pixels)))
    return Source(_pixel_items(places, pixels, labels), _numbers(labels), [])


def _pixel_items(
    places: Iterable[tuple[str, tuple[Any, ...]]], pixels: np.ndarray, labels: Sequence[int | None]
) -> list[Item]:
    size, stamp = int(np.prod(pixels.shape[1:])), zlib.crc32(pixels.tobytes())
    return [Item(name, label, place, size, stamp) for (name, place), label in zip(places, labels, strict=True)]


def _numbers(labels: Iterable[int | None]) -> dict[str, int]:
    """Names of classes that have none: their numbers."""
    return {str(label): label for label in sorted({label for label in labels if label is not None})}
