"""Do all processes hold the same weights? Integer hashes, compared over ranks: no rounding, no tolerance."""

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def hashes(tensors: Mapping[str, Tensor]) -> list[int]:
    """An integer for each tensor, in order of name: sums of its bits, which wrap and know no order of summing."""
    rows = []
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        flat = tensor.contiguous().view(-1).view(_INTEGERS[tensor.element_size()])
        # the second sum tells apart what the first one does not: values that changed places
        halves = flat[: len(flat) // 2].sum(dtype=torch.int64)
        rows.append(flat.sum(dtype=torch.int64) * 0x9E3779B1 + halves)
    found: list[int] = torch.stack(rows).tolist() if rows else []
    return found


def compare(names: Sequence[str], found: Sequence[Sequence[int]]) -> str:
    """What differs between ranks, in words; "" if nothing. `found` has the hashes of each rank, in order of name."""
    for place, name in enumerate(sorted(names)):
        column = [row[place] for row in found]
        if len(set(column)) > 1:
            usual, count = Counter(column).most_common(1)[0]
            others = [rank for rank, value in enumerate(column) if value != usual]
            if count * 2 <= len(column):  # no majority: rank 0 is as suspect as any
                others = [rank for rank, value in enumerate(column) if value != column[0]]
                return f"{name} differs between rank 0 and rank {', '.join(map(str, others))}"
            return f"{name} of rank {', '.join(map(str, others))} differs from the other ranks"
    return ""
