"""Read data sets that are arrays and not image files: MNIST's idx, CIFAR's pickles, scikit-learn's digits."""

import functools
import gzip
import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gan_dist.errors import InputError

CIFAR_TRAIN = (*(f"data_batch_{number}" for number in range(1, 6)), "train")
"""The training batches of CIFAR-10 and that of CIFAR-100."""
CIFAR_TEST = ("test_batch", "test")
"""The test batches of both."""
_HARMLESS = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


@functools.lru_cache(maxsize=2)  # the training and the test images
def idx_images(path: str) -> np.ndarray:
    """Return the (N, H, W) uint8 images of MNIST's format, compressed or not."""
    return _idx(path, 3)


def idx_labels(images: Path) -> Sequence[int | None]:
    """Return the label of each image, from the file beside `images` under its usual name; None each where there is none."""
    count = len(idx_images(str(images)))
    name = images.name.replace("images", "labels").replace("idx3", "idx1").removesuffix(".gz")
    beside = [path for path in (images.with_name(name), images.with_name(f"{name}.gz")) if path.exists()]
    if not beside or beside[0] == images:
        return [None] * count
    labels: list[int] = _idx(str(beside[0]), 1).tolist()
    if len(labels) != count:
        raise InputError(f"{beside[0]} has {len(labels)} labels for {count} images; take both from one data set")
    return labels


def _idx(path: str, dimensions: int) -> np.ndarray:
    with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
        data = file.read()
    shape = tuple(int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(dimensions))
    header = 4 + 4 * dimensions
    if data[:4] != bytes((0, 0, 8, dimensions)) or len(data) != header + int(np.prod(shape)):
        raise InputError(f"{path} is no whole idx file of bytes with {dimensions} dimension(s); fetch it again")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


class _PlainUnpickler(pickle.Unpickler):
    """Reads CIFAR's dictionaries of bytes, lists and arrays; a pickle that asks for anything else is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module.replace("_core", "core"), name) in _HARMLESS:
            return super().find_class(module, name)
        raise InputError(f"the CIFAR archive asks for {module}.{name}, which no image needs; it is not unpacked")


@functools.lru_cache(maxsize=len(CIFAR_TRAIN))  # all of them: shuffled images come from every batch in turn
def cifar_batch(path: str, offset: int, size: int) -> tuple[np.ndarray, list[int]]:
    """Return the (N, 32, 32, 3) uint8 images and the labels of the pickle that lies in the tar file `path` at `offset`."""
    batch = _unpickle(path, offset, size)
    try:
        labels = [int(label) for label in batch.get(b"labels") or batch[b"fine_labels"]]
        pixels = np.asarray(batch[b"data"], np.uint8).reshape(len(labels), 3, 32, 32)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"the CIFAR archive {path} is not as CIFAR's are ({error}); fetch it again") from None
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)), labels


def cifar_classes(path: str, offset: int, size: int) -> dict[str, int]:
    """Name -> number, from the archive's `meta` file."""
    meta = _unpickle(path, offset, size)
    names = meta.get(b"label_names") or meta.get(b"fine_label_names") or []
    return {name.decode(): number for number, name in enumerate(names)}


def _unpickle(path: str, offset: int, size: int) -> dict[bytes, Any]:
    with open(path, "rb") as file:
        file.seek(offset)
        data = io.BytesIO(file.read(size))
    try:
        content = _PlainUnpickler(data, encoding="bytes").load()
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"the CIFAR archive {path} is damaged ({error}); fetch it again") from None
    if not isinstance(content, dict):
        raise InputError(f"the CIFAR archive {path} holds a {type(content).__name__}, no dictionary; fetch it again")
    return content


@functools.lru_cache(maxsize=1)
def digits() -> tuple[np.ndarray, list[int]]:
    """Return scikit-learn's 1,797 digits, (N, 8, 8) uint8 with values 0..16 brought to 0..255, and their labels."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError("the digits come with scikit-learn: pip install 'gan_dist[digits]'") from None
    loaded = load_digits()
    return np.rint(loaded.images * (255 / 16)).astype(np.uint8), loaded.target.tolist()
