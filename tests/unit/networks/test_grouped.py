"""Convolutions in groups equal torch's in every derivative, with a number of kernels that the groups do not change."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from gan_dist.networks import grouped

Convolution = Callable[..., Tensor]

CASES = [
    # grouped 3x3; halving of an odd size, which leaves a row over; depthwise up and down
    (grouped.conv2d, functional.conv2d, (2, 6, 3, 4), (4, 3, 3, 3), {"padding": 1, "groups": 2}),
    (grouped.conv2d, functional.conv2d, (2, 4, 6, 5), (4, 2, 3, 3), {"stride": 2, "padding": 1, "groups": 2}),
    (grouped.conv2d, functional.conv2d, (2, 3, 4, 6), (3, 1, 4, 4), {"stride": 2, "padding": 1, "groups": 3}),
    (grouped.conv_transpose2d, functional.conv_transpose2d, (2, 3, 2, 3), (3, 1, 4, 4), {"stride": 2, "padding": 1, "groups": 3}),
]  # fmt: skip


class Convolutions(TorchDispatchMode):
    """Counts the convolutions that torch computes."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name()
        if "conv" in name:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(("ours", "torchs", "x", "weight", "options"), CASES)
def test_values_first_and_second_derivatives_are_those_of_torch(
    ours: Convolution, torchs: Convolution, x: Any, weight: Any, options: Any
) -> None:
    torch.manual_seed(0)
    inputs = drawn(*x), drawn(*weight), drawn(weight[0])
    assert torch.allclose(ours(*inputs, **options), torchs(*inputs, **options), rtol=1e-12, atol=1e-12)
    assert gradcheck(lambda *values: ours(*values, **options), inputs, fast_mode=True)
    assert gradgradcheck(lambda *values: ours(*values, **options), inputs, fast_mode=True)
    # by a constant filter, and of a constant picture, what is kept for the backward is another
    fixed = inputs[1].detach(), inputs[0].detach()
    assert gradgradcheck(lambda value: ours(value, fixed[0], **options).square(), inputs[:1], fast_mode=True)
    assert gradgradcheck(lambda value: ours(fixed[1], value, **options).square(), inputs[1:2], fast_mode=True)


def penalty(convolution: Convolution, groups: int) -> Counter[str]:
    """Descend a gradient penalty through a convolution in groups and a depthwise constant filter; return its convolutions."""
    x, weight, constant = torch.randn(2, 32, 8, 8), torch.randn(32, 32 // groups, 3, 3), torch.ones(32, 1, 4, 4)
    x.requires_grad_()
    weight.requires_grad_()
    with Convolutions() as mode:
        y = functional.leaky_relu(convolution(x, weight, padding=1, groups=groups))
        y = convolution(y, constant, stride=2, padding=1, groups=32)
        (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        gradient.square().sum().backward()
    return mode.counts


def test_a_double_backward_has_as_many_convolutions_with_32_groups_as_with_2() -> None:
    few, many, torchs = penalty(grouped.conv2d, 2), penalty(grouped.conv2d, 32), penalty(functional.conv2d, 32)
    assert few == many
    # forward 2; its gradient 2; their derivatives 5 by the picture, 2 by the weight
    assert many.total() <= 11
    assert torchs.total() > 60


def test_autocast_computes_in_its_type_and_gradients_come_in_the_weights() -> None:
    torch.manual_seed(0)
    layer = grouped.Conv2d(4, 4, 3, padding=1, groups=2)
    x = torch.randn(2, 4, 5, 5, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        (gradient,) = torch.autograd.grad(y.float().square().sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert y.dtype == torch.bfloat16
    assert layer.weight.grad is not None
    assert gradient.dtype == layer.weight.grad.dtype == torch.float32
    plain = functional.conv2d(x, layer.weight, layer.bias, padding=1, groups=2)
    assert torch.allclose(y.float(), plain, atol=0.02)
