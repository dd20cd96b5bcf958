"""Share the work by strategy ddp: every rank holds both networks whole, and DDP averages their gradients."""

import contextlib
from collections.abc import Iterator

from accelerate import Accelerator
from torch import Tensor

from gan_dist.engine import update
from gan_dist.engine.health import Health
from gan_dist.engine.launch import prepare_quietly
from gan_dist.engine.precision import LossScale
from gan_dist.player import Player


class Ddp:
    """Accelerate's DDP: gradients are exchanged in buckets while the last backward of an update still runs."""

    def __init__(self, accelerator: Accelerator | None, health: Health, parts: int) -> None:
        """Without an accelerator there is one rank, which uses no process group."""
        self._accelerator, self._health = accelerator, health
        self._world_size: int = 1 if accelerator is None else accelerator.num_processes
        self.parts = parts
        """Micro-batches whose sum is to become the mean: this rank's, as DDP averages over ranks."""

    def wrap(self, player: Player) -> None:
        if self._accelerator is not None:
            player.trained = prepare_quietly(self._accelerator, player.network)

    @contextlib.contextmanager
    def computing(self, player: Player, last: bool, twice: bool) -> Iterator[None]:
        """Surround the forward and backward of a loss; in the `last` of an update the ranks exchange gradients."""
        if last or self._accelerator is None:
            yield
        else:
            with self._accelerator.no_sync(player.trained):
                yield

    def backward(self, player: Player, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def passed(self, player: Player) -> None:
        """End a pass, all of whose losses are done."""

    def shared(self, player: Player) -> None:
        """End the passes of an update."""

    def update(self, player: Player, scale: LossScale | None) -> tuple[Tensor, Tensor]:
        """Move the player; returns the gradient's norm, and whether the update was good, a boolean the same everywhere."""
        gradients = [weight.grad for weight in player.weights if weight.grad is not None]
        norm = update.norm_of(gradients, scale)
        self._health.add(norm)
        good = update.all_reduce_statistics(player, self._health, self._world_size)
        update.step(player, gradients, norm, good)
        return norm, good

    def averages(self, player: Player) -> contextlib.AbstractContextManager[None]:
        """Keep the player's average whole on every rank while it lasts."""
        return contextlib.nullcontext()

    def forget(self, player: Player) -> None:
        """Drop what an update that was broken off has left."""

    def release(self) -> None:
        """Do nothing: nothing is kept."""
