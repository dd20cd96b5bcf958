"""Play a few steps of a game on random samples, and measure each phase: its time, its memory and its uses of the players."""

import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Iterator

import torch

from gan_dist import footprint, games, trial
from gan_dist.config import Config
from gan_dist.doctor import numerics
from gan_dist.engine import Engine, memory
from gan_dist.interfaces import Phase
from gan_dist.player import Player
from gan_dist.step import play_step

_ROUNDS = 5  # the first finds algorithms and memory, the last is looked at for what it takes


def called(phase: Phase) -> str:
    """Return how a person calls a phase: G, D, or D's penalty every 16 steps."""
    name = phase.player.name if phase.loss else f"{phase.player.name}'s penalty"
    return name if phase.every == 1 else f"{name} every {phase.every} steps"


@dataclasses.dataclass
class Played:
    """What the steps of a game took."""

    times: list[float]
    """Seconds of each phase."""
    peaks: dict[str, int]
    """Bytes that each phase took at most."""
    uses: dict[str, footprint.Uses]
    """How often each player was used in a step, on average."""


def kinds_of_steps(game: games.Game, batch: int) -> dict[int, float]:
    """Return a step of each kind (which phases are due), with the part of all steps that are of this kind."""
    period = math.lcm(*(phase.every for phase in game.phases))
    kinds: dict[tuple[int, ...], list[int]] = {}
    for step in range(period):
        due = tuple(game.phases.index(phase) for phase in game.due(step * batch, batch))
        kinds.setdefault(due, []).append(step)
    return {steps[0]: len(steps) / period for steps in kinds.values()}


def play(config: Config, engine: Engine, game: games.Game) -> Played:
    """Play a few steps of each kind, with all phases from the start: those that begin later must fit as well."""
    numerics.from_the_start(game)
    size = config.training.batch
    times = [math.inf] * len(game.phases)
    peaks: dict[str, int] = {}
    uses = {player.name: footprint.Uses(0.0, 0.0, 0.0, 0.0) for player in game.players}
    for (step, part), played in itertools.product(kinds_of_steps(game, size).items(), range(_ROUNDS)):
        batches = trial.on_device(config, engine, trial.random_batches(config, game.fields, step, engine.slots))
        last = played == _ROUNDS - 1

        @contextlib.contextmanager
        def measured(phase: Phase, last: bool = last, played: int = played, part: float = part) -> Iterator[None]:
            number, name = game.phases.index(phase), called(phase)
            engine.wait()
            began = time.perf_counter()
            if not last:
                yield
                if engine.device.type == "cuda":
                    torch.cuda.synchronize()
                if played:
                    times[number] = min(times[number], time.perf_counter() - began)
                return
            with memory.Peak(engine.device) as peak, counting(config, engine, game, phase, part, uses):
                yield
                if engine.device.type == "cuda":
                    torch.cuda.synchronize()
            peaks[name] = max(peaks.get(name, 0), peak.bytes)

        with engine.shortcuts.aside() if last else contextlib.nullcontext():
            play_step(engine, game, batches, step * size, size, around=measured)
    return Played(times, peaks, uses)


@contextlib.contextmanager
def counting(
    config: Config, engine: Engine, game: games.Game, phase: Phase, part: float, uses: dict[str, footprint.Uses]
) -> Iterator[None]:
    """Add to `uses` what a phase does, times the part of the steps that are of this kind."""
    gathers = config.training.strategy == "zero3" and phase.twice

    def note(player: Player, differentiates: bool) -> None:
        used = uses[player.name]
        if differentiates and not (gathers and phase.player is player and engine.is_in_penalty):
            used.passes += part
        elif not differentiates:
            used.looks += part

    of_player = uses[phase.player.name]
    for player in game.players:
        player.observer = note
    try:
        yield
    finally:
        for player in game.players:
            player.observer = None
    passes = math.ceil(len(engine.slots) / (config.training.micro_batch * engine.passes))
    losses = sum(not (gathers and penalty) for _, penalty in engine.terms(phase))
    of_player.backwards += part * passes * losses
    if gathers:  # ZeRO-3 gathers the whole weights twice for the penalty, and reduces once
        of_player.passes += part
        of_player.backwards += part
    of_player.updates += part
