"""Say how many ranks can share a batch. Loads nothing, so that a login node answers at once."""

import math


def fitting(parts: int, strategy: str) -> list[int]:
    """Return the counts of ranks that can share `parts` micro-batches evenly, in order.

    With `exact` the micro-batches of a rank are also a whole subtree of the binary tree over all of them.
    """
    counts = [count for count in range(1, parts + 1) if parts % count == 0]
    if strategy == "exact":
        counts = [count for count in counts if count == 1 or _is_power_of_two(parts // count)]
    return counts


def refusal(batch: int, micro_batch: int, strategy: str, count: int) -> str:
    """Return why `count` ranks cannot share a batch, and what to type; empty if they can."""
    parts = batch // micro_batch
    counts = fitting(parts, strategy)
    if count in counts:
        return ""
    step = count * micro_batch
    start = f"start {', '.join(map(str, counts))} processes"
    if strategy == "exact":
        return (
            f"training.strategy = exact cannot sum {parts} micro-batches over {count} processes in its tree; {start}, "
            + (
                "or set training.strategy: ddp"
                if parts % count == 0
                else f"or set training.batch: {_near(batch, step, strategy)}"
            )
        )
    return (
        f"training.batch = {batch} is {parts} micro-batches of {micro_batch}, which {count} processes cannot share evenly; "
        f"{start}, or set training.batch: {_near(batch, step, strategy)}"
    )


def _near(batch: int, step: int, strategy: str) -> int:
    """Return the batch nearest to `batch` that ranks can share which hold `step` samples at once."""
    if strategy == "exact":
        return step << max(0, round(math.log2(batch / step)))
    return step * max(1, round(batch / step))


def _is_power_of_two(number: int) -> bool:
    return number & (number - 1) == 0
