"""The losses are the papers' formulas, finite for any logit, with gradients that point the right way."""

import math

import pytest
import torch
from torch import Tensor

from gan_dist.losses import LOSSES, Loss, by_part, of_best

LOGITS = torch.linspace(-12, 12, 97, dtype=torch.float64)
GENERATED = [1.0, -2.0]
REAL = [0.5, 3.0]


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


BY_HAND = {
    "nonsaturating": (
        (softplus(-1.0) + softplus(2.0)) / 2,
        (softplus(-0.5) + softplus(-3.0)) / 2 + (softplus(1.0) + softplus(-2.0)) / 2,
    ),
    "minimax": (
        -(softplus(1.0) + softplus(-2.0)) / 2,
        (softplus(-0.5) + softplus(-3.0)) / 2 + (softplus(1.0) + softplus(-2.0)) / 2,
    ),
    "hinge": (0.5, (0.5 + 0.0) / 2 + (2.0 + 0.0) / 2),
    "least_squares": ((0.0 + 9.0) / 4, ((0.25 + 4.0) / 2 + (1.0 + 4.0) / 2) / 2),
    "wasserstein": (0.5, -0.5 - 1.75),
    "relativistic": ((softplus(0.5 - 1.0) + softplus(3.0 + 2.0)) / 2, (softplus(1.0 - 0.5) + softplus(-2.0 - 3.0)) / 2),
    "relativistic_average": (
        (softplus(1.75 - 1.0) + softplus(1.75 + 2.0)) / 2 + (softplus(0.5 + 0.5) + softplus(3.0 + 0.5)) / 2,
        (softplus(-0.5 - 0.5) + softplus(-0.5 - 3.0)) / 2 + (softplus(1.0 - 1.75) + softplus(-2.0 - 1.75)) / 2,
    ),
}
"""Generator's and discriminator's loss of GENERATED and REAL."""


def of(name: str) -> Loss:
    return LOSSES[name](kind=name)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_equal_values_computed_by_hand(name: str) -> None:
    fake, real = torch.tensor(GENERATED).double(), torch.tensor(REAL).double()
    for_generator, for_discriminator = BY_HAND[name]
    assert float(of(name).generator(fake, real)) == pytest.approx(for_generator, rel=1e-9)
    assert float(of(name).discriminator(fake, real)) == pytest.approx(for_discriminator, rel=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_right_and_each_side_pulls_its_way(name: str) -> None:
    fake = (LOGITS * 0.3 + 0.01).requires_grad_()
    real = (LOGITS.flip(0) * 0.2 + 0.02).requires_grad_()
    loss = of(name)
    assert torch.autograd.gradcheck(lambda x, y: loss.generator(x, y), (fake, real))
    assert torch.autograd.gradcheck(lambda x, y: loss.discriminator(x, y), (fake, real))
    (raised,) = torch.autograd.grad(loss.generator(fake, real), fake)
    lowered, kept_up = torch.autograd.grad(loss.discriminator(fake, real), (fake, real))
    assert raised.sum() < 0, "the generator raises the logits of its images"
    assert lowered.sum() > 0, "the discriminator lowers them"
    assert kept_up.sum() < 0, "and raises those of real images"


@pytest.mark.parametrize("size", [1000.0, 1e30])
@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"least_squares"}))
def test_losses_and_gradients_are_finite_for_any_logit(name: str, size: float) -> None:
    for sign in (-size, size):
        fake, real = torch.full((4,), sign, requires_grad=True), torch.full((4,), -sign, requires_grad=True)
        for value in (of(name).generator(fake, real), of(name).discriminator(fake, real)):
            gradients = torch.autograd.grad(value, (fake, real), allow_unused=True, materialize_grads=True)
            assert value.isfinite()
            assert all(gradient.isfinite().all() for gradient in gradients)


def test_where_the_discriminator_is_sure_only_the_nonsaturating_gradient_stays() -> None:
    gradients = {}
    for name in ("nonsaturating", "minimax"):
        fake = torch.tensor([-10.0], requires_grad=True)
        of(name).generator(fake, None).backward()
        assert fake.grad is not None
        gradients[name] = float(fake.grad)
    assert gradients["nonsaturating"] == pytest.approx(-1, abs=1e-3)
    assert gradients["minimax"] == pytest.approx(0, abs=1e-3)


def test_what_couples_samples_works_on_each_micro_batch_alone() -> None:
    loss = of("relativistic_average")
    generator = torch.Generator().manual_seed(0)
    fake, real = (torch.randn(12, generator=generator, dtype=torch.float64) for _ in range(2))

    def alone(start: int) -> Tensor:
        return loss.discriminator(fake[start : start + 4], real[start : start + 4])

    expected = torch.stack([alone(start) for start in (0, 4, 8)]).mean()
    assert torch.equal(by_part(loss.discriminator, 3, fake, real), expected)
    assert not torch.allclose(loss.discriminator(fake, real), expected)
    assert [name for name in LOSSES if LOSSES[name].couples] == ["relativistic_average"]


def test_the_generator_learns_from_the_best_images_only() -> None:
    fake = torch.tensor([1.0, -2.0, 3.0, 0.0], requires_grad=True)
    loss = of_best(LOSSES["hinge"](kind="hinge"), 0.5, fake, None)
    loss.backward()
    assert loss.item() == -2
    assert fake.grad is not None
    assert fake.grad.tolist() == [-0.5, 0, -0.5, 0]
