"""Compute in 16 bits, and scale a loss whose gradients would vanish in fp16."""

import functools
from typing import Any

import torch
from torch import Tensor, nn

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Lowered:
    """Networks whose forward runs in 16 bits while `on`; weights and outputs stay in 32.

    A layer with the attribute `full_precision = True` computes in 32 bits nevertheless.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._kind, self._dtype = device.type, dtype
        self.on = True

    def lower(self, network: nn.Module) -> None:
        """Put autocast into the network's forward, where DDP and DeepSpeed do not see it (DeepSpeed's engine turns an
        autocast around the network off)."""
        for module in network.modules():
            if module is not network and getattr(module, "full_precision", False):
                self._keep_full(module)
        forward = network.forward

        @functools.wraps(forward)
        def lowered(*inputs: Any, **named: Any) -> Any:
            enabled = self.on and not getattr(network, "full_precision", False)
            with torch.autocast(self._kind, self._dtype, enabled=enabled):
                output = forward(*inputs, **named)
            return in_fp32(output)

        network.forward = lowered

    def _keep_full(self, module: nn.Module) -> None:
        forward = module.forward

        @functools.wraps(forward)
        def full(*inputs: Any, **named: Any) -> Any:
            with torch.autocast(self._kind, enabled=False):
                return forward(*in_fp32(inputs), **in_fp32(named))

        module.forward = full


def in_fp32(values: Any) -> Any:
    """Return the values with each floating tensor in fp32, also in tuples, lists and dicts."""
    if isinstance(values, Tensor):
        return values.float() if values.is_floating_point() else values
    if isinstance(values, dict):
        return type(values)((name, in_fp32(value)) for name, value in values.items())
    if isinstance(values, tuple) and hasattr(values, "_fields"):  # a NamedTuple
        return type(values)(*(in_fp32(value) for value in values))
    if isinstance(values, tuple | list):
        return type(values)(in_fp32(value) for value in values)
    return values


class LossScale:
    """A factor on one player's loss, as large as its gradients allow (Micikevicius et al., 2018, section 3.2).

    It is halved when a gradient overflowed and the update was skipped, and doubled after `patience` good updates. Each
    player has its own, so that an overflow of the discriminator does not halve the generator's. It is on the device.
    """

    def __init__(self, device: torch.device, start: float = 2.0**16, patience: int = 2000) -> None:
        self.patience = patience
        self.factor = torch.tensor(start, device=device)
        self._good = torch.zeros((), device=device)

    def update(self, good: Tensor) -> None:
        """Adapt the factor; `good` is a boolean scalar, the same on every rank."""
        count = torch.where(good, self._good + 1, 0.0)
        grown = torch.where(count >= self.patience, 2 * self.factor, self.factor)
        self.factor.copy_(torch.where(good, grown, self.factor / 2).clamp(2.0**-14, 2.0**24))
        self._good.copy_(torch.where(count >= self.patience, 0.0, count))

    def state(self) -> list[float]:
        """Return what a checkpoint keeps."""
        return [self.factor.item(), self._good.item()]

    def restore(self, state: list[float]) -> None:
        for own, number in zip((self.factor, self._good), state, strict=True):
            own.fill_(number)
