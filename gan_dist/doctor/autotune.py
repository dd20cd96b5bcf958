"""Try how many micro-batches go through the networks in one pass, and how images lie in memory: what is fastest here.

A small micro-batch leaves a GPU idle, and a large one may not fit. The results differ by rounding only, so the choice is
kept in the run directory: the same launch of a run gives the same bits.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from gan_dist import footprint, interfaces, trial
from gan_dist.config import Config
from gan_dist.engine import Engine, memory
from gan_dist.games.base import Game
from gan_dist.interfaces import Batch
from gan_dist.run_directory import Run, chosen

T = TypeVar("T", bool, int)
_GAIN = 1.05  # by which a larger pass must be faster
_ROUNDS = 3
_ROOM = 0.8  # of the memory: fragments, and what libraries take, come on top


def settle(config: Config, engine: Engine, game: Game, run: Run) -> tuple[Config, str]:
    """Settle what the config leaves to be tried: `channels_last: auto`, then the engine's micro-batches in a pass.

    The players are placed and not wrapped yet. All ranks call it, and take what the run's first start on such ranks found
    best. Returns the config with the layout, and the layout in words; "" where none was left open.
    """
    training, words = config.training, ""
    if training.channels_last == "auto":
        dense = True  # ZeRO lays weights out itself
        if training.strategy == "ddp":
            dense = _tried("channels_last", lambda: choose_layout(config, engine, game), config, engine, run)
            lay_out(game, dense)
        elif training.strategy == "exact":  # as the run began
            dense = bool((engine.on_main(lambda: chosen(run.directory)) or {}).get("channels_last", True))
            lay_out(game, dense)
        words = f"training.channels_last: auto: {str(dense).lower()} on this machine"
        config = config.with_({"training.channels_last": dense})
    if training.micro_batches_per_pass == "auto" and training.strategy != "exact":
        engine.passes = _tried("micro_batches_per_pass", lambda: choose(config, engine, game), config, engine, run)
    return config, words


def _tried(key: str, work: Callable[[], T], config: Config, engine: Engine, run: Run) -> T:
    kind = torch.cuda.get_device_name() if engine.device.type == "cuda" else "cpu"
    kinds = "+".join(sorted(set(engine.gather(kind))))  # the same words on all ranks
    launch = f"{key}: {kinds}, {engine.world_size} processes, {config.training.strategy}"
    known = engine.on_main(lambda: chosen(run.directory)) or {}
    if launch not in known:
        best = min(engine.gather(work()))
        known = engine.on_main(lambda: run.choose({launch: best})) or {launch: best}
    found: T = known[launch]
    return found


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


def choose_layout(config: Config, engine: Engine, game: Game) -> bool:
    """Return whether channels_last is as fast on this rank as channels that lie one after the other.

    The players are placed and not wrapped yet. Their weights lie as the last `lay_out` says; nothing else of it stays.
    """
    seconds = {}
    for dense in (True, False):
        lay_out(game, dense)
        seconds[dense], _ = _try(config.with_({"training.channels_last": dense}), engine, game, 1)
    return seconds[True] <= _GAIN * seconds[False]


def lay_out(game: Game, dense: bool) -> None:
    """Let the weights of placed players lie channels_last (`dense`), or contiguous. Their numbers stay."""
    layout = torch.channels_last if dense else torch.contiguous_format
    for player in game.players:
        player.network.to(memory_format=layout)
        if player.average is not None:
            player.average.network.to(memory_format=layout)


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
