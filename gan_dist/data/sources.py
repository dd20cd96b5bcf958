"""Where images come from before they are shards: an ordered list of items, each read on its own, in any process."""

import bz2
import dataclasses
import functools
import gzip
import io
import json
import lzma
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from webdataset.tariterators import base_plus_ext

from gan_dist.data.index import IMAGE_ENDINGS
from gan_dist.errors import InputError

_COMPRESSIONS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_READABLE = (*IMAGE_ENDINGS, "gif", "jp2", "tga")


@dataclasses.dataclass(frozen=True)
class Item:
    """One image of a source."""

    name: str
    """What a person calls it: its path within the source."""
    label: int | None
    place: tuple[Any, ...]
    """Where it lies: a kind of place and what finds it there (see `read`)."""


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
    Raises InputError where there is no such source, or no image in it.
    """
    found = _open(source, scratch)
    if not found.items:
        more = f" ({len(found.skipped)} other files, first {found.skipped[0][0]})" if found.skipped else ""
        raise InputError(f"{source} holds no images{more}; give a folder, zip or tar of {', '.join(_READABLE[:4])} ...")
    return found


def _open(source: str, scratch: Path) -> Source:
    path = Path(source)
    if source == "digits" and not path.exists():
        return _digits()
    if not path.exists():
        raise InputError(f"no such source: {source}; give a folder, a zip, a tar, an idx file or the word digits")
    try:
        if path.is_dir():
            images = sorted(path.glob("train-images*idx3-ubyte*")) or sorted(path.glob("*images*idx3-ubyte*"))
            if len(images) > 1:
                raise InputError(f"{source} holds {len(images)} idx files of images; name one: {images[0]}")
            return _idx(images[0]) if images else _folder(path)
        if "idx3-ubyte" in path.name:
            return _idx(path)
        if zipfile.is_zipfile(path):
            return _zip(path)
        if tarfile.is_tarfile(path):
            return _tar(path, scratch)
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise InputError(f"{source} cannot be read: {error}") from None
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
            return file.read(where[2])
    arrays: dict[str, Callable[..., np.ndarray]] = {"idx": _idx_images, "cifar": _cifar_images, "digits": _digit_images}
    pixels: np.ndarray = arrays[kind](*where[:-1])[where[-1]]
    return pixels


def _listed(names: Iterable[str], place: Callable[[str], tuple[Any, ...]]) -> Source:
    """Items of a tree of names: the first folder is the class, if every image lies in one."""
    images, skipped = [], []
    for name in sorted(names):
        parts = PurePosixPath(name).parts
        if any(part.startswith((".", "__MACOSX")) for part in parts):
            continue
        if name.rsplit(".", 1)[-1].lower() in _READABLE:
            images.append(name)
        else:
            skipped.append((name, "no image by its name"))
    top = {PurePosixPath(name).parts[0] for name in images}
    if len(top) == 1 and all(len(PurePosixPath(name).parts) > 2 for name in images):  # an archive of one folder
        prefix = next(iter(top))
        classed = {name: PurePosixPath(name).parts[1] for name in images if prefix}
    elif all(len(PurePosixPath(name).parts) > 1 for name in images) and len(top) > 1:
        classed = {name: PurePosixPath(name).parts[0] for name in images}
    else:
        classed = {}
    classes = {name: number for number, name in enumerate(sorted(set(classed.values())))}
    items = [Item(name, classes[classed[name]] if classed else None, place(name)) for name in images]
    return Source(items, classes, skipped)


def _folder(path: Path) -> Source:
    names = [str(file.relative_to(path).as_posix()) for file in path.rglob("*") if file.is_file()]
    return _listed(names, lambda name: ("file", str(path / name)))


def _zip(path: Path) -> Source:
    with zipfile.ZipFile(path) as archive:
        names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
    return _listed(names, lambda name: ("zip", str(path), name))


@functools.lru_cache(maxsize=2)
def _zip_file(path: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def _tar(path: Path, scratch: Path) -> Source:
    with path.open("rb") as file:
        beginning = file.read(6)
    for magic, opener in _COMPRESSIONS.items():
        if beginning.startswith(magic):
            scratch.mkdir(parents=True, exist_ok=True)
            unpacked = scratch / "source.tar"
            with opener(path, "rb") as compressed, unpacked.open("wb") as copy:
                shutil.copyfileobj(compressed, copy, 1 << 20)
            path = unpacked
    members: dict[str, tuple[int, int]] = {}
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            if member.isfile():
                members[member.name] = (member.offset_data, member.size)
    batches = [name for name in members if PurePosixPath(name).name in _CIFAR_TRAIN]
    if batches:
        return _cifar(str(path), {name: members[name] for name in sorted(batches)}, members)
    labels = _webdataset_labels(path, members)
    source = _listed(members, lambda name: ("range", str(path), *members[name]))
    if not labels:
        return source
    skipped = [(name, reason) for name, reason in source.skipped if not name.endswith((".cls", ".json"))]
    items = [dataclasses.replace(item, label=labels.get(base_plus_ext(item.name)[0])) for item in source.items]
    return Source(items, {}, skipped)


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
    """MNIST's format; the labels lie beside the images under their usual name."""
    pixels = _idx_images(str(images))
    beside = images.with_name(images.name.replace("images", "labels").replace("idx3", "idx1"))
    labels = _idx_array(str(beside), 1) if beside.exists() else None
    if labels is not None and len(labels) != len(pixels):
        raise InputError(f"{beside} has {len(labels)} labels for {len(pixels)} images")
    items = [
        Item(f"{number:06d}", None if labels is None else int(labels[number]), ("idx", str(images), number))
        for number in range(len(pixels))
    ]
    return Source(items, {} if labels is None else {str(value): value for value in range(int(labels.max()) + 1)}, [])


def _idx_array(path: str, dimensions: int) -> np.ndarray:
    with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
        data = file.read()
    shape = tuple(int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(dimensions))
    header = 4 + 4 * dimensions
    if data[:4] != bytes((0, 0, 8, dimensions)) or len(data) != header + int(np.prod(shape)):
        raise InputError(f"{path} is no whole idx file of bytes with {dimensions} dimension(s)")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


@functools.lru_cache(maxsize=1)
def _idx_images(path: str) -> np.ndarray:
    return _idx_array(path, 3)


_CIFAR_TRAIN = (*(f"data_batch_{number}" for number in range(1, 6)), "train")


class _PlainUnpickler(pickle.Unpickler):
    """Reads CIFAR's dictionaries of bytes, lists and arrays; a pickle that asks for anything else is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module.replace("_core", "core"), name) in {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }:
            return super().find_class(module, name)
        raise InputError(f"the CIFAR archive asks for {module}.{name}, which no image needs; it is not unpacked")


def _cifar(path: str, batches: dict[str, tuple[int, int]], members: dict[str, tuple[int, int]]) -> Source:
    """The original CIFAR-10 or CIFAR-100 archive: its training images."""
    items = []
    for name, (offset, size) in batches.items():
        labels = _cifar_batch(path, offset, size)[1]
        short = PurePosixPath(name).name
        items += [Item(f"{short}/{i:05d}", label, ("cifar", path, offset, size, i)) for i, label in enumerate(labels)]
    classes: dict[str, int] = {}
    for name in members:
        if PurePosixPath(name).name in ("batches.meta", "meta"):
            with open(path, "rb") as file:
                file.seek(members[name][0])
                meta = _PlainUnpickler(io.BytesIO(file.read(members[name][1])), encoding="bytes").load()
            names = meta.get(b"label_names") or meta.get(b"fine_label_names") or []
            classes = {word.decode(): number for number, word in enumerate(names)}
    return Source(items, classes, [])


@functools.lru_cache(maxsize=1)
def _cifar_batch(path: str, offset: int, size: int) -> tuple[np.ndarray, list[int]]:
    with open(path, "rb") as file:
        file.seek(offset)
        batch = _PlainUnpickler(io.BytesIO(file.read(size)), encoding="bytes").load()
    pixels = batch[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return pixels, [int(label) for label in batch.get(b"labels") or batch[b"fine_labels"]]


def _cifar_images(path: str, offset: int, size: int) -> np.ndarray:
    return _cifar_batch(path, offset, size)[0]


def _digits() -> Source:
    labels = _load_digits()[1].tolist()
    items = [Item(f"{number:06d}", int(label), ("digits", number)) for number, label in enumerate(labels)]
    return Source(items, {str(digit): digit for digit in range(10)}, [])


def _digit_images() -> np.ndarray:
    return _load_digits()[0]


@functools.lru_cache(maxsize=1)
def _load_digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's 1,797 digits of 8x8, values 0..16 brought to 0..255."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError("the digits come with scikit-learn: pip install 'gan_dist[digits]'") from None
    digits = load_digits()
    return np.rint(digits.images * (255 / 16)).astype(np.uint8), digits.target
