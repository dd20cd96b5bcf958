"""The processes of a launch at work together: turns, shares, updates, and what ranks tell each other."""

import contextlib
import dataclasses
import platform
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeVar

import torch
import torch.distributed
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

from gan_dist.config import Config
from gan_dist.engine import exact, launch
from gan_dist.engine.consensus import Agreement, Board, board, channel, who_differs
from gan_dist.engine.ddp import Ddp
from gan_dist.engine.exact import Exact
from gan_dist.engine.health import Health, Skipped
from gan_dist.engine.precision import HALF, LossScale, Lowered
from gan_dist.errors import AgreedError, InputError, RunError
from gan_dist.interfaces import Batch, Phase
from gan_dist.metrics import Metrics
from gan_dist.networks.statistics import batch_norms
from gan_dist.player import Player

T = TypeVar("T")


class Strategy(Protocol):
    """How processes share the work: whole.Ddp, exact.Exact or zero.Zero."""

    parts: int
    """Micro-batches by which a loss is divided."""

    def wrap(self, player: Player) -> None: ...
    def computing(self, player: Player, last: bool, twice: bool) -> contextlib.AbstractContextManager[None]: ...
    def backward(self, player: Player, loss: Tensor) -> None: ...
    def passed(self, player: Player) -> None: ...
    def shared(self, player: Player) -> None: ...
    def update(self, player: Player, scale: LossScale | None) -> tuple[Tensor, Tensor]: ...
    def averages(self, player: Player) -> contextlib.AbstractContextManager[None]: ...
    def release(self) -> None: ...


class Players(Protocol):
    players: tuple[Player, ...]
    metrics: Metrics


@dataclasses.dataclass
class _Turn:
    phase: Phase
    penalty: bool = False
    """Whether what is computed now is the phase's penalty."""
    weight: float = 1.0
    """Of the loss that is computed now, in the mean over the global batch."""


class Engine:
    """How this launch's processes compute together. The loop reads the same for one and for many."""

    def __init__(self, config: Config) -> None:
        self.accelerator = launch.start(config)
        self.config = config
        self.device: torch.device = self.accelerator.device
        self.rank: int = self.accelerator.process_index
        self.world_size: int = self.accelerator.num_processes
        self.is_main: bool = self.accelerator.is_main_process
        self.metrics = Metrics(self.device)
        self._turn: _Turn | None = None
        training = config.training
        parts = training.batch // training.micro_batch
        if training.strategy == "exact":  # first: fewer process counts fit its tree than can share the batch
            exact.check(parts, self.world_size)
        self.slots = slots_of(training.batch, training.micro_batch, self.rank, self.world_size)
        own = parts // self.world_size  # a run that goes on at more processes may have fewer than it asks for
        self.passes = 1 if training.micro_batches_per_pass == "auto" else min(own, training.micro_batches_per_pass)
        """Micro-batches that go through the networks together."""
        self._health = Health(2, self.device)
        self._lowered = Lowered(self.device, HALF[training.precision]) if training.precision in HALF else None
        self._noted = self.metrics
        """Where losses record figures: for `exact` those of a micro-batch, which go the way of its gradients."""
        if training.strategy == "exact":
            one = Exact(self._health, self.rank, self.world_size, parts, self.metrics)
            self._strategy: Strategy = one
            self._noted = one.leaf
        elif training.strategy == "ddp":
            self._strategy = Ddp(self.accelerator, self._health, parts // self.world_size)
        else:
            from gan_dist.engine.zero import Zero  # it loads DeepSpeed, which takes seconds

            self._strategy = Zero(config, self.device, self._health, self.world_size, own, self._lowered)
        self._scales: dict[str, LossScale] = {}

    def place(self, game: Players) -> None:
        """Put the game's players on this process's device."""
        training = self.config.training
        dtype = torch.float64 if training.precision == "fp64" else torch.float32
        zero = training.strategy.startswith("zero")  # it cuts flat runs out of weights as they lie in memory
        dense = training.channels_last and not zero
        game.metrics = self._noted
        for player in game.players:
            player.place(self.device, dtype, torch.channels_last if dense else torch.contiguous_format)
            if self._lowered is not None:
                self._lowered.lower(player.network)
            if training.precision == "fp16":
                self._scales[player.name] = LossScale(self.device)
        self._players = game.players
        self._health.resize(len(game.players))

    def wrap(self, game: Players) -> None:
        """Join the players over the processes; those that are not settled yet are."""
        if getattr(self, "_players", None) is not game.players:
            self.place(game)
        for player in game.players:
            self._strategy.wrap(player)
            if self.config.training.compile:
                player.network.compile()

    @contextlib.contextmanager
    def turn(self, phase: Phase) -> Iterator[None]:
        """Only the weights of the phase's player take gradients, and only its BatchNorm layers keep statistics."""
        player = phase.player
        for other in self._players:
            other.has_turn = other is player
            other.network.requires_grad_(other is player)
            for norm in batch_norms(other.network):
                norm.tracking = other is player
        player.optimizer.zero_grad(set_to_none=True)
        self._turn = _Turn(phase)
        try:
            yield
        finally:
            self._turn, player.has_turn = None, False

    def share(self, batch: Sequence[Batch]) -> Iterator[tuple[Callable[[Batch], Tensor], Batch]]:
        """This process's part of an update: (loss, samples) whose loss is to be handed to `backward` at once.

        Gradients are exchanged in the last one's backward.
        """
        assert self._turn is not None, "share() outside of turn()"
        turn, phase, strategy = self._turn, self._turn.phase, self._strategy
        losses = [loss for loss in (phase.loss, phase.penalty) if loss is not None]
        for micro in batch:
            self._see_parts(micro.parts)
            turn.weight = micro.parts / strategy.parts
            for loss in losses:
                turn.penalty = loss is phase.penalty
                last = micro is batch[-1] and loss is losses[-1]
                with (
                    self.penalising(phase) if turn.penalty else contextlib.nullcontext(),
                    strategy.computing(phase.player, last, turn.penalty and phase.twice),
                ):
                    yield loss, micro
            strategy.passed(phase.player)
        self._see_parts(1)
        strategy.shared(phase.player)

    @contextlib.contextmanager
    def penalising(self, phase: Phase) -> Iterator[None]:
        """A penalty leaves no trace in BatchNorm's statistics, and may be computed in full precision."""
        norms = {norm: norm.tracking for norm in batch_norms(phase.player.network)}
        for norm in norms:
            norm.tracking = False
        if self._lowered is not None:
            self._lowered.on = not phase.full_precision
        yield
        for norm, tracking in norms.items():
            norm.tracking = tracking
        if self._lowered is not None:
            self._lowered.on = True

    def _see_parts(self, parts: int) -> None:
        self._noted.weight = float(parts)
        for player in self._players:
            for norm in batch_norms(player.network):
                norm.parts = parts

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss that `share` gave, weighted so that the sum is the global batch's mean."""
        assert self._turn is not None, "backward() outside of turn()"
        player = self._turn.phase.player
        if not self._turn.penalty:
            self._noted.add(f"loss/{player.name}", loss)
        self._health.add(loss)
        scale = self._scales.get(player.name)
        loss = loss * self._turn.weight
        self._strategy.backward(player, loss if scale is None else loss * scale.factor)

    def update(self, images: int = 0) -> None:
        """Move the player whose turn it is by its gradients, unless a loss or a gradient is not finite on any process.

        `images` is the position of the step, for the record of skipped ones. Nothing here waits for the device, but with
        ZeRO, where DeepSpeed does.
        """
        assert self._turn is not None, "update() outside of turn()"
        player = self._turn.phase.player
        scale = self._scales.get(player.name)
        norm, good = self._strategy.update(player, scale)
        name = f"grad_norm/{player.name}" if self._turn.phase.loss else f"grad_norm/{player.name}_penalty"
        # a skipped one counts nothing: under fp16 an overflow now and then is as it should be
        counted = good.double() * float(self.is_main)
        self.metrics.add(name, torch.where(good, norm, 0.0), weight=counted)
        for norm_layer in batch_norms(player.network):
            norm_layer.commit(good)
        if scale is not None:
            scale.update(good)
        self._health.count(self._players.index(player), good, images)

    @contextlib.contextmanager
    def averages(self) -> Iterator[None]:
        """While it lasts, the moving averages are whole on every process. Every process calls it."""
        with contextlib.ExitStack() as stack:
            for player in self._players:
                stack.enter_context(self._strategy.averages(player))
            yield

    def loss_scales(self) -> dict[str, list[float]]:
        """What a checkpoint keeps of the players' loss scales (fp16)."""
        return {name: scale.state() for name, scale in self._scales.items()}

    def restore_loss_scales(self, states: Mapping[str, list[float]]) -> None:
        for name, state in states.items():
            if name in self._scales:
                self._scales[name].restore(state)

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
        return channel(self.world_size, launch.TIMEOUT)

    def board(self, names: Sequence[str]) -> Board | None:
        """Return short texts by name that ranks tell each other from any thread; None for one rank. All ranks call it."""
        return board(self.rank, self.world_size, names)

    def agreement(self, count: int) -> Agreement:
        """`count` integers of every process, exchanged now and then in the background. Every process calls it."""
        return Agreement(self.world_size, count)

    def read_metrics(self, clear: bool = True) -> dict[str, tuple[float, float]]:
        """Sums and counts of all figures over all processes: {name: (sum, count)}. Every process calls it."""
        names, totals = self.metrics.totals()
        if self.world_size > 1:
            totals = self.accelerator.reduce(totals, reduction="sum")
        if clear:
            self.metrics.clear()
        return {name: (row[0], row[1]) for name, row in zip(names, totals.tolist(), strict=True)}

    def on_main(self, work: Callable[[], T], where: Literal["first", "machine"] = "first") -> T | None:
        """Run `work` on one process (or on one of each machine); an InputError or RunError there is raised everywhere.

        Returns work's result on the processes that ran it and, with where="first", on all.
        """
        runs = self.is_main if where == "first" else self.accelerator.is_local_main_process
        result: T | None = None
        problem: tuple[type[Exception], str] | None = None
        if runs:
            try:
                result = work()
            except InputError as error:
                problem = AgreedError, str(error)
            except RunError as error:
                problem = RunError, str(error)
        if self.world_size > 1:
            problems = [found for found in gather_object([problem]) if found]
            problem = problems[0] if problems else None
            if where == "first" and problem is None:
                box: list[Any] = [result]
                broadcast_object_list(box)
                result = box[0]
        if problem is not None:
            kind, text = problem
            raise kind(text)
        return result

    def gather(self, value: T) -> list[T]:
        """The value of every process, in order of rank, on every process."""
        return list(gather_object([value])) if self.world_size > 1 else [value]

    def who_differs(self, value: Hashable) -> str:
        """Return on which machines `value` is another than on most, in words; "" where it is the same. All ranks call it."""
        everyone = self.gather((platform.node(), value))
        return who_differs([machine for machine, _ in everyone], [found for _, found in everyone])

    def release(self) -> None:
        """Give up what the strategy keeps of the players (DeepSpeed's hooks and buffers)."""
        self._strategy.release()

    def wait(self) -> None:
        self.accelerator.wait_for_everyone()

    def close(self) -> None:
        self.accelerator.end_training()


def slots_of(batch: int, micro_batch: int, rank: int, world_size: int) -> range:
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
