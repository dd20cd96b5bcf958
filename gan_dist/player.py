"""Define a player: a network (or a few that learn together), its optimizer and its moving average."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from gan_dist import optimizer_probe
from gan_dist.ema import RAMP, Average
from gan_dist.errors import AgreedError
from gan_dist.networks import statistics
from gan_dist.networks.flat_statistics import Moved, together
from gan_dist.networks.statistics import Statistics
from gan_dist.schedules import Moving


@dataclasses.dataclass(frozen=True)
class Shard:
    """A run of elements of a flattened weight that one rank owns; all tensors are flat, live and as long as the run."""

    name: str
    """The weight's."""
    offset: int
    weight: Tensor
    state: dict[str, Tensor]
    """The optimizer's, by its own names (`exp_avg`, `momentum_buffer`)."""
    average: Tensor | None


class Shards(Protocol):
    """The state of a player whose weights, optimizer state and average are cut over the ranks (ZeRO)."""

    shapes: dict[str, torch.Size]
    """Of every weight, whole."""
    dtype: torch.dtype
    """Of the shards."""
    steps: int
    """Updates by the optimizer; may be set. Of one that keeps no count: 1 after the first."""

    def owned(self) -> Sequence[Shard]:
        """Return what this rank owns."""

    def refresh(self) -> None:
        """Make the network compute with what was put into the shards. Every rank calls it."""


@dataclasses.dataclass
class Player:
    """Called like its network: `discriminator(images, labels)`."""

    name: str
    network: nn.Module
    make_optimizer: optimizer_probe.MakeOptimizer
    """Makes any torch optimizer of these weights. What it keeps of a weight must have the weight's shape (or be the count
    of its steps): it is then saved and cut; another is refused when the player is placed."""
    average_half_life: float | Callable[[int], float] | None = None
    """In images, or a function of the images seen; None: no moving average."""
    average_ramp: float = RAMP
    """The half-life is at most this part of the images seen; 0: no limit."""
    clip_norm: float = 0.0
    """Longest gradient; 0: any."""
    settings: Callable[[int], dict[str, Any]] | None = None
    """A schedule: images seen -> values for every group of the optimizer (`lr`, `betas`), set before each update. A pure
    function, so nothing of it is saved."""
    attached: Sequence[Statistics] = ()
    """Statistics of the player that live outside of its network (an augmentation's controller). The engine moves them as
    those of the network; the game saves them with its `state`."""
    optimizer: torch.optim.Optimizer = dataclasses.field(init=False)
    kept: optimizer_probe.Kept = dataclasses.field(init=False)
    """What the optimizer keeps of a weight."""
    average: Average | None = dataclasses.field(init=False, default=None)
    shards: Shards | None = dataclasses.field(init=False, default=None)
    """None where every rank holds all of the player."""
    trained: Callable[..., Any] = dataclasses.field(init=False)
    """What an engine trains the network through (DDP, DeepSpeed); the network itself where there is one rank."""
    has_turn: bool = dataclasses.field(init=False, default=False)
    observer: "Callable[[Player, bool], None] | None" = dataclasses.field(init=False, default=None)
    """Told of each call, and whether gradients flow back through it: for counting."""
    statistics: tuple[Statistics, ...] = dataclasses.field(init=False)
    """Of the network, then the attached ones."""
    moved: tuple[Moved, ...] = dataclasses.field(init=False)
    """The same as an update moves them, many at once."""
    weights: tuple[nn.Parameter, ...] = dataclasses.field(init=False)
    """The network's parameters, in its order."""

    def __post_init__(self) -> None:
        """Raise AgreedError for torch's layers with running statistics; `unmanaged` finds all others by trying."""
        for path, module in self.network.named_modules():
            if isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats:
                raise AgreedError(
                    f"the network of {self.name} has {path} ({type(module).__name__}), whose running statistics would "
                    "differ with the number of ranks; use gan_dist.networks.statistics.BatchNorm"
                )
        self.trained = self.network
        self.statistics = (*statistics.statistics_of(self.network), *self.attached)
        self.moved = self.statistics
        self.weights = tuple(self.network.parameters())

    def place(
        self, device: torch.device, dtype: torch.dtype, memory_format: torch.memory_format = torch.channels_last
    ) -> None:
        """Move to the device, and make there the optimizer and the average.

        Raises AgreedError where the optimizer has state that would not be saved, or a schedule sets what it does not have.
        """
        self.network.to(device=device, dtype=dtype, memory_format=memory_format)  # type: ignore[call-overload]
        for each in self.attached:
            each.to(device=device, dtype=dtype)
        for each in self.statistics:
            each.begin()
        self.kept = optimizer_probe.probe(self.name, self.make_optimizer, device, dtype)
        self.optimizer = optimizer_probe.build(self.make_optimizer, self.weights)
        for key in self.settings(0) if self.settings else ():
            if any(key not in group for group in self.optimizer.param_groups):
                raise AgreedError(
                    f"the schedule of {self.name} sets {key}, which {type(self.optimizer).__name__} does not have"
                )
        if self.average_half_life is not None:
            self.average = Average(self.network, self.average_half_life, self.average_ramp)

    def gather_together(self) -> None:
        """Lay the statistics of many layers into one tensor. Whatever moves buffers (DDP does) must have done so before."""
        self.moved = together(self.statistics)

    def schedule(self, images: int) -> None:
        """Set what the optimizer's groups have at this position; for a step that is recorded, it was done before."""
        if self.settings is None or isinstance(images, Moving):
            return
        values = self.settings(images)
        if self.weights and self.weights[0].is_cuda and "lr" in values:
            # kernels take a rate in a tensor as float32 (engine/graphs.py): the same bits with it and without
            values["lr"] = float(np.float32(values["lr"]))
        for group in self.optimizer.param_groups:
            for name, value in values.items():
                if isinstance(group.get(name), Tensor):
                    group[name].fill_(value)
                else:
                    group[name] = value

    def whole_weights(self) -> Mapping[str, Tensor]:
        """Return the weights that a call in the player's turn computes with, by name: those of an engine's copy if it has one.

        They may be cut over the ranks (ZeRO-3), unless the phase says that its penalty needs them whole.
        """
        copied: Mapping[str, Tensor] | None = getattr(self.trained, "whole_weights", None)
        return dict(self.network.named_parameters()) if copied is None else copied

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Return the network's output: a tensor, or tuples, lists and dicts of tensors."""
        if self.observer is not None:
            self.observer(self, torch.is_grad_enabled())
        # only a player whose turn it is goes through the engine's wrapper: a frozen one has no gradients to share
        return (self.trained if self.has_turn else self.network)(*inputs, **named)
