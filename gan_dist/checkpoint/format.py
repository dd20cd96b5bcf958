"""One checkpoint directory: safetensors parts and a manifest, written last, that says what must be there.

A part holds pieces of tensors, each a flat run of elements under the key `name@offset`; the manifest says
for every tensor its type, its shape and where its pieces lie. So any number of processes can write what each
owns, and any other number can read what each needs.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gan_dist import files

VERSION = 2
MANIFEST = "manifest.json"
_TYPES = {"float32": torch.float32, "float64": torch.float64, "int64": torch.int64, "uint8": torch.uint8}


class DamagedError(Exception):
    """A checkpoint that is not what its manifest says: the message names the file."""


@dataclasses.dataclass(frozen=True)
class Part:
    """What a process wrote: its file, and which pieces of which tensors are in it."""

    file: str
    bytes: int
    sha256: str
    pieces: dict[str, list[tuple[int, int]]]
    """Tensor name -> (offset, length) in elements of the flattened tensor."""


def deal(sizes: Mapping[str, int], world_size: int) -> list[list[str]]:
    """Names for each process, balanced by bytes: the biggest first to whoever has least. Needs no talking."""
    loads = [0] * world_size
    dealt: list[list[str]] = [[] for _ in range(world_size)]
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        rank = loads.index(min(loads))
        dealt[rank].append(name)
        loads[rank] += sizes[name]
    return dealt


def write_part(directory: Path, tensors: Mapping[str, Tensor], rank: int, world_size: int) -> Part:
    """Write one process's tensors, whole, and make them survive a power cut."""
    name = f"part-{rank:05d}-of-{world_size:05d}.safetensors"
    pieces = {f"{key}@0": tensor.detach().cpu().contiguous().flatten() for key, tensor in tensors.items()}
    content = save(pieces)
    files.write_atomic(directory / name, content)
    return Part(
        file=name,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        pieces={key: [(0, tensor.numel())] for key, tensor in tensors.items()},
    )


def write_manifest(
    directory: Path, parts: Sequence[Part], tensors: Mapping[str, Tensor], state: Mapping[str, Any]
) -> None:
    """Declare the parts in `directory` a checkpoint. `state` is everything of the run that is no tensor."""
    table: dict[str, Any] = {
        name: {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape), "pieces": []}
        for name, tensor in sorted(tensors.items())
    }
    for part in parts:
        for name, pieces in part.pieces.items():
            for offset, length in pieces:
                table[name]["pieces"].append({"file": part.file, "offset": offset, "length": length})
    recorded = {part.file: {"bytes": part.bytes, "sha256": part.sha256} for part in parts}
    manifest = {"format": VERSION, **state, "files": recorded, "tensors": table}
    files.write_json(directory / MANIFEST, {**manifest, "sha256": _hash(manifest)})


def _hash(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest without the entry that says it."""
    content = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest. Raises DamagedError where there is none or it makes no sense."""
    try:
        manifest = json.loads((directory / MANIFEST).read_text())
        version = manifest["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{directory / MANIFEST}: {error}") from None
    if version != VERSION:
        raise DamagedError(f"{directory / MANIFEST}: format {version}, this version reads format {VERSION}")
    if (found := _hash(manifest)) != (recorded := manifest.get("sha256")):
        raise DamagedError(f"{directory / MANIFEST} has SHA-256 {found}, it says {recorded}")
    return dict(manifest)


def verify(directory: Path, manifest: Mapping[str, Any], hashes: bool = True) -> None:
    """Raise DamagedError, naming the file, unless every file is there with its size and (if asked) its hash."""
    for name, recorded in manifest["files"].items():
        path = directory / name
        if not path.is_file():
            raise DamagedError(f"{path} is missing")
        if path.stat().st_size != recorded["bytes"]:
            raise DamagedError(f"{path} has {path.stat().st_size} bytes, the manifest says {recorded['bytes']}")
        if hashes and (found := files.sha256_file(path)) != recorded["sha256"]:
            raise DamagedError(f"{path} has SHA-256 {found}, the manifest says {recorded['sha256']}")


def read_tensors(directory: Path, manifest: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, on the CPU, put together from their pieces."""
    result: dict[str, Tensor] = {}
    opened: dict[str, Any] = {}
    for name, entry in manifest["tensors"].items():
        if not name.startswith(prefix):
            continue
        whole = torch.empty(math.prod(entry["shape"]), dtype=_TYPES[entry["dtype"]])
        for piece in entry["pieces"]:
            file = piece["file"]
            try:
                if file not in opened:
                    opened[file] = safe_open(directory / file, framework="pt")
                values = opened[file].get_tensor(f"{name}@{piece['offset']}")
            except (OSError, SafetensorError) as error:
                raise DamagedError(f"{directory / file}: {name}: {error}") from None
            whole[piece["offset"] : piece["offset"] + piece["length"]] = values
        result[name] = whole.view(entry["shape"])
    return result


def digest(directory: Path, manifest: Mapping[str, Any]) -> str:
    """SHA-256 over every tensor in order of name (name, dtype, shape, bytes): equal digests, equal bits."""
    total = hashlib.sha256()
    for name in sorted(manifest["tensors"]):
        entry = manifest["tensors"][name]
        total.update(f"{name}\0{entry['dtype']}\0{entry['shape']}\0".encode())
        tensor = read_tensors(directory, {"tensors": {name: entry}})[name]
        if tensor.numel():
            total.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
