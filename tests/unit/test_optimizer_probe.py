"""Any optimizer is saved whole, or refused with the name of what would be lost."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gan_dist import optimizer_probe
from gan_dist.checkpoint import tensors
from gan_dist.errors import AgreedError
from gan_dist.player import Player


class Heavy(torch.optim.Optimizer):
    """A user's optimizer: a momentum, and a Python number that counts."""

    def __init__(self, parameters: Any, lr: float = 0.1, lose: str = "") -> None:
        super().__init__(parameters, {"lr": lr, "lose": lose})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state.update(step=0, speed=torch.zeros_like(weight))
                state["step"] += 1
                state["speed"].mul_(0.9).add_(weight.grad)
                weight.sub_(group["lr"] / state["step"] * state["speed"])
                match group["lose"]:
                    case "d":
                        state["d"] = torch.ones(()) + weight.grad.abs().sum()
                    case "rows":
                        state["rows"] = weight.grad.sum(-1)
                    case "average":
                        state["average"] = state["speed"]
                    case "group":
                        group["d"] = group.get("d", 0.0) + float(weight.grad.abs().sum())
                    case "attribute":
                        self.calls = getattr(self, "calls", 0) + 1
                    case "common":
                        self.state["common"] = {"d": 1}
                    case "trust":
                        weight.sub_(0.1 * weight.norm() / (1e-9 + weight.grad.norm()) * weight.grad)


Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
SAVED: dict[str, tuple[Make, set[str], bool]] = {
    "Adam": (lambda weights: torch.optim.Adam(weights, 0.01), {"exp_avg", "exp_avg_sq"}, True),
    "AMSGrad": (
        lambda weights: torch.optim.AdamW(weights, 0.01, amsgrad=True),
        {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"},
        True,
    ),
    "SGD": (lambda weights: torch.optim.SGD(weights, 0.01), set(), True),
    "momentum": (lambda weights: torch.optim.SGD(weights, 0.01, 0.9), {"momentum_buffer"}, True),
    "RMSprop": (
        lambda weights: torch.optim.RMSprop(weights, 0.01, momentum=0.5),
        {"square_avg", "momentum_buffer"},
        True,
    ),
    "Adagrad": (lambda weights: torch.optim.Adagrad(weights, 0.01), {"sum"}, True),
    "a user's": (Heavy, {"speed"}, True),
    # these cannot be cut
    "dampened": (lambda weights: torch.optim.SGD(weights, 0.01, 0.9, 0.5), {"momentum_buffer"}, False),
    "started Adagrad": (lambda weights: torch.optim.Adagrad(weights, initial_accumulator_value=1.0), {"sum"}, False),
    "Rprop": (torch.optim.Rprop, {"prev", "step_size"}, False),
    "trust ratio": (lambda weights: Heavy(weights, lose="trust"), {"speed"}, False),
}
if hasattr(torch.optim, "Muon"):
    SAVED["Muon"] = (lambda weights: torch.optim.Muon(weights, 0.01), {"momentum_buffer"}, False)
REFUSED: dict[str, tuple[Make, str]] = {
    "a scalar": (lambda weights: Heavy(weights, lose="d"), "its state `d` would not be saved"),
    "another shape": (lambda weights: Heavy(weights, lose="rows"), "its state `rows` would not be saved"),
    "a name of ours": (lambda weights: Heavy(weights, lose="average"), "its state `average` would not be saved"),
    "a group": (lambda weights: Heavy(weights, lose="group"), "its state `d` would not be saved"),
    "an attribute": (lambda weights: Heavy(weights, lose="attribute"), "its state `calls` would not be saved"),
    "common state": (lambda weights: Heavy(weights, lose="common"), "its state `common` would not be saved"),
    "NAdam": (torch.optim.NAdam, "its state `mu_product` would not be saved"),
    "Adafactor": (torch.optim.Adafactor, "would not be saved"),
    "LBFGS": (torch.optim.LBFGS, "a step on a 2-D weight fails"),
}


def probe(make: Make) -> optimizer_probe.Kept:
    return optimizer_probe.probe("G", make, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("name", SAVED)
def test_what_an_optimizer_keeps_is_found(name: str) -> None:
    make, names, cut = SAVED[name]
    kept = probe(make)
    assert set(kept.tensors) == names
    assert (kept.why_not_cut == "") == cut, kept.why_not_cut


@pytest.mark.parametrize("name", REFUSED)
def test_state_that_would_not_be_saved_is_refused_in_a_line(name: str) -> None:
    make, why = REFUSED[name]
    with pytest.raises(AgreedError) as caught:
        probe(make)
    said = str(caught.value)
    assert said.startswith("the optimizer of G (")
    assert why in said
    assert "\n" not in said


def player(make: Make, steps: int, seed: int = 0) -> Player:
    torch.manual_seed(seed)
    made = Player("G", nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)), make)
    made.place(torch.device("cpu"), torch.float32)
    return go_on(made, steps)


def go_on(made: Player, steps: int) -> Player:
    torch.manual_seed(9)
    for _ in range(steps):
        made.optimizer.zero_grad()
        made(torch.randn(5, 3)).square().mean().backward()
        made.optimizer.step()
    return made


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("name", SAVED)
def test_training_goes_on_to_the_same_bits_with_any_optimizer_that_is_saved(name: str, steps: int) -> None:
    make, names, _ = SAVED[name]
    straight = player(make, steps)
    saved = tensors.collect([straight])
    stored = {key: value.clone() for key, value in saved.whole.items()}
    if steps:
        assert {key.split("/")[1] for key in stored} == {"weights", *names}
    resumed = player(make, 2, seed=5)
    read: list[str] = []

    def reader(key: str, *_: int) -> Tensor:
        read.append(key)
        return stored[key]

    tensors.restore([resumed], reader, saved.steps)
    for one in (straight, resumed):
        go_on(one, 2)
    found, expected = tensors.collect([resumed]), tensors.collect([straight])
    assert found.steps == expected.steps
    assert found.whole.keys() == expected.whole.keys()
    assert all(torch.equal(found.whole[key], expected.whole[key]) for key in found.whole)


def test_a_schedule_sets_values_of_every_group_and_nothing_else() -> None:
    def make(weights: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam([{"params": weights[:1]}, {"params": weights[1:]}], 1.0)

    made = Player("G", nn.Linear(2, 2), make, settings=lambda images: {"lr": 1 / (1 + images), "betas": (0.0, 0.9)})
    made.place(torch.device("cpu"), torch.float32)
    made.schedule(3)
    assert [(group["lr"], group["betas"], group["eps"]) for group in made.optimizer.param_groups] == [
        (0.25, (0.0, 0.9), 1e-8)
    ] * 2
    wrong = Player("G", nn.Linear(2, 2), torch.optim.SGD, settings=lambda images: {"betas": (0.0, 0.9)})
    with pytest.raises(AgreedError, match="the schedule of G sets betas, which SGD does not have"):
        wrong.place(torch.device("cpu"), torch.float32)
