"""Let the ranks of a launch compute together: turns, micro-batches and updates."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from gan_dist import frozen, rank_counts
from gan_dist.config import Config
from gan_dist.engine import launch, update
from gan_dist.engine.ddp import Ddp
from gan_dist.engine.exact import Exact
from gan_dist.engine.flat import Flat
from gan_dist.engine.health import Health, Skipped
from gan_dist.engine.precision import HALF, LossScale, Lowered
from gan_dist.engine.ranks import Ranks
from gan_dist.engine.shortcuts import Shortcuts
from gan_dist.errors import AgreedError
from gan_dist.interfaces import Batch, Phase
from gan_dist.metrics import Metrics
from gan_dist.player import Player
from gan_dist.pool import Pool


class Strategy(Protocol):
    """How ranks share the work: ddp.Ddp, exact.Exact or zero.Zero."""

    parts: int
    """Micro-batches by which a loss is divided."""

    def wrap(self, player: Player) -> None: ...
    def computing(self, player: Player, last: bool, twice: bool) -> contextlib.AbstractContextManager[None]: ...
    def backward(self, player: Player, loss: Tensor) -> None: ...
    def passed(self, player: Player) -> None: ...
    def shared(self, player: Player) -> None: ...
    def update(self, player: Player, scale: LossScale | None) -> tuple[Tensor, Tensor]: ...
    def averages(self, player: Player) -> contextlib.AbstractContextManager[None]: ...
    def forget(self, player: Player) -> None: ...
    def release(self) -> None: ...


class Players(Protocol):
    """What the engine knows of a game."""

    players: tuple[Player, ...]
    metrics: Metrics
    pools: Sequence[Pool]
    images: int

    @property
    def modules(self) -> Sequence[nn.Module]: ...


@dataclasses.dataclass
class _Turn:
    phase: Phase
    penalty: bool = False
    """Whether what is computed now is the phase's penalty."""
    weight: float = 1.0
    """Of the loss that is computed now, in the mean over the global batch."""
    reported: Tensor | None = None
    """The loss without its penalty, where they are computed together."""
    gradients: Sequence[tuple[nn.Parameter, Tensor]] | None = None
    """Of the loss that is computed now, where they come with it (traced.py)."""


class Engine(Ranks):
    """How this launch's ranks compute together. The loop reads the same for one and for many."""

    def __init__(self, config: Config, alone: bool = False) -> None:
        """Join the ranks of this launch, or be an engine of one rank that uses no process group (`alone`).

        Engines set torch's determinism, TF32 and threads for the whole process: the newest holds.
        """
        self.config = config
        if alone:
            assert config.training.strategy in ("ddp", "exact"), "ZeRO needs a process group"
            super().__init__()
            self.device = launch.start_alone(config)
        else:
            super().__init__(accelerator := launch.start(config))
            self.device = accelerator.device
        self.shortcuts = Shortcuts(config, self.device)
        self.metrics = Metrics(self.device)
        self._players: tuple[Player, ...] = ()
        self._turn: _Turn | None = None
        training = config.training
        parts = training.batch // training.micro_batch
        self.slots = slots_of(training.batch, training.micro_batch, self.rank, self.world_size, training.strategy)
        of_rank = parts // self.world_size  # a run that resumes at more ranks may have fewer than it asks for
        self.passes = 1 if training.micro_batches_per_pass == "auto" else min(of_rank, training.micro_batches_per_pass)
        """Micro-batches that go through the networks together."""
        self._health = Health(2, self.device)
        self._lowered = Lowered(self.device, HALF[training.precision]) if training.precision in HALF else None
        self._noted = self.metrics
        """Where losses record metrics: for `exact` those of a micro-batch, which are summed as its gradients are."""
        if training.strategy == "exact":
            self._strategy: Strategy = (exact := Exact(self._health, self.rank, self.world_size, parts, self.metrics))
            self._noted = exact.leaf
        elif training.strategy == "ddp":
            kind = Flat if self.shortcuts.sums_by_hand else Ddp
            self._strategy = kind(self.accelerator, self._health, parts // self.world_size)
        else:
            from gan_dist.engine.zero import Zero  # loading DeepSpeed takes seconds

            self._strategy = Zero(config, self.device, self._health, self.world_size, of_rank, self._lowered)
        self._scales: dict[str, LossScale] = {}

    def place(self, game: Players) -> None:
        """Put the game's players on this rank's device. Raises AgreedError where a player's optimizer cannot be saved."""
        training = self.config.training
        dtype = torch.float64 if training.precision == "fp64" else torch.float32
        zero = training.strategy.startswith("zero")  # it cuts flat runs out of weights in memory order
        dense = training.channels_last and not zero
        game.metrics = self._noted
        for module in game.modules:
            frozen.filled(module, self._lowered).to(device=self.device, dtype=dtype)
        for pool in game.pools:
            pool.place(self.slots, self.device, dtype)
        for player in game.players:
            player.place(self.device, dtype, torch.channels_last if dense else torch.contiguous_format)
            if self._lowered is not None:
                self._lowered.lower(player.network)
            if training.precision == "fp16":
                self._scales[player.name] = LossScale(self.device)
        self._players = game.players
        self._health.resize(len(game.players))

    def wrap(self, game: Players) -> None:
        """Join the players over the ranks, after placing them where `place` was not called for this game."""
        if self._players is not game.players:
            self.place(game)
        for player in game.players:
            self._strategy.wrap(player)
            player.gather_together()
        self.shortcuts.begin(game, [self.metrics, self._noted], self.gather, self._forget, self.is_main)

    def at(self, images: int) -> None:
        """Note the position of a step before its phases, so that nothing in them depends on it as a number of the host's."""
        self._health.at(images)

    @contextlib.contextmanager
    def turn(self, phase: Phase) -> Iterator[None]:
        """Let only the weights of the phase's player take gradients, and only its statistics gather.

        Where an update is broken off by an exception, nothing of it is left.
        """
        player = phase.player
        for other in self._players:
            other.has_turn = other is player
            for weight in other.weights:
                if weight.requires_grad is not other.has_turn:
                    weight.requires_grad_(other.has_turn)
            for each in other.statistics:
                each.tracking = other.has_turn
        player.optimizer.zero_grad(set_to_none=True)
        self._turn = _Turn(phase)
        try:
            yield
        except BaseException:
            self._forget(player)
            raise
        finally:
            self._turn, player.has_turn = None, False
            for each in player.statistics:
                each.tracking = False

    def _forget(self, player: Player) -> None:
        """Drop what an update that was broken off has gathered."""
        player.optimizer.zero_grad(set_to_none=True)
        for each in player.moved:
            each.drop()
        self._strategy.forget(player)
        self._noted.forget()
        self._health.take()

    def share(self, batch: Sequence[Batch]) -> Iterator[tuple[Callable[[Batch], Tensor], Batch]]:
        """Give this rank's part of an update: (loss, samples) whose loss must go to `backward` at once.

        The ranks exchange gradients in the last one's backward.
        """
        assert self._turn is not None, "share() outside of turn()"
        turn, phase, strategy = self._turn, self._turn.phase, self._strategy
        terms, scale = self.terms(phase), self._scales.get(phase.player.name)
        try:
            for micro in batch:
                self.see_parts(micro.parts)
                turn.weight = micro.parts / strategy.parts
                for number, (loss, turn.penalty) in enumerate(terms, 1):
                    last = micro is batch[-1] and number == len(terms)
                    with (
                        self.penalising(phase) if turn.penalty else contextlib.nullcontext(),
                        strategy.computing(phase.player, last, turn.penalty and phase.twice),
                    ):
                        yield self.shortcuts.of(turn, number, loss, scale), micro
                strategy.passed(phase.player)
        finally:
            self.see_parts(1)
        strategy.shared(phase.player)

    def terms(self, phase: Phase) -> list[tuple[Callable[[Batch], Tensor], bool]]:
        """Return what is descended by a backward each: a loss, and whether it is the penalty alone."""
        return phase.terms(lambda: self.penalising(phase), self._report)

    def _report(self, loss: Tensor) -> None:
        if self._turn is not None:
            self._turn.reported = loss.detach()

    @property
    def is_in_penalty(self) -> bool:
        """Say whether what is computed now is a phase's penalty."""
        return self._turn is not None and self._turn.penalty

    @contextlib.contextmanager
    def penalising(self, phase: Phase) -> Iterator[None]:
        """Compute a penalty: in full precision if the phase says so, and only statistics that are `in_penalties` gather."""
        before = [(each, each.tracking) for each in phase.player.statistics if not each.in_penalties]
        for each, _ in before:
            each.tracking = False
        if self._lowered is not None:
            self._lowered.on = not phase.full_precision
        try:
            yield
        finally:
            for each, tracking in before:
                each.tracking = tracking
            if self._lowered is not None:
                self._lowered.on = True

    def see_parts(self, parts: int) -> None:
        """Say how many micro-batches the next forwards contain, to statistics and metrics."""
        self._noted.weight = float(parts)
        for player in self._players:
            for each in player.statistics:
                if each.parts != parts:  # to set an attribute of a module takes much longer
                    each.parts = parts

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss that `share` gave, weighted so that the sum is the mean over the global batch."""
        assert self._turn is not None, "backward() outside of turn()"
        player = self._turn.phase.player
        if not self._turn.penalty:
            reported = loss if self._turn.reported is None else self._turn.reported
            self._noted.add(f"loss/{player.name}", reported)
        self._health.add(loss)
        if self._turn.gradients is not None:
            update.add_gradients(self._turn.gradients)
            self._turn.gradients = None
            return
        scale = self._scales.get(player.name)
        if self._turn.weight != 1:
            loss = loss * self._turn.weight
        self._strategy.backward(player, loss if scale is None else loss * scale.factor)

    def update(self, images: int = 0) -> None:
        """Move the player whose turn it is by its gradients, unless a loss or a gradient is not finite on any rank.

        `images` is the position of the step, for schedules. The host waits for the device under ZeRO alone.
        """
        assert self._turn is not None, "update() outside of turn()"
        player = self._turn.phase.player
        scale = self._scales.get(player.name)
        player.schedule(images)
        norm, good = self._strategy.update(player, scale)
        name = f"grad_norm/{player.name}{'' if self._turn.phase.loss else '_penalty'}"
        # a skipped one counts nothing: under fp16 some overflows are normal
        counted = good.to(norm.dtype) if self.is_main else torch.zeros_like(norm)
        self.metrics.add(name, torch.where(good, norm, 0.0), weight=counted)
        self.metrics.flush()
        for each in player.moved:
            each.commit(good)
        if scale is not None:
            scale.update(good)
        self._health.count(self._players.index(player), good, images)

    @contextlib.contextmanager
    def averages(self) -> Iterator[None]:
        """Keep the moving averages whole on every rank while it lasts. Every rank calls it."""
        with contextlib.ExitStack() as stack:
            for player in self._players:
                stack.enter_context(self._strategy.averages(player))
            yield

    def loss_scales(self) -> dict[str, list[float]]:
        """Return what a checkpoint keeps of the players' loss scales (fp16)."""
        return {name: scale.state() for name, scale in self._scales.items()}

    def restore_loss_scales(self, states: Mapping[str, list[float]]) -> None:
        for name in states.keys() & self._scales.keys():
            self._scales[name].restore(states[name])

    def skipped(self, wait: bool = False) -> dict[str, Skipped]:
        """Return the skipped updates of each player; on a GPU as of some steps ago, unless it may `wait` for the device."""
        return {player.name: found for player, found in zip(self._players, self._health.read(wait), strict=True)}

    def restore_skipped(self, totals: Mapping[str, int]) -> None:
        """Continue the counts of a checkpoint."""
        self._health.restore([totals.get(player.name, 0) for player in self._players])

    def forgive(self) -> None:
        """Set the counts of skipped updates in a row to zero."""
        self._health.forgive()

    def read_metrics(self, clear: bool = True) -> dict[str, tuple[float, float]]:
        """Return sums and counts of all metrics over all ranks: {name: (sum, count)}. Every rank calls it."""
        names, totals = self.metrics.totals()
        if self.world_size > 1:
            assert self.accelerator is not None
            totals = self.accelerator.reduce(totals, reduction="sum")
        if clear:
            self.metrics.clear()
        return {name: (row[0], row[1]) for name, row in zip(names, totals.tolist(), strict=True)}

    def release(self) -> None:
        """Remove what the strategy keeps of the players (DeepSpeed's hooks and buffers)."""
        self._strategy.release()


def slots_of(batch: int, micro_batch: int, rank: int, world_size: int, strategy: str = "ddp") -> range:
    """Return the slots of the global batch that a rank serves: its contiguous block of micro-batches.

    Raises AgreedError, naming the counts of ranks that fit, where the ranks cannot share the micro-batches.
    """
    if problem := rank_counts.refusal(batch, micro_batch, strategy, world_size):
        raise AgreedError(problem)
    size = batch // micro_batch // world_size * micro_batch
    return range(rank * size, (rank + 1) * size)
