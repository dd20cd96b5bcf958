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
