"""Read a checkpoint's manifest and its tensors' bytes: what it is, whether it is whole, its digest. Needs no torch."""

import hashlib
import json
import math
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any, Self

import numpy as np

from gan_dist import files

VERSION = 1
MANIFEST = "manifest.json"
SHORT = 16  # hexadecimal digits
SIZES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "uint8": 1,
    "bool": 1,
}
"""Bytes of an element, by what torch calls its type."""


class DamagedError(Exception):
    """A checkpoint is not what its manifest says. The message names the file, and the tensor where it can."""


def hash_of(manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest, its own entry left out."""
    content = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_manifest(directory: Path) -> dict[str, Any]:
    """Return the manifest. Raises DamagedError where there is none or it makes no sense."""
    try:
        manifest = json.loads((directory / MANIFEST).read_text())
        version = manifest["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{directory / MANIFEST}: {error}") from None
    if version != VERSION:
        raise DamagedError(f"{directory / MANIFEST}: format {version}, this version reads format {VERSION}")
    if (actual := hash_of(manifest)) != (recorded := manifest.get("sha256")):
        raise DamagedError(f"{directory / MANIFEST} has SHA-256 {actual}, it says {recorded}")
    return dict(manifest)


def find(directory: Path) -> str:
    """Return the hash that the manifest here has of itself; "" where there is no manifest."""
    try:
        return str(read_manifest(directory)["sha256"])
    except DamagedError:
        return ""


def verify(directory: Path, manifest: Mapping[str, Any], hashes: bool = True, only: str = "") -> None:
    """Raise DamagedError, naming file and tensor, unless every file is there with its size and (if asked) its hash.

    `only`: the name of the one file to look at.
    """
    for name, recorded in manifest["files"].items():
        if only not in ("", name):
            continue
        path = directory / name
        try:
            size = path.stat().st_size
            if size != recorded["bytes"]:
                raise DamagedError(f"{path} has {size} bytes, the manifest says {recorded['bytes']}")
            if hashes and (actual := files.sha256_file(path)) != recorded["sha256"]:
                raise DamagedError(
                    f"{path} has SHA-256 {actual}, the manifest says {recorded['sha256']}{_damaged(path, manifest)}"
                )
        except FileNotFoundError:
            raise DamagedError(f"{path} is missing") from None
        except OSError as error:
            raise DamagedError(f"{path} cannot be read ({error.strerror})") from None


def _damaged(path: Path, manifest: Mapping[str, Any]) -> str:
    """Return which part of a damaged file is hit first, as words for a message."""
    places = sorted(
        (piece["end"], piece["sha256"], name)
        for name, entry in manifest["tensors"].items()
        for piece in entry["pieces"]
        if piece["file"] == path.name
    )
    size = sum(
        piece["length"] * SIZES[entry["dtype"]]
        for entry in manifest["tensors"].values()
        for piece in entry["pieces"]
        if piece["file"] == path.name
    )
    recorded = manifest["files"][path.name]
    so_far, position = hashlib.sha256(), 0
    with path.open("rb") as file:
        for end, expected, name in [(recorded["bytes"] - size, recorded["header"], "its header"), *places]:
            so_far.update(file.read(end - position))
            position = end
            if (actual := so_far.hexdigest()[:SHORT]) != expected:
                return f"; damaged is {name} (SHA-256 up to its end {actual}, not {expected})"
    return ""


class Bytes:
    """Reads the bytes of tensors one at a time, so that no more than one is in memory twice."""

    def __init__(self, directory: Path, manifest: Mapping[str, Any]) -> None:
        self._directory, self._table = directory, manifest["tensors"]
        self._files: dict[str, tuple[FileIO, int, dict[str, Any]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for opened in self._files.values():
            opened[0].close()

    def read(self, name: str, memory: np.ndarray, offset: int, count: int) -> None:
        """Fill uint8 memory with `count` elements of a flattened tensor from `offset` on.

        Raises DamagedError, KeyError.
        """
        entry = self._table[name]
        size = SIZES[entry["dtype"]]
        for piece in entry["pieces"]:
            first = max(offset, piece["offset"])
            last = min(offset + count, piece["offset"] + piece["length"])
            if first >= last:
                continue
            path = self._directory / piece["file"]
            try:
                file, start, table = self._open(piece["file"])
                begin, end = table[f"{name}@{piece['offset']}"]["data_offsets"]
                file.seek(start + begin + (first - piece["offset"]) * size)
                target = memory[(first - offset) * size : (last - offset) * size]
                if end - begin != piece["length"] * size or file.readinto(target.data) != len(target):
                    raise DamagedError(f"{path}: {name} is cut short")
            except (OSError, ValueError, KeyError) as error:
                raise DamagedError(f"{path}: {name}: {error}") from None

    def _open(self, name: str) -> tuple[FileIO, int, dict[str, Any]]:
        if name not in self._files:
            file = (self._directory / name).open("rb", buffering=0)
            length = int.from_bytes(file.read(8), "little")
            table: dict[str, Any] = json.loads(file.read(length))
            self._files[name] = (file, 8 + length, table)
        return self._files[name]


def digest(directory: Path, manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 of all tensors in order of name (name, dtype, shape, bytes): equal digests mean equal bits."""
    total = hashlib.sha256()
    with Bytes(directory, manifest) as stored:
        for name in sorted(manifest["tensors"]):
            entry = manifest["tensors"][name]
            total.update(f"{name}\0{entry['dtype']}\0{entry['shape']}\0".encode())
            if count := math.prod(entry["shape"]):
                memory = np.empty(count * SIZES[entry["dtype"]], np.uint8)
                stored.read(name, memory, 0, count)
                total.update(memory.data)
    return total.hexdigest()
