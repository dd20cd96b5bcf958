"""The checkpoints of a run as a folder: which there are, which are whole, which stay."""

import contextlib
import os
import re
import shutil
from pathlib import Path
from typing import Any

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

    def newest(self, hashes: bool = True) -> tuple[str, dict[str, Any], list[str]]:
        """The newest whole checkpoint: its name, its manifest, and what was wrong with newer ones.

        The name is empty where there is none.
        """
        problems = []
        for name in reversed(self.names()):
            try:
                manifest = format.read_manifest(self.directory / name)
                format.verify(self.directory / name, manifest, hashes)
            except DamagedError as error:
                problems.append(str(error))
            else:
                return name, manifest, problems
        return "", {}, problems

    def begin(self, images: int) -> Path:
        """An empty folder for the parts of a new checkpoint; what earlier saves left unfinished goes."""
        self.sweep()
        part = self.directory / f".{name_of(images)}.part"
        part.mkdir(parents=True)
        return part

    def publish(self, part: Path, images: int) -> None:
        """Give a written checkpoint its name."""
        final = self.directory / name_of(images)
        files.sync_directory(part)
        replaced = None
        if not final.exists():
            part.rename(final)
        # a damaged one of the same name, or a save that is done again: at no moment is there neither
        elif files.exchange(part, final):
            replaced = part.rename(files.temporary(final, "replaced"))
        else:  # a kill between these two hides the old one until `sweep` gives it its name back
            replaced = final.rename(files.temporary(final, "replaced"))
            part.rename(final)
        files.sync_directory(self.directory)
        if replaced is not None:
            shutil.rmtree(replaced)

    def sweep(self) -> int:
        """Delete what killed saves left behind, and return the bytes that became free.

        A checkpoint that was set aside for its replacement, which never came, gets its name back.
        """
        freed = 0
        for aside in self.directory.glob(".images-*.replaced"):
            final = self.directory / aside.name.removeprefix(".").partition(".")[0]
            with contextlib.suppress(DamagedError, OSError):
                if not final.exists():
                    format.verify(aside, format.read_manifest(aside), hashes=False)
                    aside.rename(final)
        for ending in ("part", "old", "replaced"):
            for path in self.directory.glob(f".images-*.{ending}"):
                freed += _bytes(path)
                shutil.rmtree(path, ignore_errors=True)
        return freed

    def retire(self) -> int:
        """Delete old checkpoints, but no milestone and none of the `keep` newest whole ones; the bytes freed."""
        whole = []
        for name in reversed(self.names()):
            try:
                manifest = format.read_manifest(self.directory / name)
                format.verify(self.directory / name, manifest, hashes=False)
                whole.append((name, bool(manifest.get("milestone"))))
            except DamagedError:
                continue  # kept for a person to look at; it does not count
        freed = 0
        for name, milestone in whole[self.keep :]:
            if milestone:
                continue
            path = self.directory / name
            freed += _bytes(path)
            # all at once: a kill in the midst of deleting leaves nothing that looks like a damaged checkpoint
            shutil.rmtree(path.rename(files.temporary(path, "old")))
        return freed

    def room(self) -> int:
        """Bytes that can be written here."""
        state = os.statvfs(self.directory)
        return state.f_bavail * state.f_frsize

    def last_size(self) -> int:
        """Bytes of the newest checkpoint; 0 where there is none."""
        for name in reversed(self.names()):
            with contextlib.suppress(OSError):
                return _bytes(self.directory / name)
        return 0


def name_of(images: int) -> str:
    return f"images-{images:09d}"


def _bytes(directory: Path) -> int:
    total = 0
    for path in directory.iterdir():
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total


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
        "bytes": _bytes(directory),
        "whole": False,
        "milestone": False,
        "digest": None,
    }
    try:
        manifest = format.read_manifest(directory)
        format.verify(directory, manifest, hashes)
        found["milestone"] = bool(manifest.get("milestone"))
        return {**found, "whole": True, "digest": format.digest(directory, manifest)}
    except DamagedError as error:
        return {**found, "problem": str(error)}
