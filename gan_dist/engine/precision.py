"""Arithmetic in 16 bits, and the scale of a loss whose gradients would vanish in fp16."""

import functools
from typing import Any

import torch
from torch import Tensor, nn

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Lowered:
    """Networks whose forward runs in 16 bits while `on`; weights and outputs stay in 32."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._kind, self._dtype = device.type, dtype
        self.on = True

    def lower(self, network: nn.Module) -> None:
        """Change the network's forward: inside it, so that DDP and DeepSpeed need not know (DeepSpeed's engine turns an
        autocast around it off)."""
        forward = network.forward

        @functools.wraps(forward)
        def lowered(*inputs: Any) -> Tensor:
            with torch.autocast(self._kind, self._dtype, enabled=self.on):
                output: Tensor = forward(*inputs)
            return output.float()

        network.forward = lowered


class LossScale:
    """A factor on one player's loss, as large as its gradients allow (Micikevicius et al., 2018, section 3.2).

    Halved when an update is skipped as a gradient overflowed, doubled after `patience` good updates. Each player has its
    own: with a common one the generator's would be halved for the discriminator's overflow. It lives on the device.
    """

    def __init__(self, device: torch.device, start: float = 2.0**16, patience: int = 2000) -> None:
        self.patience = patience
        self.factor = torch.tensor(start, device=device)
        self._good = torch.zeros((), device=device)

    def update(self, good: Tensor) -> None:
        """`good`: a boolean scalar, the same on every process."""
        count = torch.where(good, self._good + 1, 0.0)
        grown = torch.where(count >= self.patience, 2 * self.factor, self.factor)
        self.factor = torch.where(good, grown, self.factor / 2).clamp(2.0**-14, 2.0**24)
        self._good = torch.where(count >= self.patience, 0.0, count)

    def state(self) -> list[float]:
        """What a checkpoint keeps."""
        return [self.factor.item(), self._good.item()]

    def restore(self, state: list[float]) -> None:
        self.factor, self._good = (torch.tensor(number, device=self.factor.device) for number in state)
