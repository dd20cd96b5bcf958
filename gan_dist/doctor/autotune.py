"""Try how many micro-batches go through the networks in one pass: what fits and is fastest here.

A small micro-batch leaves a GPU idle, and a large one may not fit. The results differ by rounding only, so the choice is
kept in the run directory: the same launch of a run gives the same bits.
"""

import contextlib
import math
import time
from collections.abc import Iterator

import torch

from gan_dist import footprint, interfaces, trial
from gan_dist.config import Config
from gan_dist.engine import Engine, memory
from gan_dist.games.base import Game
from gan_dist.interfaces import Batch

_GAIN = 1.05  # by which a larger pass must be faster
_ROUNDS = 3
_ROOM = 0.8  # of the memory: fragments, and what libraries take, come on top


def candidates(parts: int) -> Iterator[int]:
    """Yield 1, 2, 4, ... and last all micro-batches of a rank."""
    size = 1
    while size < parts:
        yield size
        size *= 2
    yield parts


def choose(config: Config, engine: Engine, game: Game) -> int:
    """Return the best size on this rank, for players that are placed and not wrapped yet. Leaves no trace in them."""
    parts = len(engine.slots) // config.training.micro_batch
    best, fastest = 1, float("inf")
    for size in candidates(parts):
        seconds, share = _try(config, engine, game, size)
        if size > 1 and (share > _ROOM or seconds > fastest):
            break
        if seconds * _GAIN < fastest:
            best, fastest = size, seconds
        if engine.device.type == "cpu" and 2 * share > 1:  # there nothing is raised: the system kills the process
            break
    return best


def _try(config: Config, engine: Engine, game: Game, size: int) -> tuple[float, float]:
    """Return the seconds that a micro-batch takes in all phases of a step, and the part of the memory that training takes."""
    times, count = [], config.training.micro_batch
    try:
        with memory.Peak(engine.device) as peak:
            for _ in range(1 + _ROUNDS):  # the first finds algorithms and memory
                micros = [range(number * count, (number + 1) * count) for number in range(size)]
                (micro,) = interfaces.join([trial.samples(config, engine, game, each) for each in micros], size)
                began = time.perf_counter()
                _play(engine, game, micro)
                if engine.device.type == "cuda":
                    torch.cuda.synchronize()
                times.append(time.perf_counter() - began)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return float("inf"), float("inf")
    finally:
        for player in game.players:
            player.network.requires_grad_(True).zero_grad(set_to_none=True)
        engine.see_parts(1)
        engine.metrics.clear()
    return min(times[1:]) / size, (peak.bytes + _later(config, engine, game)) / memory.room(engine.device)


def _play(engine: Engine, game: Game, micro: Batch) -> None:
    engine.see_parts(micro.parts)
    for each in (each for player in game.players for each in player.statistics):
        each.tracking = False
    for phase in game.phases:
        for player in game.players:
            player.network.requires_grad_(player is phase.player)
        for loss, penalty in engine.terms(phase):
            with engine.penalising(phase) if penalty else contextlib.nullcontext():
                loss(micro).backward()  # type: ignore[no-untyped-call]


def _later(config: Config, engine: Engine, game: Game) -> float:
    """Return the bytes that training holds and a trial does not: what a strategy keeps, and the samples of other passes."""
    strategy, count = config.training.strategy, engine.world_size
    total = 0.0
    for player in game.players:
        sizes = [weight.numel() for weight in player.network.parameters()]
        held = footprint.memory(strategy, sizes, count, False, engine.rank, len(player.kept.tensors))
        total += held.moments + held.masters + held.buffers
        if strategy == "ddp" and count > 1:
            total += held.gradients  # DDP's buckets, which stay
        gathers = any(phase.twice for phase in game.phases if phase.player is player)
        total += footprint.transient(strategy, sum(sizes), len(engine.slots) // config.training.micro_batch, gathers)
    pixels = sum(field.channels * math.prod(field.size) for field in game.fields.values())
    total += 2 * 4 * len(engine.slots) * pixels  # and what is made of them
    return total * (2 if config.training.precision == "fp64" else 1)
