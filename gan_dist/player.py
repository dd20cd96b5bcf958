"""A player: a network (or a few that learn together), its optimizer and its moving average."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gan_dist.ema import Average


@dataclasses.dataclass
class Player:
    """Called like its network: `discriminator(images, labels)`."""

    name: str
    network: nn.Module
    make_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer]
    average_half_life: int | None = None
    """In images; None: no moving average."""
    optimizer: torch.optim.Optimizer = dataclasses.field(init=False)
    average: Average | None = dataclasses.field(init=False, default=None)
    wrapped: nn.Module = dataclasses.field(init=False)
    """What an engine trains the network through (DDP); the network itself where there is one process."""
    has_turn: bool = dataclasses.field(init=False, default=False)

    def __post_init__(self) -> None:
        self.wrapped = self.network

    def settle(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move to the device, and make there the optimizer and the average."""
        # channels_last convolutions: 1.09 times the images/s of a DCGAN on a CPU, and what GPUs' tensor cores want
        self.network.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = self.make_optimizer(list(self.network.parameters()))
        if self.average_half_life is not None:
            self.average = Average(self.network, self.average_half_life)

    def __call__(self, *inputs: Any) -> Tensor:
        # only a player whose turn it is goes through the engine's wrapper: a frozen one has no gradients to share
        output: Tensor = (self.wrapped if self.has_turn else self.network)(*inputs)
        return output
