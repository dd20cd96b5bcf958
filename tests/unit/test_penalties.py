"""The penalties against closed forms."""

import pytest
import torch
from torch import nn

from gan_dist import penalties

WEIGHT = torch.tensor([[1.0, -2.0], [3.0, 0.5]], dtype=torch.float64)


def linear(images: torch.Tensor) -> torch.Tensor:
    return (images[:, 0] * WEIGHT).sum((1, 2))


def images(count: int = 5) -> torch.Tensor:
    return torch.randn(count, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_of_a_linear_discriminator_the_gradient_is_its_weight() -> None:
    squared = WEIGHT.square().sum()
    assert penalties.squared_gradient(linear, images()).item() == pytest.approx(squared.item())
    between = torch.linspace(0, 1, 5, dtype=torch.float64)
    found = penalties.gradient_length(linear, images(), -images(), between)
    assert found.item() == pytest.approx((squared.sqrt() - 1).square().item())


def test_finite_differences_give_the_same_on_average() -> None:
    noise = torch.randn(200_000, 1, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = images(1).expand(200_000, -1, -1, -1)
    found = penalties.squared_difference(linear, x, noise, 0.01)
    assert found.item() == pytest.approx(WEIGHT.square().sum().item(), rel=0.01)


def test_of_a_smooth_discriminator_finite_differences_have_the_exact_penaltys_gradient_on_average() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 1), nn.Flatten(0)).double()

    def gradient(penalty: torch.Tensor) -> torch.Tensor:
        found = torch.autograd.grad(penalty, list(network.parameters()), allow_unused=True, materialize_grads=True)
        return torch.cat([part.flatten() for part in found])

    exact = gradient(penalties.squared_gradient(network, images()))
    many = images().repeat(20_000, 1, 1, 1)
    noise = torch.randn(many.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = gradient(penalties.squared_difference(network, many, noise, 0.01))
    assert torch.nn.functional.cosine_similarity(found, exact, dim=0) > 0.999
    assert (found.norm() / exact.norm()).item() == pytest.approx(1, rel=0.02)


def test_the_gradient_is_taken_between_real_and_fake() -> None:
    real, fake = torch.zeros(3, 1, 2, 2, dtype=torch.float64), torch.ones(3, 1, 2, 2, dtype=torch.float64)
    between = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)

    def squares(x: torch.Tensor) -> torch.Tensor:
        return x.square().sum((1, 2, 3)) / 2  # its gradient is x: of length 0, 1 and 2

    expected = (1 + 0 + 1) / 3
    assert penalties.gradient_length(squares, real, fake, between).item() == pytest.approx(expected, abs=1e-5)


def test_a_gradient_of_zero_has_a_finite_penalty() -> None:
    flat = nn.Parameter(torch.zeros(()))
    found = penalties.gradient_length(lambda x: flat * x.sum((1, 2, 3)), images(), images(), torch.zeros(5))
    found.backward()
    assert torch.isfinite(flat.grad)


def test_every_weight_has_a_gradient_even_an_output_bias() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1), nn.Flatten(0)).double()
    penalties.squared_gradient(network, images()).backward()
    assert all(weight.grad is not None for weight in network.parameters())


def test_the_usual_step_depends_on_kinks() -> None:
    assert penalties.usual_step(nn.Sequential(nn.Linear(1, 1), nn.LeakyReLU())) == 0.03
    assert penalties.usual_step(nn.Sequential(nn.Linear(1, 1), nn.SiLU())) == 0.01
