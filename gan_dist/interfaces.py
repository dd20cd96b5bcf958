"""Define what modules pass to each other: samples of a batch, what a game wants of a sample, and one update of a player."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch import Tensor, nn

from gan_dist import rng
from gan_dist.player import Player

_FURTHER = 40  # bits of a position: beyond them is the number of a further image of the same position


@dataclasses.dataclass(frozen=True)
class Field:
    """What a game wants of each sample under one name: an image, a label map, or a class.

    Fields of one sample are cropped and mirrored alike.
    """

    kind: Literal["image", "labels", "class"] = "image"
    channels: int = 0
    """Of an image; of a label map one for each class, 1 where a pixel is of the class and 0 elsewhere."""
    size: tuple[int, int] = (0, 0)
    """Height and width of an image or a label map."""
    classes: int = 0
    """Of a class or a label map: numbers 0..classes-1."""


Draw = Callable[[int, Tensor, int], Tensor]
"""rng.normal, rng.uniform or rng.bits."""


class Together:
    """Draw random numbers once for all micro-batches of a rank: they are functions of a position, so they are the same.

    Each call of `rng` is some forty small kernels.
    """

    _MOST = 1 << 20  # numbers: more are drawn for each micro-batch, so that memory does not grow with their count

    def __init__(self, positions: Sequence[Tensor]) -> None:
        self._positions = positions
        self._drawn: dict[tuple[Draw, int, int], list[Tensor]] = {}

    def draw(self, part: int, draw: Draw, stream: int, count: int) -> Tensor:
        """Return the numbers of micro-batch number `part`."""
        lengths = [len(positions) for positions in self._positions]
        if sum(lengths) * count > self._MOST:
            return draw(stream, self._positions[part], count)
        key = draw, stream, count
        if key not in self._drawn:
            self._drawn[key] = list(torch.split(draw(stream, torch.cat(list(self._positions)), count), lengths))
        return self._drawn[key][part]

    def forget(self) -> None:
        """Drop what was drawn, at the end of a phase: a CUDA graph of one then needs nothing of another."""
        self._drawn.clear()


@dataclasses.dataclass
class Batch:
    """Samples that pass the networks together: one micro-batch, or `parts` micro-batches of the same size joined."""

    fields: dict[str, Tensor]
    """Images (N, C, H, W) in [-1, 1], label maps (N, classes, H, W) of 0 and 1, and classes (N,) int64 by field name, on the
    device."""
    positions: Tensor
    """(N,) int64: each sample's position in the run, the key of its random numbers."""
    parts: int = 1
    """Micro-batches in it; layers and losses that look across samples work on each micro-batch by itself."""
    cache: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    """What one phase computes and a later phase of the same step uses again."""
    together: Together | None = None
    """Draws for this and other micro-batches at once."""
    part: int = 0
    """Which of them this is."""

    def draw(self, draw: Draw, stream: int, count: int) -> Tensor:
        """Return random numbers for each position, as rng.normal and its like do: (N, count)."""
        if self.together is None:
            return draw(stream, self.positions, count)
        return self.together.draw(self.part, draw, stream, count)

    def draws(self, key: int) -> rng.Draws:
        """Return random numbers for each position by name."""
        return rng.Draws(key, self.positions, self.draw)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, name: str) -> Tensor:
        return self.fields[name]

    def get(self, name: str) -> Tensor | None:
        """Return the field, or None where the samples have none of this name."""
        return self.fields.get(name)

    def to(self, device: torch.device, dtype: torch.dtype, memory_format: torch.memory_format) -> "Batch":
        """Move the samples to a device; images in a type and a memory format."""
        fields = {
            name: tensor.to(device=device, dtype=dtype, memory_format=memory_format)
            if tensor.is_floating_point()
            else tensor.to(device)
            for name, tensor in self.fields.items()
        }
        return Batch(fields, self.positions.to(device), self.parts)


@dataclasses.dataclass(frozen=True)
class LatentSpace:
    """What a game draws its samples from, and what turns it into images."""

    network: nn.Module
    """(N, latent) [and (N,) classes, else None] -> (N, C, H, W) in [-1, 1]: the averaged one, in evaluation mode."""
    draw: Callable[[int, Tensor], Tensor]
    """Key and (N,) numbers of samples -> latents (N, latent). Those of a seed's samples have rng.key(seed, "sample")."""
    classes: int = 0
    uniform: bool = False
    """Whether each number of a latent is uniform in [-1, 1]; else it is standard normal."""
    encoder: nn.Module | None = None
    """(N, C, H, W) images -> means and log-variances of their latents, (N, latent) each."""


@dataclasses.dataclass(frozen=True)
class Phase:
    """One update: of which player, every how many steps, by which loss of some samples (a scalar, their mean).

    A `penalty` is added to the loss, or is all there is; it is computed apart, as it may need another precision and
    the weights whole.
    """

    player: Player
    loss: Callable[[Batch], Tensor] | None = None
    penalty: Callable[[Batch], Tensor] | None = None
    twice: bool = False
    """Whether the penalty differentiates a gradient, or reads the weights: they must stay whole while it is computed."""
    full_precision: bool = True
    """Whether the penalty is computed in fp32 (or fp64) all the same."""
    together: bool = False
    """Whether loss and penalty share what they compute: one backward of their sum. Else each has its own, which takes less
    memory."""
    every: int = 1
    shift: int = 0
    """Steps by which it comes earlier: of every 2, shift 0 is the second, shift 1 the first."""
    begin: int = 0
    """Position in images from which on the phase is played."""
    end: int | None = None
    """Position in images from which on it is played no more."""

    def terms(
        self,
        penalising: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
        report: Callable[[Tensor], object] = lambda loss: None,
    ) -> list[tuple[Callable[[Batch], Tensor], bool]]:
        """Return what is descended by a backward each: a loss, and whether it is the penalty alone.

        Of a sum, the penalty is computed inside of `penalising`, and the loss without it goes to `report`.
        """
        loss, penalty = self.loss, self.penalty
        if not self.together or loss is None or penalty is None:
            return [(term, term is penalty) for term in (loss, penalty) if term is not None]

        def total(batch: Batch) -> Tensor:
            plain = loss(batch)
            report(plain)
            with penalising():
                return plain + penalty(batch)

        return [(total, False)]


def join(batches: Sequence[Batch], size: int) -> list[Batch]:
    """Join the micro-batches of a step, `size` at a time, to go through the networks in fewer passes.

    Images are then in memory once: those of `batches` become views.
    """
    if size == 1:
        return list(batches)
    joined = []
    for group in (batches[start : start + size] for start in range(0, len(batches), size)):
        lengths = [len(batch) for batch in group]
        fields = {name: torch.cat([batch.fields[name] for batch in group]) for name in group[0].fields}
        for name, tensor in fields.items():
            for batch, part in zip(group, torch.split(tensor, lengths), strict=True):
                batch.fields[name] = part
        positions = torch.cat([batch.positions for batch in group])
        joined.append(Batch(fields, positions, parts=len(group)))
    return joined


def repeated(batch: Batch, count: int) -> Batch:
    """Return a batch without images with `count` positions and classes for each sample, side by side; `count` 1: itself."""
    if count == 1:
        return batch
    further = torch.arange(count, device=batch.positions.device) << _FURTHER
    positions = (batch.positions[:, None] + further).flatten()
    fields = {name: tensor.repeat_interleave(count) for name, tensor in batch.fields.items() if tensor.ndim == 1}
    return Batch(fields, positions, batch.parts)


def one_hot(numbers: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Return label maps (N, H, W) of integers as (N, classes, H, W) of 0 and 1, channels last; others are of no class."""
    each = torch.arange(classes, dtype=numbers.dtype, device=numbers.device)
    return (numbers[..., None] == each).to(dtype).permute(0, 3, 1, 2)  # functional.one_hot makes int64


def draw_together(batches: Sequence[Batch]) -> Together:
    """Let micro-batches that pass the networks one after the other draw their random numbers at once."""
    together = Together([batch.positions for batch in batches])
    if len(batches) > 1:
        for part, batch in enumerate(batches):
            batch.together, batch.part = together, part
    return together


def random_batch(fields: Mapping[str, Field], seed: int, positions: Tensor) -> Batch:
    """Make random samples for some positions, in float64 where the positions are: uniform images, labels and classes."""
    made: dict[str, Tensor] = {}
    for name, field in fields.items():
        key = rng.key(seed, f"random {name}")
        if field.kind == "class":
            made[name] = rng.integers(key, positions, field.classes)
            continue
        if field.kind == "labels":
            numbers = (rng.uniform(key, positions, math.prod(field.size)) * field.classes).long()
            made[name] = one_hot(numbers.view(-1, *field.size), field.classes, torch.float64)
            continue
        pixels = 2 * rng.uniform(key, positions, field.channels * math.prod(field.size)) - 1
        made[name] = pixels.view(-1, field.channels, *field.size)
    return Batch(made, positions)
