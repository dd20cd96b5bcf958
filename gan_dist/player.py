"""A player: a network (or a few that learn together), its optimizer and its moving average."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gan_dist.ema import Average
from gan_dist.errors import AgreedError
from gan_dist.networks.statistics import foreign_norms


@dataclasses.dataclass(frozen=True)
class Shard:
    """A run of elements of a flattened weight that one process owns; all tensors are flat, live and as long as the run."""

    name: str
    """The weight's."""
    offset: int
    weight: Tensor
    moments: dict[str, Tensor]
    """Adam's: exp_avg and exp_avg_sq."""
    average: Tensor | None


class Shards(Protocol):
    """The state of a player whose weights, moments and average are cut over the processes (ZeRO)."""

    shapes: dict[str, torch.Size]
    """Of every weight, whole."""
    dtype: torch.dtype
    """Of the shards."""
    steps: int
    """Updates by the optimizer; may be set."""

    def owned(self) -> Sequence[Shard]:
        """What this process owns."""

    def refresh(self) -> None:
        """Make the network compute with what was put into the shards. Every process calls it."""


@dataclasses.dataclass
class Player:
    """Called like its network: `discriminator(images, labels)`."""

    name: str
    network: nn.Module
    make_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer]
    average_half_life: int | Callable[[int], float] | None = None
    """In images, or as a function of the images seen; None: no moving average."""
    clip_norm: float = 0.0
    """Longest gradient; 0: any."""
    settings: Callable[[int], dict[str, Any]] | None = None
    """Images seen -> what each parameter group of the optimizer has in an update."""
    attached: Sequence[Any] = ()
    """Statistics that belong to the player and lie outside of its network."""
    optimizer: torch.optim.Optimizer = dataclasses.field(init=False)
    average: Average | None = dataclasses.field(init=False, default=None)
    shards: Shards | None = dataclasses.field(init=False, default=None)
    """None where every process holds all of the player."""
    trained: Callable[..., Tensor] = dataclasses.field(init=False)
    """What an engine trains the network through (DDP, DeepSpeed); the network itself where there is one process."""
    has_turn: bool = dataclasses.field(init=False, default=False)
    observer: "Callable[[Player, bool], None] | None" = dataclasses.field(init=False, default=None)
    """Told of each call, and whether gradients flow back through it: for counting."""

    def __post_init__(self) -> None:
        """Raises AgreedError for a network with layers whose statistics no engine governs."""
        if found := foreign_norms(self.network):
            raise AgreedError(
                f"the network of {self.name} has {', '.join(found[:3])}, whose running statistics would differ with the number "
                "of processes; use gan_dist.networks.statistics.BatchNorm"
            )
        self.trained = self.network

    def place(
        self, device: torch.device, dtype: torch.dtype, memory_format: torch.memory_format = torch.channels_last
    ) -> None:
        """Move to the device, and make there the optimizer and the average."""
        self.network.to(device=device, dtype=dtype, memory_format=memory_format)  # type: ignore[call-overload]
        self.optimizer = self.make_optimizer(list(self.network.parameters()))
        if self.average_half_life is not None:
            self.average = Average(self.network, self.average_half_life)

    def __call__(self, *inputs: Any) -> Tensor:
        if self.observer is not None:
            self.observer(self, torch.is_grad_enabled())
        # only a player whose turn it is goes through the engine's wrapper: a frozen one has no gradients to share
        output: Tensor = (self.trained if self.has_turn else self.network)(*inputs)
        return output
