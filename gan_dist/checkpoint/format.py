"""One checkpoint directory: safetensors parts and a manifest, written last, that says what must be there.

A part holds pieces of tensors. A piece is a flat run of elements under the key `name@offset`. The manifest gives every
tensor's type, shape and the places of its pieces. So any number of ranks can write what each owns, and any other number can
read what each needs.
"""

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gan_dist import files

VERSION = 1
MANIFEST = "manifest.json"
_SHORT = 16  # hexadecimal digits
_CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What safetensors calls torch's types."""
_TYPES = {str(kind).removeprefix("torch."): kind for kind in _CODES}


class DamagedError(Exception):
    """A checkpoint is not what its manifest says. The message names the file, and the tensor where it can."""


@dataclasses.dataclass(frozen=True)
class Piece:
    """A run of elements of a flattened tensor."""

    name: str
    offset: int
    length: int


@dataclasses.dataclass(frozen=True)
class Part:
    """What a rank wrote: its file, and which pieces of which tensors are in it."""

    file: str
    bytes: int
    sha256: str
    header: str
    """SHA-256 of the file up to its first piece, shortened."""
    pieces: list[tuple[Piece, int, str]]
    """Each with the byte at which it ends and the shortened SHA-256 of the file up to there. The first that differs tells
    what a flipped bit has hit. This costs nothing beyond the hash of the whole file."""


def deal(tensors: Mapping[str, Tensor], world_size: int) -> list[list[Piece]]:
    """Return what each rank writes of tensors that all of them hold: the same number of bytes, cut where necessary.

    Every rank gets the same result, from the shapes alone.
    """
    names = sorted(tensors)
    total = sum(tensors[name].numel() * tensors[name].element_size() for name in names)
    dealt: list[list[Piece]] = [[] for _ in range(world_size)]
    for rank, pieces in enumerate(dealt):
        begin, end = total * rank // world_size, total * (rank + 1) // world_size
        start = 0  # where the tensor begins, in bytes
        for name in names:
            size, count = tensors[name].element_size(), tensors[name].numel()
            first = min(max(-(-(begin - start) // size), 0), count)  # elements that begin within [begin, end)
            last = min(max(-(-(end - start) // size), 0), count)
            if first < last or (count == 0 and rank == 0):
                pieces.append(Piece(name, first, last - first))
            start += size * count
    return dealt


def write_part(directory: Path, pieces: Sequence[tuple[Piece, Tensor]], rank: int, world_size: int) -> Part:
    """Write one rank's pieces (flat, on the CPU) as a safetensors file that survives a power cut.

    The hashes are of what was in memory. `verify` tells what the disk made of it.
    """
    name = f"part-{rank:05d}-of-{world_size:05d}.safetensors"
    table: dict[str, Any] = {}
    buffers: list[memoryview] = []
    end = 0
    for piece, values in pieces:
        content = values.view(torch.uint8).numpy().data if piece.length else memoryview(b"")
        begin, end = end, end + len(content)
        table[f"{piece.name}@{piece.offset}"] = {
            "dtype": _CODES[values.dtype],
            "shape": [piece.length],
            "data_offsets": [begin, end],
        }
        buffers.append(content)
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    header = memoryview(len(text).to_bytes(8, "little") + text)
    with ThreadPoolExecutor(1) as aside:
        hashes = aside.submit(_hash_buffers, header, buffers)
        files.write_new(directory / name, [header, *buffers])
        total, (first, *rest) = hashes.result()
    ends = itertools.accumulate((len(buffer) for buffer in buffers), initial=len(header))
    next(ends)
    return Part(
        file=name,
        bytes=len(header) + end,
        sha256=total,
        header=first,
        pieces=[(piece, stop, found) for (piece, _), stop, found in zip(pieces, ends, rest, strict=True)],
    )


def _hash_buffers(header: memoryview, buffers: Sequence[memoryview]) -> tuple[str, list[str]]:
    """Return the SHA-256 of everything and, shortened, of everything up to the end of each buffer."""
    total = hashlib.sha256()
    so_far = []
    for buffer in (header, *buffers):
        total.update(buffer)
        so_far.append(total.copy().hexdigest()[:_SHORT])
    return total.hexdigest(), so_far


def write_manifest(
    directory: Path, parts: Sequence[Part], tensors: Mapping[str, Tensor], state: Mapping[str, Any]
) -> None:
    """Declare the parts in `directory` a checkpoint. `state` is everything in the run that is not a tensor."""
    table: dict[str, Any] = {
        name: {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape), "pieces": []}
        for name, tensor in sorted(tensors.items())
    }
    for part in parts:
        for piece, end, so_far in part.pieces:
            place = {"file": part.file, "offset": piece.offset, "length": piece.length}
            table[piece.name]["pieces"].append({**place, "end": end, "sha256": so_far})
    recorded = {part.file: {"bytes": part.bytes, "sha256": part.sha256, "header": part.header} for part in parts}
    for name, entry in table.items():
        covered = sum(piece["length"] for piece in entry["pieces"])
        assert covered == tensors[name].numel(), f"{covered} of {tensors[name].numel()} elements of {name} were written"
    manifest = {"format": VERSION, **state, "files": recorded, "tensors": table}
    files.write_json(directory / MANIFEST, {**manifest, "sha256": _hash(manifest)})


def _hash(manifest: Mapping[str, Any]) -> str:
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
    if (actual := _hash(manifest)) != (recorded := manifest.get("sha256")):
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
        piece["length"] * _TYPES[entry["dtype"]].itemsize
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
            if (actual := so_far.hexdigest()[:_SHORT]) != expected:
                return f"; damaged is {name} (SHA-256 up to its end {actual}, not {expected})"
    return ""


class Reader:
    """Reads the tensors of a checkpoint one at a time, so that no more than one is in memory twice."""

    def __init__(self, directory: Path, manifest: Mapping[str, Any]) -> None:
        self._directory, self._table = directory, manifest["tensors"]
        self._files: dict[str, tuple[FileIO, int, dict[str, Any]]] = {}

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        for opened in self._files.values():
            opened[0].close()

    def __call__(self, name: str, offset: int = 0, length: int | None = None) -> Tensor:
        """Return the tensor of this name on the CPU, joined from its pieces, or a flat run of its elements.

        Raises DamagedError, KeyError.
        """
        entry = self._table[name]
        count = math.prod(entry["shape"]) if length is None else length
        tensor = torch.empty(count, dtype=_TYPES[entry["dtype"]])
        memory = tensor.view(torch.uint8).numpy() if count else np.empty(0, np.uint8)
        size = tensor.element_size()
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
        return tensor.view(entry["shape"]) if length is None else tensor

    def _open(self, name: str) -> tuple[FileIO, int, dict[str, Any]]:
        if name not in self._files:
            file = (self._directory / name).open("rb", buffering=0)
            length = int.from_bytes(file.read(8), "little")
            table: dict[str, Any] = json.loads(file.read(length))
            self._files[name] = (file, 8 + length, table)
        return self._files[name]


def read_tensors(directory: Path, manifest: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, on the CPU."""
    with Reader(directory, manifest) as read:
        return {name: read(name) for name in manifest["tensors"] if name.startswith(prefix)}


def digest(directory: Path, manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 of all tensors in order of name (name, dtype, shape, bytes): equal digests mean equal bits."""
    total = hashlib.sha256()
    with Reader(directory, manifest) as read:
        for name in sorted(manifest["tensors"]):
            entry = manifest["tensors"][name]
            total.update(f"{name}\0{entry['dtype']}\0{entry['shape']}\0".encode())
            tensor = read(name)
            if tensor.numel():
                total.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
