"""The penalties against closed forms."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gan_dist import config as config_module, games, penalties, rng
from gan_dist.doctor import numerics
from gan_dist.errors import InputError
from gan_dist.interfaces import Batch
from gan_dist.networks.statistics import RunningMean
from gan_dist.penalties import PENALTIES, Penalty
from gan_dist.player import Player
from tests import making

WEIGHT = torch.tensor([[1.0, -2.0], [3.0, 0.5]], dtype=torch.float64)
Logits = Callable[[Tensor], Tensor]


def linear(images: Tensor) -> Tensor:
    return (images[:, 0] * WEIGHT).sum((1, 2))


def squares(images: Tensor) -> Tensor:
    """Its gradient is the image."""
    return images.square().sum((1, 2, 3)) / 2


def images(count: int = 5, size: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(count, 1, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclasses.dataclass
class Game:
    """What a penalty sees of a game, with a discriminator that is any function."""

    discriminates: Logits
    pack: int = 1
    seed: int = 3
    generator: Any = None
    discriminator: Any = None
    made: Logits = lambda latents: latents

    def logits_of(self, batch: Batch, purpose: str = "real") -> Logits:
        return lambda images: self.discriminates(images.reshape(len(images) // self.pack, -1, *images.shape[2:]))

    def images_and_logits(self, batch: Batch, purpose: str) -> tuple[Tensor, Tensor]:
        found = batch["image" if purpose == "real" else "fake"].detach().requires_grad_()
        return found, self.logits_of(batch)(found)

    def real(self, batch: Batch) -> Tensor:
        return batch["image"]

    def fakes(self, batch: Batch) -> Tensor:
        return batch["fake"]

    def generate(self, batch: Batch, purpose: str, noise: float = 0.0) -> Tensor:
        return self.made(noise * torch.ones(len(batch), 1, 2, 2, dtype=torch.float64))


def batch(count: int = 4, size: int = 2) -> Batch:
    return Batch({"image": images(count, size), "fake": images(count, size, 1)}, torch.arange(count) + 7)


def of(kind: str, **keys: Any) -> Penalty:
    return PENALTIES[kind](kind=kind, **{"weight": 1.0, **keys})


def test_of_a_linear_discriminator_the_gradient_is_its_weight() -> None:
    squared = WEIGHT.square().sum()
    assert penalties.squared_gradient(linear, images()).item() == pytest.approx(squared.item())
    between = torch.linspace(0, 1, 5, dtype=torch.float64)
    found = penalties.gradient_length(linear, images(), -images(), between)
    assert found.item() == pytest.approx((squared.sqrt() - 1).square().item())


def test_the_gradient_is_taken_between_real_and_fake() -> None:
    real, fake = torch.zeros(3, 1, 2, 2, dtype=torch.float64), torch.ones(3, 1, 2, 2, dtype=torch.float64)
    between = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    expected = (1 + 0 + 1) / 3  # gradients of length 0, 1 and 2
    assert penalties.gradient_length(squares, real, fake, between).item() == pytest.approx(expected, abs=1e-5)


def test_the_zero_centred_penalty_takes_it_there_too() -> None:
    drawn = batch()
    share = rng.uniform(rng.key(3, "between"), drawn.positions, 1)[:, :, None, None]
    x = drawn["image"] + share * (drawn["fake"] - drawn["image"])
    found = of("zero_gp").value(Game(squares), drawn, None)
    assert found.item() == pytest.approx(x.square().sum((1, 2, 3)).mean().item())


def test_of_packs_a_gradient_penalty_is_of_the_whole_pack() -> None:
    def judge(packs: Tensor) -> Tensor:
        return (packs * torch.stack([WEIGHT, 2 * WEIGHT])).sum((1, 2, 3))

    squared = 5 * WEIGHT.square().sum().item()
    assert of("r1").value(Game(judge, pack=2), batch(), None).item() == pytest.approx(squared)
    found = of("wgan_gp").value(Game(judge, pack=2), batch(), None)
    assert found.item() == pytest.approx((math.sqrt(squared) - 1) ** 2)
    # the images of a pack are one point between real and fake
    drawn = batch()
    share = rng.uniform(rng.key(3, "between"), drawn.positions[::2], 1).repeat_interleave(2, 0)[:, :, None, None]
    x = (drawn["image"] + share * (drawn["fake"] - drawn["image"])).view(2, 2, 2, 2)
    found = of("zero_gp").value(Game(squares, pack=2), drawn, None)
    assert found.item() == pytest.approx(x.square().sum((1, 2, 3)).mean().item())


def test_images_that_are_judged_alone_have_the_bits_of_the_plain_formula() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 1), nn.Flatten(0))
    x = images(32, 8).float().requires_grad_()
    (gradient,) = torch.autograd.grad(network(x).sum(), x, create_graph=True)
    expected = gradient.square().sum((1, 2, 3)).mean()
    found = penalties.squared_gradient(network, x)
    assert torch.equal(found, expected)
    weights = [network[1].weight, network[3].weight]
    for one, other in zip(torch.autograd.grad(found, weights), torch.autograd.grad(expected, weights), strict=True):
        assert torch.equal(one, other)


def test_a_gradient_of_zero_has_a_finite_penalty() -> None:
    flat = nn.Parameter(torch.zeros(()))
    found = penalties.gradient_length(lambda x: flat * x.sum((1, 2, 3)), images(), images(), torch.zeros(5))
    found.backward()
    assert torch.isfinite(flat.grad)


def test_every_weight_has_a_gradient_even_an_output_bias() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1), nn.Flatten(0)).double()
    penalties.squared_gradient(network, images()).backward()
    assert all(weight.grad is not None for weight in network.parameters())


@pytest.mark.parametrize("kind", ["r1", "r2", "wgan_gp", "zero_gp", "cr", "bcr", "zcr", "lecam"])
def test_gradients_are_those_of_the_values(kind: str) -> None:
    kept = RunningMean((3,), 0.1)
    kept.value.copy_(torch.tensor([0.3, -0.2, 0.5]))

    def value(weight: Tensor) -> Tensor:
        def judge(x: Tensor) -> Tensor:
            return (x.flatten(1) @ weight).tanh().square().sum(1)

        return of(kind).value(Game(judge, made=lambda latents: latents + 1), batch(), kept.double())

    assert torch.autograd.gradcheck(value, images(3)[:, 0].reshape(4, 3).requires_grad_())


def lecam_after(means: list[tuple[float, float]], parts: int = 1) -> tuple[Penalty, RunningMean]:
    penalty = of("lecam", decay=0.9, begin=100)
    kept = penalty.statistics()
    assert isinstance(kept, RunningMean)
    kept.tracking, kept.parts = True, parts
    for real, fake in means:
        kept.add(torch.tensor([[real, fake, 1.0]]).repeat(4, 1) + torch.arange(4)[:, None] * torch.tensor([1.0, 2, 0]))
        kept.commit()
    return penalty, kept.double()


def test_lecam_pulls_logits_towards_the_means_of_the_other_kind() -> None:
    penalty, kept = lecam_after([(1.0, -1.0), (2.0, -3.0)])
    real, fake = (0.9 * 2.5 + 3.5) / 1.9, (0.9 * 2.0 + 0.0) / 1.9  # what is missing of a mean is corrected for
    logits = torch.tensor([[0.5, 1.5], [3.0, -1.0]], dtype=torch.float64)
    drawn = Batch({"image": logits[0].view(2, 1, 1, 1), "fake": logits[1].view(2, 1, 1, 1)}, torch.arange(2))

    def relu(x: float) -> float:
        return max(0.0, x) ** 2

    expected = (relu(0.5 - fake) + relu(1.5 - fake)) / 2 + (relu(real - 3.0) + relu(real + 1.0)) / 2
    kept.tracking = False
    found = penalty.value(Game(lambda x: x.flatten()), drawn, kept)
    assert found.item() == pytest.approx(expected, rel=1e-6)
    assert [penalty.factor(images) for images in (99, 100)] == [0.0, 1.0]
    assert torch.allclose(lecam_after([(1.0, -1.0), (2.0, -3.0)], parts=2)[1].value, kept.value)


def test_before_the_first_means_lecam_adds_nothing() -> None:
    assert of("lecam").value(Game(linear), batch(), of("lecam").statistics()).item() == 0


def test_consistency_mirrors_and_shifts_by_the_position_alone() -> None:
    x = images(64, 8)
    draws = rng.Draws(5, torch.arange(64))
    found = penalties.shifted(x, draws, 0.25, flip=True)
    seen = set()
    for before, after in zip(x[:, 0].numpy(), found[:, 0].numpy(), strict=True):
        padded = np.pad(before, 2, mode="reflect")
        options = {
            (flip, down, right): padded[down : down + 8, right : right + 8][:, :: -1 if flip else 1]
            for flip in (False, True)
            for down in range(5)
            for right in range(5)
        }
        (which,) = [name for name, option in options.items() if np.array_equal(option, after)]
        seen.add(which)
    assert {flip for flip, *_ in seen} == {False, True}
    assert {down for _, down, _ in seen} == {right for *_, right in seen} == set(range(5))
    late = rng.Draws(5, torch.arange(32, 64))
    assert torch.equal(penalties.shifted(x[32:], late, 0.25, flip=True), found[32:])
    assert torch.equal(penalties.shifted(x, draws, 0.0, flip=False), x)


def test_consistency_moves_both_logits_and_bcr_is_that_of_both_kinds() -> None:
    drawn, weight = batch(4, 8), torch.ones((), dtype=torch.float64, requires_grad=True)
    game = Game(lambda x: weight * (x * torch.arange(64).view(8, 8)).sum((1, 2, 3)))
    value = of("cr").value(game, drawn, None)
    (slope,) = torch.autograd.grad(value, weight)
    assert slope.item() == pytest.approx(2 * value.item())  # of (weight * difference)^2
    swapped = Batch({"image": drawn["fake"]}, drawn.positions)
    key = rng.key(3, "consistency fake")
    moved = penalties.shifted(swapped["image"], rng.Draws(key, drawn.positions), 0.125, flip=True)
    of_fakes = (game.discriminates(swapped["image"]) - game.discriminates(moved)).square().mean()
    assert of("bcr").value(game, drawn, None).item() == pytest.approx((value + of_fakes).item())


def test_zcr_keeps_logits_of_near_latents_together_and_their_images_apart() -> None:
    game = Game(linear, made=lambda latents: 3 * latents)
    assert of("zcr", noise=0.1).value(game, batch(), None).item() == pytest.approx((0.3 * 2.5) ** 2)
    assert of("zcr_generator", noise=0.1).value(game, batch(), None).item() == pytest.approx(-(0.3**2))
    assert of("zcr_generator").of_player() == "generator"


def test_orthogonal_is_its_formula_over_weights_of_two_axes() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 3, 2), nn.Flatten(), nn.Linear(3, 2), nn.Unflatten(1, (2, 1, 1)), nn.ConvTranspose2d(2, 4, 2)
    ).double()
    player = Player("D", network, torch.optim.Adam)
    game = Game(network, discriminator=player)
    value = of("orthogonal").value(game, batch(), None)
    value.backward()
    expected = 0.0
    for name, weight in network.named_parameters():
        if weight.ndim == 1:
            assert weight.grad is not None
            continue
        matrix = (weight.transpose(0, 1) if name.startswith("4") else weight).detach().flatten(1)
        others = (matrix @ matrix.t()) * (1 - torch.eye(len(matrix)))
        expected += others.square().sum().item()
        by_hand = (4 * others @ matrix).view(weight.transpose(0, 1).shape if name.startswith("4") else weight.shape)
        assert torch.allclose(weight.grad, by_hand.transpose(0, 1) if name.startswith("4") else by_hand)
    assert value.item() == pytest.approx(expected)
    without = of("orthogonal", without=["0.", "4.weight"]).value(game, batch(), None)
    matrix = network[2].weight
    assert without.item() == pytest.approx(2 * (matrix[0] @ matrix[1]).square().item())
    with pytest.raises(
        InputError, match=r"penalties.orthogonal.without: no weight of the discriminator .* with shared"
    ):
        of("orthogonal", without=["shared"]).value(game, batch(), None)


ALL = {
    "penalties.lecam": "{weight: 0.3, decay: 0.5}",
    "penalties.zero_gp": "{weight: 1.0, every: 2}",
    "penalties.bcr.weight": 1.0,
    "penalties.zcr.weight": 1.0,
    "penalties.zcr_generator.weight": 0.1,
    "penalties.orthogonal": "{weight: 1.0e-3, of: generator}",
}


def test_how_many_micro_batches_share_a_pass_changes_no_penalty() -> None:
    states = []
    for passes in (1, 2):
        keys = making.tiny("-", "-", training__strategy="ddp", training__precision="fp64", training__batch=8)
        keys |= {"training.micro_batches_per_pass": passes, **ALL}
        config = config_module.load(["configs/digits.yaml", *making.flags(keys)])
        held: list[games.Game] = []
        _, state = numerics.by_engine(config, 2, alone=True, change=held.append)
        states.append((state, {name: tensor.clone() for name, tensor in held[0].state().items()}))
    (one, of_one), (two, of_two) = states
    for kind in ("weights", "average"):
        worst, where = numerics.difference(one, two, kind)
        assert worst < 1e-9, where
    assert of_one["lecam/value"][2] == 0.75  # after two updates of the discriminator
    assert torch.allclose(of_one["lecam/value"], of_two["lecam/value"])
