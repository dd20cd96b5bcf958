"""How many micro-batches go through the networks in one pass: what fits and is fastest here, found by trying.

Kernels of a small micro-batch leave a GPU idle, and those of a large one may not fit. The results differ by rounding
alone, so the choice is kept in the run directory: the same launch of a run goes on to the same bits.
"""

import time
from collections.abc import Iterator

import torch

from gan_dist import rng
from gan_dist.config import Config
from gan_dist.data import loader
from gan_dist.data.loader import MicroBatch
from gan_dist.engine import Engine
from gan_dist.games.base import Game
from gan_dist.networks.normalisation import batch_norms

_GAIN = 1.05  # a larger pass must be so much faster
_ROUNDS = 3
_ROOM = 0.8  # of a GPU's memory: DDP, moments and averages come on top


def candidates(parts: int) -> Iterator[int]:
    """1, 2, 4, ... up to all micro-batches of a process, which comes last."""
    size = 1
    while size < parts:
        yield size
        size *= 2
    yield parts


def choose(config: Config, engine: Engine, game: Game) -> int:
    """The best size on this process, for players that are settled and not wrapped yet. Leaves no trace in them."""
    parts = len(engine.slots) // config.training.micro_batch
    best, fastest = 1, float("inf")
    for size in candidates(parts):
        seconds = _seconds(config, engine, game, size)
        if seconds * _GAIN < fastest or size == 1:
            best, fastest = size, seconds
        elif seconds > fastest:
            break
    return best


def _seconds(config: Config, engine: Engine, game: Game, size: int) -> float:
    """Seconds a micro-batch for all phases of a step; infinite where it does not fit."""
    times = []
    on_gpu = engine.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    try:
        for _ in range(1 + _ROUNDS):  # the first finds algorithms and memory
            (micro,) = loader.join([_random(config, engine, number) for number in range(size)], size)
            began = time.perf_counter()
            _play(game, micro)
            if on_gpu:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return float("inf")
    finally:
        for player in game.players:
            player.network.requires_grad_(True).zero_grad(set_to_none=True)
            for norm in batch_norms(player.network):
                norm.parts = 1
        engine.figures.clear()
    if on_gpu and torch.cuda.max_memory_allocated() > _ROOM * torch.cuda.mem_get_info()[1]:
        return float("inf")
    return min(times[1:]) / size


def _play(game: Game, micro: MicroBatch) -> None:
    for player in game.players:
        for norm in batch_norms(player.network):
            norm.parts, norm.tracking = micro.parts, False
    for phase in game.phases:
        for player in game.players:
            player.network.requires_grad_(player is phase.player)
        for loss in (phase.loss, phase.penalty):
            if loss is not None:
                loss(micro).backward()  # type: ignore[no-untyped-call]


def _random(config: Config, engine: Engine, number: int) -> MicroBatch:
    data, size = config.data, config.training.micro_batch
    positions = torch.arange(number * size, (number + 1) * size, device=engine.device)
    pixels = 2 * rng.uniform(rng.key(0, "passes"), positions, data.channels * data.resolution**2) - 1
    dtype = torch.float64 if config.training.precision == "fp64" else torch.float32
    images = pixels.to(dtype).view(-1, data.channels, data.resolution, data.resolution)
    labels = rng.integers(rng.key(0, "labels"), positions, data.classes) if data.classes else None
    return MicroBatch(images.contiguous(memory_format=torch.channels_last), labels, positions)
