"""One process or many through Accelerate: devices, micro-batches, gradient sync, and what ranks tell each other."""

import contextlib
import datetime
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, Protocol, TypeVar

import torch
import torch.distributed
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, broadcast_object_list, gather_object
from torch import Tensor

from gan_dist.config import Config
from gan_dist.engine import exact
from gan_dist.engine.exact import TreeSum
from gan_dist.engine.health import Health, Skipped
from gan_dist.engine.talk import Agreement, channel
from gan_dist.errors import InputError
from gan_dist.figures import Figures
from gan_dist.networks.normalisation import batch_norms
from gan_dist.player import Player

T = TypeVar("T")
Micro = TypeVar("Micro")

# Indexing a new data set happens on one process while the others wait in a collective.
_TIMEOUT = datetime.timedelta(hours=2)


class Players(Protocol):
    players: tuple[Player, ...]
    figures: Figures


class Engine:
    """How this launch's processes compute together. The loop reads the same for one and for many."""

    def __init__(self, config: Config) -> None:
        on_cpu = _on_cpu(config.training.device)
        if os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() in ("1", "true"):
            raise InputError(
                f"accelerate was told to use DeepSpeed, but training.strategy = {config.training.strategy}; "
                "launch without --use_deepspeed"
            )
        if config.training.deterministic or config.training.strategy == "exact":
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS refuses; read when CUDA starts
            torch.use_deterministic_algorithms(True)
        self.accelerator = Accelerator(
            cpu=on_cpu,
            mixed_precision="no",
            kwargs_handlers=[
                # BatchNorm's statistics are shared by `update`; broadcasting buffers would undo it
                DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
                InitProcessGroupKwargs(timeout=_TIMEOUT),
            ],
        )
        self.config = config
        self.device: torch.device = self.accelerator.device
        self.rank: int = self.accelerator.process_index
        self.world_size: int = self.accelerator.num_processes
        self.is_main: bool = self.accelerator.is_main_process
        self.figures = Figures(self.device)
        self._turn: Player | None = None
        self.exact = config.training.strategy == "exact"
        self.slots = share_of(config.training.batch, config.training.micro_batch, self.rank, self.world_size)
        self._all_parts = config.training.batch // config.training.micro_batch
        if self.exact and self.world_size not in (counts := exact.fitting_counts(self._all_parts)):
            raise AgreedError(
                f"training.strategy = exact cannot sum {self._all_parts} micro-batches over {self.world_size} processes "
                f"in its tree; start {', '.join(map(str, counts))} processes, or set training.strategy: ddp"
            )

    def wrap(self, game: Players) -> None:
        """Put the game's players on this process's device and join them over the processes."""
        dtype = torch.float64 if self.config.training.precision == "fp64" else torch.float32
        game.figures = self.figures
        for player in game.players:
            player.settle(self.device, dtype)
            if self.exact:
                continue  # gradients are summed by hand, over the bare network
            with warnings.catch_warnings():
                # torch 2.15 renames broadcast_buffers, which Accelerate still passes by its old name
                warnings.simplefilter("ignore", FutureWarning)
                player.wrapped = self.accelerator.prepare_model(player.network)
        self._players = game.players
        self._health = Health(len(game.players), self.device)

    @contextlib.contextmanager
    def turn(self, player: Player) -> Iterator[None]:
        """Only this player's weights take gradients, and only its BatchNorm layers keep statistics."""
        for other in self._players:
            other.has_turn = other is player
            other.network.requires_grad_(other is player)
            for norm in batch_norms(other.network):
                norm.tracking = other is player
        player.optimizer.zero_grad(set_to_none=True)
        self._turn = player
        try:
            yield
        finally:
            self._turn, player.has_turn = None, False

    def share(self, batch: list[Micro]) -> Iterator[Micro]:
        """This process's micro-batches; gradients are exchanged in the last one's backward."""
        assert self._turn is not None, "share() outside of turn()"
        if self.exact:
            yield from self._share_exactly(self._turn, batch)
            return
        self._parts = len(batch)
        for micro in batch[:-1]:
            with self.accelerator.no_sync(self._turn.wrapped):
                yield micro
        yield batch[-1]

    def _share_exactly(self, player: Player, batch: list[Micro]) -> Iterator[Micro]:
        """Each micro-batch's gradients and BatchNorm statistics become a leaf of one tree over the global batch."""
        self._parts = self._all_parts  # the sum over all processes is then the mean
        tree = TreeSum()
        for micro in batch:
            yield micro
            finite = self._health.take()
            weights = [weight for weight in player.network.parameters() if weight.grad is not None]
            norms = [norm for norm in batch_norms(player.network) if norm.gathered]
            statistics = [statistic / self._all_parts for norm in norms for statistic in norm.take()]
            gradients = [weight.grad for weight in weights if weight.grad is not None]
            tree.add([*gradients, *statistics, finite.to(gradients[0].dtype).view(1)])
            for weight in weights:
                weight.grad = None
        total = tree.total()
        exact.sum_over_processes(total, self.world_size)
        for weight, gradient in zip(weights, total, strict=False):
            weight.grad = gradient
        *statistics, finite = total[len(weights) :]
        self._finite = finite[0] == self._all_parts
        for place, norm in enumerate(norms):
            norm.give(*statistics[2 * place : 2 * place + 2])

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a micro-batch's loss, weighted so that the sum is the global batch's mean."""
        assert self._turn is not None, "backward() outside of turn()"
        self.figures.add(f"loss/{self._turn.name}", loss)
        self._health.add(loss)
        self.accelerator.backward(loss / self._parts)

    def update(self, player: Player, images: int = 0) -> None:
        """Move the player by its gradients, unless a loss or a gradient is not finite on any process.

        `images` is the position of the step, for the record of skipped ones. Nothing here waits for the device.
        """
        gradients = [weight.grad for weight in player.network.parameters() if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if not self.exact:
            self._health.add(norm)
            self._share_statistics(player)
        self.figures.add(f"grad_norm/{player.name}", norm, weight=1 / self.world_size)
        good = torch.isfinite(norm) & self._finite
        if self.device.type == "cuda":
            # fused Adam leaves weights, moments and counts alone where this is 1 (it is what GradScaler sets)
            player.optimizer.found_inf = (~good).float()  # type: ignore[attr-defined]
            player.optimizer.step()
        elif good:
            player.optimizer.step()
        for norm_layer in batch_norms(player.network):
            norm_layer.commit(good)
        self._health.count(self._players.index(player), good, images)

    def _share_statistics(self, player: Player) -> None:
        """The mean of BatchNorm's statistics over all processes, and whether all of them had finite losses and gradients."""
        finite = self._health.take().view(1)
        if self.world_size > 1:
            norms = [norm for norm in batch_norms(player.network) if norm.gathered]
            parts = [statistic for norm in norms for statistic in (norm.step_mean, norm.step_var)]
            flat = torch.cat([*parts, finite.to(parts[0].dtype) if parts else finite])
            torch.distributed.all_reduce(flat)
            flat /= self.world_size
            *shared, finite = torch.split(flat, [*(len(part) for part in parts), 1])
            if parts:
                torch._foreach_copy_(parts, shared)
        self._finite = finite[0] == 1

    def skipped(self, wait: bool = False) -> dict[str, Skipped]:
        """Skipped updates of each player; on a GPU as of some steps ago, unless it may `wait` for the device."""
        return {player.name: found for player, found in zip(self._players, self._health.read(wait), strict=True)}

    def restore_skipped(self, totals: Mapping[str, int]) -> None:
        """Go on counting where a checkpoint stood."""
        self._health.restore([totals.get(player.name, 0) for player in self._players])

    def forgive(self) -> None:
        """Count skipped updates in a row anew."""
        self._health.forgive()

    def channel(self) -> Callable[[Any], list[Any]]:
        """A `gather` of its own, for another thread. Every process calls it."""
        return channel(self.world_size, _TIMEOUT)

    def agreement(self, count: int) -> Agreement:
        """`count` integers of every process, exchanged now and then in the background. Every process calls it."""
        return Agreement(self.world_size, count)

    def read_figures(self, clear: bool = True) -> dict[str, tuple[float, float]]:
        """Sums and counts of all figures over all processes: {name: (sum, count)}. Every process calls it."""
        names, totals = self.figures.totals()
        if self.world_size > 1:
            totals = self.accelerator.reduce(totals, reduction="sum")
        if clear:
            self.figures.clear()
        return {name: (row[0], row[1]) for name, row in zip(names, totals.tolist(), strict=True)}

    def agree(self, work: Callable[[], T], where: Literal["first", "machine"] = "first") -> T | None:
        """Run `work` on one process (or on one of each machine); an InputError there is raised everywhere.

        Returns work's result on the processes that ran it and, with where="first", on all.
        """
        runs = self.is_main if where == "first" else self.accelerator.is_local_main_process
        result: T | None = None
        problem = None
        if runs:
            try:
                result = work()
            except InputError as error:
                problem = str(error)
        if self.world_size > 1:
            problems = [found for found in gather_object([problem]) if found]
            problem = problems[0] if problems else None
            if where == "first" and problem is None:
                box: list[Any] = [result]
                broadcast_object_list(box)
                result = box[0]
        if problem is not None:
            raise AgreedError(problem)
        return result

    def gather(self, value: T) -> list[T]:
        """The value of every process, in order of rank, on every process."""
        return list(gather_object([value])) if self.world_size > 1 else [value]

    def wait(self) -> None:
        self.accelerator.wait_for_everyone()

    def close(self) -> None:
        self.accelerator.end_training()


class AgreedError(InputError):
    """An InputError that every process has: one of them prints it."""


def share_of(batch: int, micro_batch: int, rank: int, world_size: int) -> range:
    """The slots of the global batch that a process serves: its contiguous block of micro-batches.

    Raises AgreedError, naming the process counts that would do, where the micro-batches cannot be dealt.
    """
    parts = batch // micro_batch
    if parts % world_size:
        fitting = ", ".join(str(count) for count in range(1, parts + 1) if parts % count == 0)
        raise AgreedError(
            f"training.batch = {batch} is {parts} micro-batches of {micro_batch}, which {world_size} processes cannot "
            f"share evenly; start {fitting} processes, or change training.micro_batch"
        )
    size = parts // world_size * micro_batch
    return range(rank * size, (rank + 1) * size)


def _on_cpu(device: str) -> bool:
    gpus = torch.cuda.device_count()
    if device == "cuda" and not gpus:
        raise AgreedError("training.device = cuda, but torch finds no GPU here; set training.device: auto or cpu")
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device != "cpu" and gpus and local > gpus:
        raise AgreedError(
            f"{local} processes on this machine, but it has {gpus} GPUs; start {gpus}, or set training.device: cpu"
        )
    return device == "cpu" or not gpus


def is_first_process() -> bool:
    """Before an engine exists: whether this process is the one that speaks."""
    return int(os.environ.get("RANK", "0")) == 0
