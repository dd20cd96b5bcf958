"""What a game is: players and phases. A new game is one file with these two."""

import abc
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from gan_dist.interfaces import Phase
from gan_dist.metrics import Metrics
from gan_dist.player import Player


class Game(abc.ABC):
    """The players in a fixed order, and the phases of a step in the order they are played."""

    players: tuple[Player, ...]
    phases: tuple[Phase, ...]
    metrics: Metrics
    """Where losses record what a person wants to see; the trainer sets it."""

    def due(self, step: int) -> Iterator[Phase]:
        """The phases that are played in this step of the run."""
        return (phase for phase in self.phases if (step + 1) % phase.every == 0)

    def average(self, images: int, batch: int) -> None:
        """Let the moving averages follow the step of `batch` images that begins at `images`."""
        for player in self.players:
            if player.average is not None:
                player.average.update(images, batch)

    @abc.abstractmethod
    def samples(self, seed: int, first: int, count: int, label: int | None = None) -> Tensor:
        """Samples number `first`, ... of a seed from the averaged generator: (count, C, H, W) in [-1, 1].

        The same number of the same seed gives the same image, however many are drawn with it.
        """


def adam(learning_rate: float, betas: tuple[float, float], epsilon: float) -> Callable[..., torch.optim.Optimizer]:
    def make(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        on_gpu = parameters[0].is_cuda  # one kernel for all parameters; on a CPU it gains nothing
        return torch.optim.Adam(parameters, lr=learning_rate, betas=betas, eps=epsilon, fused=on_gpu or None)

    return make
