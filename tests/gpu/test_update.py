"""On a GPU no update waits for the device after the first, and one that is not finite changes nothing."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from gan_dist.engine import update
from gan_dist.optimizers import Adam, RmsProp, Sgd
from gan_dist.player import Player

pytestmark = pytest.mark.gpu

Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "fused Adam": lambda weights: torch.optim.Adam(weights, fused=True),
    "fused SGD": lambda weights: torch.optim.SGD(weights, 0.1, 0.9, fused=True),
    "AdamW": torch.optim.AdamW,
    "SGD": lambda weights: torch.optim.SGD(weights, 0.1, 0.9),
    "RMSprop": torch.optim.RMSprop,
    "Adam that looks ahead": Adam(lookahead_every=2, clip_weights=0.5).make,
    "SGD that looks ahead": Sgd(lookahead_every=2, clip_weights=0.5).make,
    "RMSprop that looks ahead": RmsProp(lookahead_every=2, clip_weights=0.5).make,
}


def state(player: Player) -> list[list[float]]:
    kept = [player.optimizer.state.get(weight, {}) for weight in player.weights]
    tensors = [*player.weights, *(each[name] for each in kept for name in sorted(each))]
    return [torch.as_tensor(tensor).detach().reshape(-1).tolist() for tensor in tensors]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_waits_for_nothing_and_one_that_is_not_finite_changes_nothing(name: str) -> None:
    device = torch.device("cuda")
    player = Player("G", nn.Linear(3, 2), OPTIMIZERS[name], clip_norm=1.0)
    player.place(device, torch.float32)
    norm, verdicts = torch.ones((), device=device), {good: torch.tensor(good, device=device) for good in (True, False)}
    before = state(player)
    for good in (False, True, False, True):
        gradients = [torch.full_like(weight, 1.0 if good else torch.nan) for weight in player.weights]
        for weight, gradient in zip(player.weights, gradients, strict=True):
            weight.grad = gradient
        first = not player.optimizer.state
        torch.cuda.set_sync_debug_mode("default" if first else "error")
        try:
            update.step(player, gradients, norm, verdicts[good])
        finally:
            torch.cuda.set_sync_debug_mode("default")
        after = state(player)
        assert (after != before) == good
        before = after
