"""Share the work by strategy ddp without DDP: one all-reduce of all that an update needs, after its last backward.

A CUDA graph records it with the rest of the phase, and gradients that were computed beside autograd (engine/traced.py) need
no hooks. The sums have DDP's bits at 1 and 2 ranks; beyond, the order of the sum is another one.
"""

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed
from torch import Tensor

from gan_dist.engine import update
from gan_dist.engine.ddp import Ddp
from gan_dist.engine.exact import in_memory
from gan_dist.engine.precision import LossScale
from gan_dist.player import Player


class Flat(Ddp):
    """Every rank holds the networks as they are; gradients, statistics and the finite check are one sum over the ranks."""

    def wrap(self, player: Player) -> None:
        player.trained = player.network

    @contextlib.contextmanager
    def computing(self, player: Player, last: bool, twice: bool) -> Iterator[None]:
        yield

    def update(self, player: Player, scale: LossScale | None) -> tuple[Tensor, Tensor]:
        gradients = [weight.grad for weight in player.weights if weight.grad is not None]
        fault = self._health.take()
        if self._world_size > 1:
            gathered = [each for each in player.moved if each.gathered]
            taken = [each.take() for each in gathered]
            means = [mean for values in taken for mean in values]
            self._average([*gradients, *means, fault])
            shared = iter(means)
            for each, values in zip(gathered, taken, strict=True):
                each.give([next(shared) for _ in values])
        norm = update.norm_of(gradients, scale)
        good = torch.add(fault, norm, alpha=0) == 0  # 0 times what is not finite is NaN
        update.step(player, gradients, norm, good)
        return norm, good

    def _average(self, tensors: list[Tensor]) -> None:
        """Replace tensors by their means over the ranks."""
        runs = [in_memory(tensor) for tensor in tensors]
        dtype = max((run.dtype for run in runs), key=lambda kind: kind.itemsize)
        flat = torch.cat([run.to(dtype) for run in runs])
        torch.distributed.all_reduce(flat)
        flat /= self._world_size
        for tensor, part in zip(tensors, torch.split(flat, [len(run) for run in runs]), strict=True):
            in_place = in_memory(tensor)
            in_place.copy_(part)
            if in_place.data_ptr() != tensor.data_ptr():  # neither order of memory: a copy
                tensor.copy_(in_place.view(tensor.shape))
