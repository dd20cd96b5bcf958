"""Update a player that every rank holds whole: the gradient's norm, clipping, the finite check, the optimizer.

An update whose loss or gradient is not finite on any rank changes nothing: no weight, no optimizer state, no step count.
On a GPU that is decided on the device, so that the host never waits.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from gan_dist.engine.health import Health
from gan_dist.engine.precision import LossScale
from gan_dist.player import Player


def add_gradients(pairs: Sequence[tuple[nn.Parameter, Tensor]]) -> None:
    """Add gradients to those that the weights have, as a backward does."""
    known = [(weight.grad, gradient) for weight, gradient in pairs if weight.grad is not None]
    for weight, gradient in pairs:
        if weight.grad is None:
            weight.grad = gradient
    if known:
        torch._foreach_add_([own for own, _ in known], [gradient for _, gradient in known])


def norm_of(gradients: list[Tensor], scale: LossScale | None) -> Tensor:
    """Return the L2 norm of all gradients, after dividing them by the loss's scale."""
    if scale is not None:
        torch._foreach_mul_(gradients, 1 / scale.factor)
    return torch.nn.utils.get_total_norm(gradients)


def step(player: Player, gradients: list[Tensor], norm: Tensor, good: Tensor) -> None:
    """Clip, and let the optimizer move the player unless the update is not `good` (a boolean scalar on the device)."""
    if player.clip_norm:
        torch._foreach_mul_(gradients, (player.clip_norm / (norm + 1e-6)).clamp(max=1.0))
    optimizer = player.optimizer
    if not on_device(good) or _makes_state(player):
        # no mask can take back the state that an optimizer's first step makes: there the host waits, once a run
        if good:
            optimizer.step()
    elif takes_found_inf(optimizer):
        # a fused kernel leaves weights, state and counts alone where this is 1 (it is what GradScaler sets)
        optimizer.found_inf = (~good).float()  # type: ignore[attr-defined]
        optimizer.step()
    else:
        masked_step(optimizer, good)


def on_device(good: Tensor) -> bool:
    """Say whether the device decides about an update by itself."""
    return good.is_cuda


def has_state(player: Player) -> bool:
    """Say whether the optimizer has all its state of all weights."""
    state = player.optimizer.state
    return (not player.kept.tensors and player.kept.step is None) or all(state.get(weight) for weight in player.weights)


def _makes_state(player: Player) -> bool:
    """Say whether the next step is the first of some weight."""
    if not player.kept.tensors and player.kept.step is None:
        return False
    state = player.optimizer.state
    return any(not state.get(weight) for weight in player.weights if weight.grad is not None)


def takes_found_inf(optimizer: torch.optim.Optimizer) -> bool:
    """Say whether a step of it does nothing where its `found_inf` is 1: torch's fused ones."""
    fused = all(group.get("fused") for group in optimizer.param_groups)
    return fused and bool(getattr(optimizer, "_step_supports_amp_scaling", False))


@torch.no_grad()
def masked_step(optimizer: torch.optim.Optimizer, good: Tensor) -> None:
    """Take a step of any optimizer that has state already; undo all of it where it is not `good`.

    It holds the weights and their state twice. The host waits only for an optimizer that changes state on the host (a step
    count as a Python number, or Adagrad's as a CPU tensor).
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"] if weight.grad is not None]
    places: list[tuple[dict[Any, Any], Any, Any]] = []  # (state of a weight, name, value before)
    for weight in weights:
        state = optimizer.state.get(weight, {})
        places += [(state, name, _copied(value)) for name, value in state.items()]
    before = [weight.clone() for weight in weights]
    optimizer.step()
    for weight, old in zip(weights, before, strict=True):
        weight.copy_(torch.where(good, weight, old))
    on_host = []
    for state, name, old in places:
        new = state[name]
        if isinstance(new, Tensor) and new.device == good.device:
            new.copy_(torch.where(good, new, old))
        elif not isinstance(new, Tensor) or not torch.equal(new, old):
            on_host.append((state, name, old))
    if any(state[name] is not old for state, name, old in on_host) and not good:
        for state, name, old in on_host:
            state[name] = old


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def all_reduce_statistics(player: Player, health: Health, world_size: int) -> Tensor:
    """Give the player's statistics their mean over all ranks; returns whether all that was added to `health` was finite."""
    fault = health.take()
    if world_size > 1:
        gathered = [each for each in player.moved if each.gathered]
        taken = [each.take() for each in gathered]
        means = [mean for values in taken for mean in values]
        dtype = max((mean.dtype for mean in means), key=lambda kind: kind.itemsize, default=fault.dtype)
        flat = torch.cat([*(mean.reshape(-1).to(dtype) for mean in means), fault.to(dtype).view(1)])
        torch.distributed.all_reduce(flat)
        flat /= world_size
        *parts, faults = torch.split(flat, [*(mean.numel() for mean in means), 1])
        shared = iter(part.view(mean.shape) for part, mean in zip(parts, means, strict=True))
        for each, values in zip(gathered, taken, strict=True):
            each.give([next(shared) for _ in values])
        fault = faults[0]
    return fault == 0
