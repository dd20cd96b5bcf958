"""Do all ranks hold the same weights? Integer hashes, compared over ranks: no rounding, no tolerance."""

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_CHUNK = 1 << 22  # elements that are widened to 64 bits at a time: 32 MiB, whatever the tensor's size
_ODD = 0x9E3779B1


@torch.no_grad()
def hashes(tensors: Mapping[str, Tensor]) -> list[int]:
    """Return an integer for each tensor, in order of name.

    It is a sum of the bits of every element, each times its position, in integers that wrap: the same whatever the order of
    summing and the memory format, and another where values changed places.
    """
    rows = [_hash(tensors[name].detach()) for name in sorted(tensors)]
    values: list[int] = torch.stack(rows).tolist() if rows else []
    return values


def _hash(tensor: Tensor) -> Tensor:
    # contiguous(): positions are those of the shape, not those in memory
    flat = tensor.contiguous().view(-1).view(_INTEGERS[tensor.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for start in range(0, len(flat), _CHUNK):
        chunk = flat[start : start + _CHUNK].long()
        position = torch.arange(start + 1, start + 1 + len(chunk), device=tensor.device)
        total += chunk.sum() * _ODD + (chunk * position).sum()
    return total


def compare(names: Sequence[str], rank_hashes: Sequence[Sequence[int]]) -> str:
    """Return in words what differs between ranks, or "". `rank_hashes` has each rank's hashes, in order of name."""
    for place, name in enumerate(sorted(names)):
        column = [row[place] for row in rank_hashes]
        if len(set(column)) > 1:
            usual, count = Counter(column).most_common(1)[0]
            others = [rank for rank, value in enumerate(column) if value != usual]
            if count * 2 <= len(column):  # no majority: rank 0 is as suspect as any
                others = [rank for rank, value in enumerate(column) if value != column[0]]
                return f"{name} differs between rank 0 and rank {', '.join(map(str, others))}"
            return f"{name} of rank {', '.join(map(str, others))} differs from the other ranks"
    return ""
