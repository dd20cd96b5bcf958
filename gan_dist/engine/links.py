"""Test the connections between ranks: whether a sum is right on all ranks, and how fast it is."""

import time
from collections.abc import Sequence

import torch
import torch.distributed

from gan_dist.engine.engine import Engine


def time_all_reduce(engine: Engine, size: int, rounds: int = 5) -> float:
    """Return the seconds that the sum of `size` bytes over all ranks takes, on the slowest rank."""
    numbers = torch.zeros(size // 4, device=engine.device)
    times = []
    for _ in range(1 + rounds):
        engine.wait()
        began = time.perf_counter()
        torch.distributed.all_reduce(numbers)
        _finish(numbers)
        times.append(time.perf_counter() - began)
    return max(engine.gather(min(times[1:])))


def rate_of_all_reduce(engine: Engine, size: int, rounds: int = 5) -> float:
    """Return the GB/s that a rank sends in the sum of `size` bytes: 2 size (W - 1) / W bytes in a ring of W."""
    count = engine.world_size
    return 2 * size * (count - 1) / count / time_all_reduce(engine, size, rounds) / 1e9


def sum_is_right(engine: Engine, size: int = 1 << 20) -> bool:
    """Return whether this rank gets the right sum: of whole numbers, which fp64 adds without rounding."""
    base = torch.arange(size // 4, device=engine.device) % 1009
    numbers = (base * (engine.rank + 1)).double()
    torch.distributed.all_reduce(numbers)
    total = engine.world_size * (engine.world_size + 1) // 2
    return torch.equal(numbers, (base * total).double())


def rates_in_a_ring(engine: Engine, ranks: Sequence[int], size: int, rounds: int = 3) -> list[float]:
    """Return the GB/s of the better of the two links that each of `ranks` has with its neighbours in a ring; called by all.

    No two links with a common end are measured at the same time.
    """
    count = len(ranks)
    best = [0.0] * count
    edges = [(number, (number + 1) % count) for number in range(count if count > 2 else count - 1)]
    last = edges[-1:] if count % 2 and count > 2 else []
    inner = edges[: len(edges) - len(last)]
    numbers = torch.zeros(size // 4, device=engine.device)
    for together in (inner[0::2], inner[1::2], last):
        own_edges = [edge for edge in together if engine.rank in (ranks[edge[0]], ranks[edge[1]])]
        seconds = []
        for _ in range(1 + rounds):
            engine.wait()
            began = time.perf_counter()
            for first, second in own_edges:
                if engine.rank == ranks[first]:
                    torch.distributed.send(numbers, ranks[second])
                    torch.distributed.recv(numbers, ranks[second])
                else:
                    torch.distributed.recv(numbers, ranks[first])
                    torch.distributed.send(numbers, ranks[first])
            _finish(numbers)
            seconds.append(time.perf_counter() - began)
        rates = {edge: 2 * size / min(seconds[1:]) / 1e9 for edge in own_edges}
        for one in engine.gather(rates):
            for edge, rate in one.items():
                for end in edge:
                    best[end] = max(best[end], rate)
    return best


def _finish(numbers: torch.Tensor) -> None:
    if numbers.is_cuda:
        torch.cuda.synchronize()
