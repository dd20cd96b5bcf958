"""Ranks that hold different weights have different hashes; ranks that hold the same have the same."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gan_dist.control import desync


def weight() -> Tensor:
    return torch.randn(8, 6, 3, 3, generator=torch.Generator().manual_seed(0))


def swap_filters(tensor: Tensor) -> None:
    tensor[[1, 2]] = tensor[[2, 1]]


def swap_neighbours(tensor: Tensor) -> None:
    flat = tensor.view(-1)
    flat[[0, 1]] = flat[[1, 0]]


def one_bit_up_and_one_down(tensor: Tensor) -> None:
    bits = tensor.view(-1).view(torch.int32)
    bits[3] += 1
    bits[5] -= 1


def reverse(tensor: Tensor) -> None:
    tensor.copy_(tensor.flip(0))


@pytest.mark.parametrize(
    ("dtype", "change"),
    [
        *itertools.product((torch.float32, torch.bfloat16, torch.float64), (swap_filters, swap_neighbours, reverse)),
        (torch.float32, one_bit_up_and_one_down),
    ],
)
def test_hashes_see_the_order_of_values(dtype: torch.dtype, change: Callable[[Tensor], None]) -> None:
    one, other = weight().to(dtype), weight().to(dtype)
    change(other)
    assert not torch.equal(one, other)
    assert desync.hashes({"a": one}) != desync.hashes({"a": other})


def test_hashes_are_the_same_in_every_memory_format() -> None:
    tensor = weight()
    assert desync.hashes({"a": tensor}) == desync.hashes({"a": tensor.to(memory_format=torch.channels_last)})
    assert desync.hashes({"a": tensor}) == desync.hashes({"a": tensor.transpose(0, 1).contiguous().transpose(0, 1)})


def test_hashes_do_not_depend_on_how_much_is_widened_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {"a": weight(), "empty": torch.zeros(0), "one": torch.tensor(2.0), "flags": torch.tensor([True, False])}
    whole = desync.hashes(tensors)
    monkeypatch.setattr(desync, "_CHUNK", 100)
    assert desync.hashes(tensors) == whole


def test_compare_names_the_tensor_and_the_rank() -> None:
    assert desync.compare(["b", "a"], [[1, 2], [1, 2]]) == ""
    assert desync.compare(["b", "a"], [[1, 2], [1, 3], [1, 2]]) == "b of rank 1 differs from the other ranks"
    assert desync.compare(["b", "a"], [[1, 2], [4, 2]]) == "a differs between rank 0 and rank 1"
