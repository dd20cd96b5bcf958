"""The sum by hand is the mean over ranks, in place, in any order of memory, with the bits of DDP's at 2 ranks."""

import pytest
import torch
from torch import Tensor

from gan_dist.engine.flat import Flat
from gan_dist.engine.health import Health


def test_the_mean_of_two_ranks_has_ddps_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = torch.Generator().manual_seed(0)
    shapes = [(3, 2, 2, 2), (5,), (2, 3), ()]
    own, others = ([torch.randn(shape, generator=numbers) for shape in shapes] for _ in range(2))
    own[0] = own[0].contiguous(memory_format=torch.channels_last)
    own[2], others[0] = own[2].t(), others[0].contiguous(memory_format=torch.channels_last)
    others[2] = others[2].t()
    # as DDP does: each rank divides, then they are summed
    expected = [mine / 2 + theirs / 2 for mine, theirs in zip(own, others, strict=True)]
    runs = [others[0].permute(0, 2, 3, 1).reshape(-1), *(each.reshape(-1) for each in others[1:])]

    def all_reduce(flat: Tensor) -> None:
        flat += torch.cat(runs)

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    flat = Flat(None, Health(1, torch.device("cpu")), 1)
    flat._world_size = 2
    kept = list(own)
    flat._average(own)
    assert all(one is other for one, other in zip(kept, own, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(own, expected, strict=True))
