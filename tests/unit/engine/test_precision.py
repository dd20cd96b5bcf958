"""16 bits within a network, fp32 at its ends, and layers that ask for fp32."""

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gan_dist.engine.precision import Lowered, in_fp32


class Output(NamedTuple):
    logits: Tensor
    features: dict[str, list[Tensor]]


class Seen(nn.Linear):
    def __init__(self, full: bool) -> None:
        super().__init__(4, 4)
        self.full_precision = full
        self.kinds: list[Any] = []

    def forward(self, x: Tensor) -> Tensor:
        output = super().forward(x)
        self.kinds.append((x.dtype, output.dtype))
        return output


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.low, self.full, self.last = Seen(False), Seen(True), Seen(False)

    def forward(self, x: Tensor) -> Output:
        first = self.low(x)
        second = self.full(first)
        return Output(self.last(second), {"all": [first, second, torch.arange(3)]})


def test_outputs_are_fp32_in_any_nesting_and_layers_may_ask_for_fp32() -> None:
    network, lowered = Network(), Lowered(torch.device("cpu"), torch.bfloat16)
    plain = copy.deepcopy(network)
    lowered.lower(network)
    output = network(torch.randn(2, 4))
    assert isinstance(output, Output)
    assert [each.dtype for each in (output.logits, *output.features["all"])] == [torch.float32] * 3 + [torch.int64]
    assert network.low.kinds == network.last.kinds == [(torch.float32, torch.bfloat16)]
    assert network.full.kinds == [(torch.float32, torch.float32)]
    assert torch.equal(
        output.features["all"][1], nn.functional.linear(output.features["all"][0], *network.full.parameters())
    )
    lowered.on = False
    x = torch.randn(2, 4)
    assert torch.equal(network(x).logits, plain(x).logits)


def test_what_is_no_floating_tensor_stays() -> None:
    values = ([torch.ones(1).half(), "a", None], {"b": (torch.tensor([True]), 3)})
    found = in_fp32(values)
    assert found[0][0].dtype == torch.float32
    assert found[0][1:] == ["a", None]
    assert found[1] == {"b": (torch.tensor([True]), 3)}
