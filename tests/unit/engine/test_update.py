"""An update that is not finite changes nothing, whatever the optimizer."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from gan_dist.engine import update
from gan_dist.player import Player
from tests.unit.test_optimizer_probe import Heavy

Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "SGD momentum": lambda weights: torch.optim.SGD(weights, 0.1, 0.9),
    "RMSprop": torch.optim.RMSprop,
    "AdamW": torch.optim.AdamW,
    "a user's, whose count is a number": Heavy,
}


def state(player: Player) -> list[object]:
    tensors = [weight.detach().clone() for weight in player.weights]
    for weight in player.weights:
        kept = player.optimizer.state[weight]
        tensors += [torch.as_tensor(kept[name]).clone() for name in sorted(kept)]
    return [tensor.tolist() for tensor in tensors]


def gradients(player: Player, value: float | None = None) -> None:
    for number, weight in enumerate(player.weights):
        weight.grad = torch.full_like(weight, number + 1.0 if value is None else value)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_masked_step_is_a_step_or_leaves_weights_state_and_count_untouched(name: str) -> None:
    torch.manual_seed(0)
    player, plain = (Player("G", nn.Linear(3, 2), OPTIMIZERS[name]) for _ in range(2))
    plain.network.load_state_dict(player.network.state_dict())
    for each in (player, plain):
        each.place(torch.device("cpu"), torch.float32)
        gradients(each)
        each.optimizer.step()
    before = state(player)
    gradients(player, torch.nan)
    update.masked_step(player.optimizer, torch.tensor(False))
    assert state(player) == before
    for each in (player, plain):
        gradients(each)
    update.masked_step(player.optimizer, torch.tensor(True))
    plain.optimizer.step()
    assert state(player) == state(plain) != before


def test_only_a_fused_optimizer_of_torch_is_trusted_with_found_inf() -> None:
    def weights() -> list[nn.Parameter]:
        return [nn.Parameter(torch.ones(2))]

    class Boasting(Heavy):
        _step_supports_amp_scaling = True

    assert update.takes_found_inf(torch.optim.Adam(weights(), fused=True))
    assert not update.takes_found_inf(torch.optim.Adam(weights()))
    assert not update.takes_found_inf(torch.optim.RMSprop(weights()))
    assert not update.takes_found_inf(Boasting(weights()))


def test_found_inf_does_what_the_masks_do() -> None:
    player = Player("G", nn.Linear(3, 2), lambda weights: torch.optim.Adam(weights, fused=True))
    player.place(torch.device("cpu"), torch.float32)
    gradients(player)
    player.optimizer.step()
    before = state(player)
    gradients(player, torch.nan)
    player.optimizer.found_inf = torch.ones(())
    player.optimizer.step()
    assert state(player) == before


class OnGpu:
    """A verdict that looks like one on a GPU."""

    is_cuda = True

    def __init__(self, good: bool) -> None:
        self.good, self.asked = good, 0

    def __bool__(self) -> bool:
        self.asked += 1
        return self.good

    def __invert__(self) -> torch.Tensor:
        return torch.tensor(not self.good)


@pytest.mark.parametrize("fused", [True, False])
def test_on_a_gpu_the_host_waits_for_the_first_step_alone(fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    player = Player("G", nn.Linear(3, 2), lambda weights: torch.optim.Adam(weights, fused=fused))
    player.place(torch.device("cpu"), torch.float32)
    masked: list[bool] = []
    monkeypatch.setattr(update, "masked_step", lambda optimizer, good: masked.append(good.good))
    gradients(player)
    assert not player.optimizer.state[player.weights[0]]  # who only looks makes an empty entry
    for good, asked in ((OnGpu(False), 1), (OnGpu(True), 1), (OnGpu(True), 0), (OnGpu(False), 0)):
        update.step(player, [], torch.ones(()), good)
        assert good.asked == asked
    assert masked == ([] if fused else [True, False])
    assert {float(kept["step"]) for kept in player.optimizer.state.values()} == {2.0 if fused else 1.0}
