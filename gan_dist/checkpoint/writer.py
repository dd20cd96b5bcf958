"""Saves in the background: the loop stalls only for a copy to host memory, and a thread does the rest.

Every rank writes what it was dealt. Rank 0 declares the parts a checkpoint once all are on the disk. A save that fails on
one rank fails on all. It is reported, and the older checkpoints stay.
"""

import contextlib
import dataclasses
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gan_dist import files, units
from gan_dist.checkpoint import format
from gan_dist.checkpoint.format import DamagedError, Part, Piece
from gan_dist.checkpoint.store import Store, name_of
from gan_dist.checkpoint.tensors import State

_NICE = 10
_SPARE = 1.1  # a save needs its size and a little more


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a save. Only the times differ between ranks."""

    name: str
    images: int
    bytes: int = 0
    seconds: float = 0.0
    """From the copy until the checkpoint has its name."""
    stalled: float = 0.0
    """Seconds that the loop stood still, waiting for the previous save and copying."""
    problem: str = ""
    """Why it was not saved; empty if it was."""
    warning: str = ""
    """What a person should know although it was saved."""


class Writer:
    """Makes one save at a time. Every rank calls the same methods in the same order.

    `gather` collects a value of every rank on all of them. A thread calls it, so it needs a process group of its own
    (Engine.channel).
    """

    def __init__(
        self,
        store: Store,
        rank: int = 0,
        world_size: int = 1,
        gather: Callable[[Any], Sequence[Any]] = lambda value: [value],
    ) -> None:
        self.store, self.rank, self.world_size = store, rank, world_size
        self._gather = gather
        self._thread: threading.Thread | None = None
        self._outcomes: list[Outcome] = []
        self._error: BaseException | None = None
        self._buffers: dict[Piece, Tensor] = {}

    def save(self, images: int, tensors: State, state: Mapping[str, Any]) -> None:
        """Copy this rank's part of `tensors`, and begin to write it. Waits for the previous save.

        `state` is everything in the run that is not a tensor.
        """
        began = time.perf_counter()
        self._join()
        pieces = self._copy(tensors.pieces(self.rank, self.world_size))
        stalled = time.perf_counter() - began
        arguments = images, pieces, tensors.shapes, {**state, "steps": tensors.steps, "images": images}, stalled
        self._thread = threading.Thread(target=self._work, args=arguments, name="checkpoint writer")
        self._thread.start()

    def finished(self) -> list[Outcome]:
        """Return the saves that ended since the last call."""
        if self._error is not None:
            raise self._error
        if not self._outcomes:
            return []
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def wait(self) -> list[Outcome]:
        """Wait for the save in flight, then return the saves that ended since the last call."""
        self._join()
        return self.finished()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            raise self._error

    def _copy(self, pieces: Sequence[tuple[Piece, Tensor]]) -> list[tuple[Piece, Tensor]]:
        """Copy this rank's pieces to host memory, which stays from save to save and is pinned where a GPU copies into it.

        The tensor that comes with a piece is the piece itself, or the whole tensor that it is cut from.
        """
        on_gpu = False
        for piece, held in pieces:
            source = held.detach()
            on_gpu = on_gpu or source.is_cuda
            if piece not in self._buffers:
                self._buffers[piece] = torch.empty(piece.length, dtype=source.dtype, pin_memory=source.is_cuda)
            buffer = self._buffers[piece]
            if piece.length == source.numel():  # one copy, from any memory format
                buffer.view(source.shape).copy_(source, non_blocking=True)
            else:
                part = source.reshape(-1)[piece.offset : piece.offset + piece.length]
                buffer.copy_(part, non_blocking=True)
        if on_gpu:
            torch.cuda.current_stream().synchronize()
        wanted = {piece for piece, _ in pieces}
        self._buffers = {piece: buffer for piece, buffer in self._buffers.items() if piece in wanted}
        return [(piece, self._buffers[piece]) for piece, _ in pieces]

    def _work(
        self,
        images: int,
        pieces: list[tuple[Piece, Tensor]],
        shapes: dict[str, Tensor],
        state: dict[str, Any],
        stalled: float,
    ) -> None:
        began = time.perf_counter()
        with contextlib.suppress(OSError):  # this thread and those it starts use the time that the training leaves
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        try:
            outcome = self._write(images, pieces, shapes, state)
        except BaseException as error:  # another rank is gone: raised in the loop
            self._error = error
            return
        seconds = time.perf_counter() - began + stalled
        self._outcomes.append(dataclasses.replace(outcome, seconds=seconds, stalled=stalled))

    def _write(
        self,
        images: int,
        pieces: list[tuple[Piece, Tensor]],
        shapes: dict[str, Tensor],
        state: dict[str, Any],
    ) -> Outcome:
        """After each step all ranks know whether it succeeded on all."""
        outcome = Outcome(name=name_of(images), images=images)
        size = sum(tensor.numel() * tensor.element_size() for tensor in shapes.values())
        part, warning, problem = self._first(lambda: self._begin(images, size))
        if problem:
            return dataclasses.replace(outcome, problem=problem)
        outcome = dataclasses.replace(outcome, bytes=size, warning=warning)
        written, problem = _attempt(lambda: format.write_part(part, pieces, self.rank, self.world_size))
        parts: list[tuple[Part | None, str]] = list(self._gather((written, problem)))
        if not (problem := _worst([problem for _, problem in parts])):
            _, _, problem = self._first(lambda: self._publish(part, images, [p for p, _ in parts if p], shapes, state))
        if problem:
            if self.rank == 0:
                shutil.rmtree(part, ignore_errors=True)
            return dataclasses.replace(outcome, problem=problem)
        # each rank reads back what it wrote; only then may an older checkpoint go
        _, problem = _attempt(lambda: self._read_back(outcome.name, written))
        if problem := _worst(list(self._gather(problem))):
            return dataclasses.replace(outcome, problem=f"what was written does not read back: {problem}")
        _, _, problem = self._first(lambda: (None, str(self.store.retire())))
        if problem:
            outcome = dataclasses.replace(outcome, warning=f"an old checkpoint could not be deleted: {problem}")
        return outcome

    def _read_back(self, name: str, written: Part) -> None:
        path = self.store.directory / name / written.file
        actual = files.sha256_file(path, from_disk=True)  # memory would only repeat what was written
        if actual != written.sha256:
            raise DamagedError(f"{path} has SHA-256 {actual}, written was {written.sha256}")
        if self.rank == 0:
            format.read_manifest(self.store.directory / name)

    def _first(self, work: Callable[[], tuple[Any, str]]) -> tuple[Any, str, str]:
        """Run `work` on rank 0. Returns its result on all ranks, and what went wrong there."""
        outcome: tuple[Any, str, str] = (None, "", "")
        if self.rank == 0:
            result, problem = _attempt(work)
            outcome = (*(result or (None, "")), problem)
        return self._gather(outcome)[0]  # type: ignore[no-any-return]

    def _begin(self, images: int, size: int) -> tuple[Path, str]:
        """Make a folder for the parts if there is room for them. Returns it, and a warning where room gets short."""
        store = self.store
        store.directory.mkdir(parents=True, exist_ok=True)
        needed = int(max(size, store.last_size()) * _SPARE)
        if store.room() < needed:
            store.sweep()
            store.retire()
        room = store.room()
        if room < needed:
            raise OSError(
                None, f"{units.size(room)} free in {store.directory}, a checkpoint needs {units.size(needed)}"
            )
        warning = ""
        if room < 2 * needed:
            warning = f"only {units.size(room)} free in {store.directory}: after this checkpoint there is no room for the next"
        return store.begin(images), warning

    def _publish(
        self, part: Path, images: int, parts: list[Part], shapes: dict[str, Tensor], state: dict[str, Any]
    ) -> tuple[None, str]:
        format.write_manifest(part, parts, shapes, state)
        self.store.publish(part, images)
        return None, ""


def _attempt(work: Callable[[], Any]) -> tuple[Any, str]:
    """Return what `work` returns, or why the disk refused."""
    try:
        return work(), ""
    except DamagedError as error:
        return None, str(error)
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        return None, f"{error.strerror or error}{place}"


def _worst(problems: Sequence[str]) -> str:
    return next((problem for problem in problems if problem), "")
