"""Strategies whose processes hold both networks whole: gradients averaged by DDP, and what they share with `exact`."""

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed
from accelerate import Accelerator
from torch import Tensor

from gan_dist.engine.health import Health
from gan_dist.engine.launch import prepare_quietly
from gan_dist.engine.precision import LossScale
from gan_dist.networks.statistics import batch_norms
from gan_dist.player import Player


class Ddp:
    """Accelerate's DDP: gradients cross in buckets while the last backward of an update still runs."""

    def __init__(self, accelerator: Accelerator, health: Health, parts: int) -> None:
        self._accelerator, self._health = accelerator, health
        self._world_size: int = accelerator.num_processes
        self.parts = parts
        """Micro-batches whose sum is to become the mean: this process's, as DDP averages over processes."""

    def wrap(self, player: Player) -> None:
        player.trained = prepare_quietly(self._accelerator, player.network)

    @contextlib.contextmanager
    def computing(self, player: Player, last: bool, twice: bool) -> Iterator[None]:
        """Around the forward and backward of a loss; in the `last` of an update the processes exchange gradients."""
        if last:
            yield
        else:
            with self._accelerator.no_sync(player.trained):
                yield

    def backward(self, player: Player, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def passed(self, player: Player) -> None:
        """All losses of a pass are done."""

    def shared(self, player: Player) -> None:
        """All passes of an update are done."""

    def update(self, player: Player, scale: LossScale | None) -> tuple[Tensor, Tensor]:
        """Move the player: the gradient's norm, and whether the update was good, a boolean the same everywhere."""
        gradients = [weight.grad for weight in player.network.parameters() if weight.grad is not None]
        norm = norm_of(gradients, scale)
        self._health.add(norm)
        good = all_reduce_statistics(player, self._health, self._world_size) & torch.isfinite(norm)
        step(player, gradients, norm, good)
        return norm, good

    def averages(self, player: Player) -> contextlib.AbstractContextManager[None]:
        """While it lasts, the player's average is whole on every process."""
        return contextlib.nullcontext()

    def release(self) -> None:
        """Nothing is kept."""


def norm_of(gradients: list[Tensor], scale: LossScale | None) -> Tensor:
    """The L2 norm of all gradients, from which the loss's scale is taken away first."""
    if scale is not None:
        torch._foreach_mul_(gradients, 1 / scale.factor)
    return torch.nn.utils.get_total_norm(gradients)


def step(player: Player, gradients: list[Tensor], norm: Tensor, good: Tensor) -> None:
    """Clip, and let the optimizer move the player unless the update is not `good`. Never waits for a GPU."""
    if player.clip_norm:
        torch._foreach_mul_(gradients, (player.clip_norm / (norm + 1e-6)).clamp(max=1.0))
    if good.is_cuda:
        # fused Adam leaves weights, moments and counts alone where this is 1 (it is what GradScaler sets)
        player.optimizer.found_inf = (~good).float()  # type: ignore[attr-defined]
        player.optimizer.step()
    elif good:
        player.optimizer.step()


def all_reduce_statistics(player: Player, health: Health, world_size: int) -> Tensor:
    """The mean of BatchNorm's statistics over all processes; returns whether all of them had finite losses."""
    finite = health.take().view(1)
    if world_size > 1:
        norms = [norm for norm in batch_norms(player.network) if norm.gathered]
        parts = [statistic for norm in norms for statistic in (norm.step_mean, norm.step_var)]
        flat = torch.cat([*parts, finite.to(parts[0].dtype) if parts else finite])
        torch.distributed.all_reduce(flat)
        flat /= world_size
        *shared, finite = torch.split(flat, [*(len(part) for part in parts), 1])
        if parts:
            torch._foreach_copy_(parts, shared)
    return finite[0] == 1
