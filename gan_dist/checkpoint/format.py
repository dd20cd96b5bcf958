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
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gan_dist import files
from gan_dist.checkpoint.manifest import (
    MANIFEST,
    SHORT,
    VERSION,
    Bytes,
    DamagedError,
    digest,
    find,
    hash_of,
    read_manifest,
    verify,
)

__all__ = [
    "MANIFEST",
    "VERSION",
    "DamagedError",
    "Part",
    "Piece",
    "Reader",
    "deal",
    "digest",
    "find",
    "read_manifest",
    "read_tensors",
    "verify",
    "write_manifest",
    "write_part",
]

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
        so_far.append(total.copy().hexdigest()[:SHORT])
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
    files.write_json(directory / MANIFEST, {**manifest, "sha256": hash_of(manifest)})


class Reader(Bytes):
    """Reads the tensors of a checkpoint one at a time."""

    def __call__(self, name: str, offset: int = 0, length: int | None = None) -> Tensor:
        """Return the tensor of this name on the CPU, joined from its pieces, or a flat run of its elements.

        Raises DamagedError, KeyError.
        """
        entry = self._table[name]
        count = math.prod(entry["shape"]) if length is None else length
        tensor = torch.empty(count, dtype=_TYPES[entry["dtype"]])
        if count:
            self.read(name, tensor.view(torch.uint8).numpy(), offset, count)
        return tensor.view(entry["shape"]) if length is None else tensor


def read_tensors(directory: Path, manifest: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, on the CPU."""
    with Reader(directory, manifest) as read:
        return {name: read(name) for name in manifest["tensors"] if name.startswith(prefix)}
