"""What the keys of every optimizer do, whatever its kind: clamp weights, and look ahead."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gan_dist import config as config_module
from gan_dist.checkpoint import tensors
from gan_dist.engine import update
from gan_dist.errors import InputError
from gan_dist.optimizers import OPTIMIZERS, Optimizer
from gan_dist.player import Player
from tests import making
from tests.unit.test_optimizer_probe import Heavy

KINDS = {**OPTIMIZERS, "a user's": type("Own", (Optimizer,), {"build": lambda self, weights, slow=1.0: Heavy(weights)})}


def player(kind: str, **keys: Any) -> Player:
    torch.manual_seed(0)
    section = KINDS[kind](kind=kind, **keys)
    made = Player("G", nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double(), section.make)
    made.place(torch.device("cpu"), torch.float64)
    return made


def descend(made: Player, number: int) -> None:
    made.optimizer.zero_grad()
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
    (made(x) - 1).square().mean().backward()


def copies(made: Player) -> list[Tensor]:
    return [weight.detach().clone() for weight in made.weights]


@pytest.mark.parametrize("kind", KINDS)
def test_lookahead_is_a_loop_of_five_lines(kind: str) -> None:
    """Its slow weights begin as the first ones; the optimizer's own state knows nothing of it."""
    found, plain = player(kind, lookahead_every=3, lookahead_rate=0.25), player(kind)
    slow = copies(plain)
    for number in range(1, 8):
        for each in (found, plain):
            descend(each, number)
            each.optimizer.step()
        if number % 3 == 0:
            for weight, behind in zip(plain.weights, slow, strict=True):
                behind += 0.25 * (weight.detach() - behind)
                weight.data.copy_(behind)
        for one, other in zip(found.weights, plain.weights, strict=True):
            assert torch.allclose(one, other, rtol=1e-12), number
    for one, other, behind in zip(found.weights, plain.weights, slow, strict=True):
        assert torch.allclose(found.optimizer.state[one]["slow"], behind, rtol=1e-12)
        for name, value in plain.optimizer.state[other].items():
            expected = value if isinstance(value, Tensor) else torch.tensor(value)
            assert value is None or torch.allclose(torch.as_tensor(found.optimizer.state[one][name]), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_clamped_after_each_update(kind: str) -> None:
    found, plain = player(kind, clip_weights=0.2), player(kind)
    assert max(weight.abs().max() for weight in found.weights) > 0.3
    for number in range(3):
        for each in (found, plain):
            descend(each, number)
            each.optimizer.step()
        for one, other in zip(found.weights, plain.weights, strict=True):
            other.data.clamp_(-0.2, 0.2)
            assert torch.equal(one, other)


BOTH = {"lookahead_every": 2, "clip_weights": 0.4}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_is_saved_and_cut_and_the_optimizer_keeps_its_name(kind: str) -> None:
    made, plain = player(kind, **BOTH), player(kind)
    assert set(made.kept.tensors) == {*plain.kept.tensors, "slow"}
    assert made.kept.begin_as_weight == {"slow"}
    assert made.kept.why_not_cut == "", "its slow weights begin as the weights, whole or cut"
    assert type(made.optimizer).__name__ == type(plain.optimizer).__name__
    assert isinstance(made.optimizer, type(plain.optimizer))
    assert type(player(kind).optimizer) is type(plain.optimizer), "nothing is put before one without the keys"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [0, 3])
def test_a_resumed_run_looks_ahead_at_the_same_updates(kind: str, steps: int) -> None:
    straight = player(kind, **BOTH)
    for number in range(steps):
        descend(straight, number)
        straight.optimizer.step()
    saved = tensors.collect([straight])
    assert saved.steps == {"G": steps}
    stored = {name: tensor.clone() for name, tensor in saved.whole.items()}
    resumed = player(kind, **BOTH)
    descend(resumed, 99)
    resumed.optimizer.step()
    tensors.restore([resumed], lambda name, *_: stored[name], saved.steps)
    for number in range(steps, steps + 3):
        for each in (straight, resumed):
            descend(each, number)
            each.optimizer.step()
    for one, other in zip(straight.weights, resumed.weights, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_a_skipped_update_leaves_weights_slow_weights_and_count_untouched(kind: str) -> None:
    """As on a GPU, where the step is taken and taken back; the count goes on as if there had been none."""
    found, plain = player(kind, **BOTH), player(kind, **BOTH)
    for number in range(5):
        for each in (found, plain):
            descend(each, number)
            each.optimizer.step()
        before = tensors.collect([found])
        held = {name: tensor.clone() for name, tensor in before.whole.items()}
        for weight in found.weights:
            assert weight.grad is not None
            weight.grad.fill_(torch.nan)
        update.masked_step(found.optimizer, torch.tensor(False))
        after = tensors.collect([found])
        assert after.steps == before.steps
        assert all(torch.equal(after.whole[name], tensor) for name, tensor in held.items())
    assert all(torch.equal(one, other) for one, other in zip(found.weights, plain.weights, strict=True))


def test_what_a_fused_kernel_would_not_skip_is_taken_back_by_masks() -> None:
    class Fused(OPTIMIZERS["adam"]):
        def build(self, parameters: list[nn.Parameter], slow: float = 1.0) -> torch.optim.Optimizer:
            return torch.optim.Adam(parameters, fused=True)

    weights = [nn.Parameter(torch.ones(2))]
    assert update.takes_found_inf(Fused(kind="fused").make(weights))
    assert not update.takes_found_inf(Fused(kind="fused", clip_weights=0.1).make(weights))


def test_a_rate_without_lookahead_is_refused() -> None:
    keys = making.tiny("-", "-", optimizers__generator__lookahead_rate=0.8)
    with pytest.raises(InputError, match=r"lookahead_rate has no effect without lookahead_every") as caught:
        config_module.load(["tests/data/digits.yaml", *making.flags(keys)])
    assert "\n" not in str(caught.value)
