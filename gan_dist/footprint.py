"""Compute what a strategy costs: the bytes that a rank holds, and those that it sends in a step, from the number of weights.

Activations are not included: they depend on the networks, and `gan-dist doctor` measures them. docs/many-ranks.md derives and
measures the figures.
"""

import dataclasses
from collections.abc import Sequence

BUCKETS = 5_000_000
"""Elements that ZeRO sends at once, about DDP's 25 MB; DeepSpeed's own default takes 2 GB of buffer for each network."""


def word(precision: str) -> int:
    """Return the bytes of a weight under a `training.precision`."""
    return 8 if precision == "fp64" else 4


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes that one rank holds of one player while it trains."""

    weights: float
    """What the forward computes with."""
    masters: float
    """ZeRO's fp32 copy of what the rank updates."""
    gradients: float
    """When the last backward of an update has ended."""
    moments: float
    """What the optimizer keeps of the weights."""
    average: float
    buffers: float
    """What ZeRO-3 keeps for what it sends."""

    @property
    def kept(self) -> float:
        """Return the bytes between updates."""
        return self.weights + self.masters + self.moments + self.average + self.buffers

    @property
    def total(self) -> float:
        return self.kept + self.gradients


def memory(
    strategy: str, sizes: Sequence[int], world_size: int, averaged: bool, rank: int = 0, moments: int = 2, word: int = 4
) -> Memory:
    """Return the bytes of a player whose weights have so many elements each, in order.

    `averaged` says whether it has a moving average, `moments` how many tensors of a weight's shape its optimizer keeps
    (`player.kept.tensors`; Adam keeps two). Under ZeRO-1 and 2 a rank keeps the whole gradient of every weight that
    overlaps its partition, until the update. `word`: bytes of a weight.
    """
    weights = sum(sizes)
    whole = word * weights
    part = whole / world_size
    zero = strategy.startswith("zero")
    return Memory(
        weights=part if strategy == "zero3" else whole,
        masters=part if zero else 0.0,
        gradients=word * _touched(sizes, world_size, rank)
        if strategy in ("zero1", "zero2")
        else part
        if zero
        else whole,
        moments=moments * (part if zero else whole),
        average=(part if zero else whole) if averaged else 0.0,
        buffers=word * min(BUCKETS, weights) if strategy == "zero3" else 0.0,
    )


def _touched(sizes: Sequence[int], world_size: int, rank: int) -> int:
    """Return the elements of the weights that overlap a rank's partition."""
    total, start, touched = sum(sizes), 0, 0
    for size in sizes:
        if start < total * (rank + 1) / world_size and start + size > total * rank / world_size:
            touched += size
        start += size
    return touched


def transient(strategy: str, weights: int, parts: int, gathers: bool, word: int = 4) -> float:
    """Return the bytes that an update takes for a while on top: `parts` micro-batches a rank; `gathers`: an exact penalty.

    `exact` keeps a partial sum for each level of its tree, and sends a copy of all of them. ZeRO-3 with a penalty that
    differentiates twice holds weights and gradients whole, and a copy of the gradients when it hands them over.
    """
    whole = word * weights
    if strategy == "exact":
        return whole * (parts.bit_length() + 1)
    if strategy == "zero3" and gathers:
        return 3 * whole
    return 0.0


@dataclasses.dataclass
class Uses:
    """How often a player is used in a step, in any player's turn: the mean over steps (doctor/play.py counts)."""

    backwards: float
    """For its own gradients."""
    passes: float
    """Forwards that gradients flow back through."""
    looks: float
    """Forwards without."""
    updates: float


def traffic(strategy: str, weights: int, world_size: int, used: Uses, word: int = 4) -> float:
    """Return the bytes that a rank sends for a player of so many weights in a step, over rings.

    With ZeRO-3 at most: where a prefetched weight is still there for its next use, DeepSpeed does not gather it again.
    """
    if world_size == 1:
        return 0.0
    once = word * weights * (world_size - 1) / world_size  # a reduce-scatter, or an all-gather
    if strategy in ("ddp", "exact"):
        return once * 2 * used.updates
    if strategy == "zero1":
        return once * (2 + 1) * used.updates  # DeepSpeed reduces by all-reduce, though a rank keeps only its part
    if strategy == "zero2":
        return once * (2 * used.backwards + used.updates)
    # weights for a forward, and again for what it gives back
    return once * (used.backwards + 2 * used.passes + used.looks)
