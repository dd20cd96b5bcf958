"""Saves checkpoints and dies (kill -9) at the k-th operation on the file system, for k = 1, 2, ... until one save survives.

`killed_writer.py FOLDER`: prints a JSON line for each k: the operation it died in, and what was found afterwards.
torch is imported once; each death is a fork's.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from gan_dist.checkpoint import Store, Writer, format
from gan_dist.checkpoint.tensors import State

torch.set_num_threads(1)
OPERATIONS = ("mkdir", "open", "write", "fsync", "rename", "replace", "unlink", "rmdir")
SIZES = {"a": 1000, "b": 3}


def state(images: int) -> dict[str, torch.Tensor]:
    return {name: torch.full((count,), float(images)) for name, count in SIZES.items()}


def save(folder: Path, images: int) -> None:
    writer = Writer(Store(folder, 2))
    writer.save(images, State.of(state(images)), {})
    (outcome,) = writer.wait()
    assert not outcome.problem, outcome


def die_at(number: int, folder: Path, report: int) -> None:
    """Count operations on paths within the folder, or on descriptors (of which nothing else writes any)."""
    count = 0

    def wrap(name):
        original = getattr(os, name)

        def operation(*arguments, **keywords):
            nonlocal count
            if name in ("write", "fsync", "unlink", "rmdir") or str(arguments[0]).startswith(str(folder)):
                count += 1
                if count == number:
                    original_write(report, f"{name} {arguments[0]}\n".encode())
                    os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **keywords)

        return operation

    original_write = os.write
    for name in OPERATIONS:
        setattr(os, name, wrap(name))


def newest(folder: Path) -> tuple[int, bool]:
    """Position of the newest whole checkpoint, and whether its tensors are what was saved then."""
    name, manifest, _ = Store(folder, 2).newest()
    images = int(manifest.get("images", 0))
    if not name:
        return 0, False
    found = format.read_tensors(folder / name, manifest)
    return images, all(torch.equal(found[key], tensor) for key, tensor in state(images).items())


def main(folder: Path) -> None:
    for images in (100, 200):
        save(folder, images)
    number, latest = 1, 200
    while True:
        images = latest + 100
        read, report = os.pipe()
        child = os.fork()
        if not child:
            die_at(number, folder, report)
            save(folder, images)
            os._exit(0)
        os.close(report)
        _, status = os.waitpid(child, 0)
        operation = os.read(read, 1000).decode().strip()
        os.close(read)
        survived = os.waitstatus_to_exitcode(status) == 0
        found, equal = newest(folder)
        whole = [name for name in Store(folder, 2).names() if format.find(folder / name)]
        print(json.dumps({"number": number, "operation": operation, "survived": survived, "saving": images,
                          "before": latest, "found": found, "equal": equal, "whole": len(whole)}), flush=True)  # fmt: skip
        if survived:
            return
        latest, number = found, number + 1


if __name__ == "__main__":
    main(Path(sys.argv[1]))
