"""The folder with a run's checkpoints: which there are, which are whole, which stay."""

import contextlib
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gan_dist import files
from gan_dist.checkpoint.manifest import DamagedError, digest, read_manifest, verify

KEPT = "kept.json"
"""Beside the checkpoints: which of them are kept for a reason of their own, {"best": {"checkpoint": NAME, ...}}."""
_NAME = re.compile(r"images-(\d{9,})")


class Store:
    """`directory` holds `images-000120000/` and the like; anything with another name is not a checkpoint."""

    def __init__(self, directory: Path, keep: int) -> None:
        self.directory = directory
        self.keep = keep
        self._guarded: tuple[int, ...] = ()

    def guard(self, positions: Sequence[int]) -> None:
        """Keep the newest whole checkpoint at or before each of these positions, until others are named."""
        self._guarded = tuple(positions)  # one assignment: the thread that writes reads it

    def newest_before(self, position: int) -> str | None:
        """Return the newest checkpoint at or before a position in images; None where there is none."""
        return next((name for name in reversed(self.names()) if images_of(name) <= position), None)

    def names(self) -> list[str]:
        """Return the names of all checkpoints, oldest first, damaged ones included."""
        return names(self.directory)

    def newest(self, hashes: bool = True) -> tuple[str, dict[str, Any], list[str]]:
        """Return the newest whole checkpoint: its name, its manifest, and what was wrong with newer ones.

        The name is "" where there is none.
        """
        problems = []
        for name in reversed(self.names()):
            try:
                manifest = read_manifest(self.directory / name)
                verify(self.directory / name, manifest, hashes)
            except DamagedError as error:
                problems.append(str(error))
            else:
                return name, manifest, problems
        return "", {}, problems

    def begin(self, images: int) -> Path:
        """Make an empty folder for the parts of a new checkpoint, and delete what earlier saves left unfinished."""
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
                    verify(aside, read_manifest(aside), hashes=False)
                    aside.rename(final)
        for ending in ("part", "old", "replaced"):
            for path in self.directory.glob(f".images-*.{ending}"):
                freed += files.folder_size(path)
                shutil.rmtree(path, ignore_errors=True)
        return freed

    def retire(self) -> int:
        """Delete old checkpoints, but no milestone, none that is guarded or in kept.json, none of the `keep` newest whole ones.

        Returns the bytes freed.
        """
        whole, kept = [], {facts.get("checkpoint") for facts in read_kept(self.directory).values()}
        for name in reversed(self.names()):
            try:
                manifest = read_manifest(self.directory / name)
                verify(self.directory / name, manifest, hashes=False)
                whole.append((name, bool(manifest.get("milestone"))))
            except DamagedError:
                continue  # it stays for a person to look at, and does not count
        freed = 0
        guarded = {next((name for name, _ in whole if images_of(name) <= position), "") for position in self._guarded}
        for name, milestone in whole[self.keep :]:
            if milestone or name in guarded or name in kept:
                continue
            path = self.directory / name
            freed += files.folder_size(path)
            # its name goes first: a kill in the middle leaves nothing that looks like a damaged checkpoint
            shutil.rmtree(path.rename(files.temporary(path, "old")))
        return freed

    def keep_as(self, reason: str, name: str, **facts: Any) -> None:
        """Keep a checkpoint from now on for a reason, instead of the one that was kept for it before."""
        files.write_json(self.directory / KEPT, {**read_kept(self.directory), reason: {"checkpoint": name, **facts}})

    def room(self) -> int:
        """Return how many bytes can be written here."""
        return files.room(self.directory)

    def last_size(self) -> int:
        """Return the size of the newest checkpoint in bytes; 0 where there is none."""
        for name in reversed(self.names()):
            with contextlib.suppress(OSError):
                return files.folder_size(self.directory / name)
        return 0


def read_kept(directory: Path) -> dict[str, dict[str, Any]]:
    """Return the checkpoints that are kept for a reason: {reason: {"checkpoint": NAME, ...}}; empty where that cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((directory / KEPT).read_text())
        if isinstance(found, dict):
            return {reason: facts for reason, facts in found.items() if isinstance(facts, dict)}
    return {}


def name_of(images: int) -> str:
    return f"images-{images:09d}"


def images_of(name: str) -> int:
    """Return the position of a checkpoint."""
    return int(name.removeprefix("images-"))


def names(directory: Path) -> list[str]:
    """Return the names of the checkpoints in a folder, oldest first. Temporary and foreign names are skipped."""
    if not directory.is_dir():
        return []
    checkpoints = [path.name for path in directory.iterdir() if path.is_dir() and _NAME.fullmatch(path.name)]
    return sorted(checkpoints, key=images_of)


def describe(directory: Path, hashes: bool = False) -> dict[str, Any]:
    """Return what a checkpoint is: name, images, bytes, whole, digest, and the problem where it is damaged."""
    facts: dict[str, Any] = {
        "name": directory.name,
        "images": images_of(directory.name),
        "bytes": files.folder_size(directory),
        "whole": False,
        "milestone": False,
        "digest": None,
    }
    try:
        manifest = read_manifest(directory)
        verify(directory, manifest, hashes)
        facts["milestone"] = bool(manifest.get("milestone"))
        return {**facts, "whole": True, "digest": digest(directory, manifest)}
    except DamagedError as error:
        return {**facts, "problem": str(error)}
