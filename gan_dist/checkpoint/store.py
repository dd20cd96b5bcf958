"""The checkpoints of a run: save under a temporary name, keep the newest, find the newest whole one."""

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from gan_dist import files
from gan_dist.checkpoint import format
from gan_dist.checkpoint.format import DamagedError

_NAME = re.compile(r"images-(\d{9,})")


class Store:
    """`directory` holds `images-000120000/` and the like; what has another name is not a checkpoint."""

    def __init__(self, directory: Path, keep: int) -> None:
        self.directory = directory
        self.keep = keep

    def names(self) -> list[str]:
        """The checkpoints by name, oldest first; damaged ones too."""
        return names(self.directory)

    def save(
        self,
        images: int,
        tensors: Mapping[str, Tensor],
        state: Mapping[str, Any],
        *,
        rank: int,
        world_size: int,
        gather: Callable[[Any], Sequence[Any]],
    ) -> str:
        """Write a checkpoint, each process its share; returns its name. Every process calls it.

        `gather` collects a value of every process on all of them.
        """
        name = f"images-{images:09d}"
        part = self.directory / f".{name}.part"
        if rank == 0:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        gather(None)  # the directory is there before anyone writes into it
        sizes = {key: tensor.numel() * tensor.element_size() for key, tensor in tensors.items()}
        own = format.deal(sizes, world_size)[rank]
        parts = gather(format.write_part(part, {key: tensors[key] for key in own}, rank, world_size))
        if rank == 0:
            format.write_manifest(part, parts, tensors, {**state, "images": images})
            self._publish(part, self.directory / name)
            self._retire()
        gather(None)  # nobody goes on before the checkpoint is there
        return name

    def newest(self) -> tuple[str, dict[str, Any], list[str]]:
        """The newest whole checkpoint: its name, its manifest, and what was wrong with newer ones.

        The name is empty where there is none.
        """
        problems = []
        for name in reversed(self.names()):
            try:
                manifest = format.read_manifest(self.directory / name)
                format.verify(self.directory / name, manifest)
            except DamagedError as error:
                problems.append(str(error))
            else:
                return name, manifest, problems
        return "", {}, problems

    def _publish(self, part: Path, final: Path) -> None:
        if final.exists():  # a damaged one of the same name, or a save that is done again
            aside = final.with_name(f".{final.name}.{os.getpid()}.old")
            final.rename(aside)
            part.rename(final)
            shutil.rmtree(aside)
        else:
            part.rename(final)
        files.sync_directory(self.directory)

    def _retire(self) -> None:
        """Delete old checkpoints, but never one of the `keep` newest whole ones."""
        whole = []
        for name in reversed(self.names()):
            try:
                format.verify(self.directory / name, format.read_manifest(self.directory / name), hashes=False)
                whole.append(name)
            except DamagedError:
                continue  # kept for a person to look at; it does not count
        for name in whole[self.keep :]:
            (self.directory / name / format.MANIFEST).unlink()  # without it the rest is no checkpoint any more
            shutil.rmtree(self.directory / name)


def names(directory: Path) -> list[str]:
    """Names of checkpoints in a folder, oldest first; temporary and foreign names are passed over."""
    if not directory.is_dir():
        return []
    found = [path.name for path in directory.iterdir() if path.is_dir() and _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda name: int(name.removeprefix("images-")))


def describe(directory: Path, hashes: bool = False) -> dict[str, Any]:
    """What a checkpoint is: name, images, bytes, whole, digest, and the problem where it is damaged."""
    found: dict[str, Any] = {
        "name": directory.name,
        "images": int(directory.name.removeprefix("images-")),
        "bytes": sum(path.stat().st_size for path in directory.iterdir() if path.is_file()),
        "whole": False,
        "digest": None,
    }
    try:
        manifest = format.read_manifest(directory)
        format.verify(directory, manifest, hashes)
        return {**found, "whole": True, "digest": format.digest(directory, manifest)}
    except DamagedError as error:
        return {**found, "problem": str(error)}
