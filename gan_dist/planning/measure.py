"""Measure a process's part of a step on this device, as the doctor does: a few steps on random samples."""

import dataclasses
import os
import platform

import torch

from gan_dist import games
from gan_dist.config import Config
from gan_dist.doctor import autotune, play
from gan_dist.engine import Engine, memory
from gan_dist.planning.model import Point, Work, fit_with_host


@dataclasses.dataclass(frozen=True)
class Measured:
    """Steps of one process with few micro-batches."""

    work: Work
    points: list[Point]
    joined: int
    """Micro-batches in a pass."""
    device: str
    peak: int
    """Bytes of the step with the most micro-batches; on a CPU those of the whole process."""
    room: int
    cores: int
    """Processes that compute at once on this CPU; 0 on a GPU."""


def steps(config: Config, shares: list[int]) -> Measured:
    """Play steps with 1, 2 and 4 micro-batches, but not more than `shares`, those that processes are to have, ask for.

    Raises AgreedError where this machine cannot do what the config wants.
    """
    sizes = [size for size in (1, 2, 4) if size <= max(shares)]
    points, peak, joined = [], 0, 1
    for size in reversed(sizes):  # the most first: it decides how many go through the networks together
        one = _alone(config, size)
        engine = Engine(one, alone=True)
        game = games.build(one)
        engine.place(game)
        if config.training.micro_batches_per_pass == "auto" and one.training.strategy != "exact":
            joined = joined if size < sizes[-1] else autotune.choose(one, engine, game)
            engine.passes = min(size, joined)
        else:
            joined = max(joined, engine.passes)
        engine.wrap(game)
        played = play.play(one, engine, game)
        seconds = sum(time / phase.every for time, phase in zip(played.times, game.phases, strict=True))
        points.append(Point(size * config.training.micro_batch, seconds))
        peak = max(peak, *played.peaks.values())
        engine.release()
    device = engine.device
    name = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU of {platform.node() or 'this machine'}"
    )
    cores = 0 if device.type == "cuda" else max(1, len(os.sched_getaffinity(0)) // torch.get_num_threads())
    return Measured(fit_with_host(points), points[::-1], joined, name, peak, memory.room(device), cores)


def _alone(config: Config, size: int) -> Config:
    """Return the config of a process that has `size` micro-batches, and no others beside it."""
    training = config.training
    changes = {
        "training.batch": size * training.micro_batch,
        "training.graphs": "off" if training.strategy.startswith("zero") else training.graphs,
        "training.strategy": "exact" if training.strategy == "exact" else "ddp",
        "training.micro_batches_per_pass": training.micro_batches_per_pass
        if training.micro_batches_per_pass == "auto"
        else min(size, training.micro_batches_per_pass),
    }
    return config.with_(changes)
