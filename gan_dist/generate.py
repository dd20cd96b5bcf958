"""Draw images from a run's checkpoint by the averaged generator, without the training loop."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch

from gan_dist import config as config_module, games, run_directory
from gan_dist.checkpoint import format, store
from gan_dist.config import Config
from gan_dist.errors import InputError
from gan_dist.games.base import Game
from gan_dist.games.check import naming

_AT_ONCE = 128
_TRIES = 10  # checkpoints that training may delete while they are read


def locate(run: Path, checkpoint: str = "") -> tuple[Path, str]:
    """Return the run directory and the checkpoint that RUN, a run directory or a checkpoint in it, means.

    The checkpoint is the named one, otherwise the newest whole one. Raises InputError where there is none.
    """
    if (run / format.MANIFEST).exists():
        checkpoint = checkpoint or Path(os.path.abspath(run)).name
    run = run_directory.locate(run)
    directory = run / "checkpoints"
    names = store.names(directory)
    if checkpoint and checkpoint not in names:
        raise InputError(f"{run} has no checkpoint {checkpoint}; it has {', '.join(names) or 'none'}")
    if checkpoint:
        try:
            format.verify(directory / checkpoint, format.read_manifest(directory / checkpoint))
        except format.DamagedError as error:
            raise InputError(f"the checkpoint is damaged: {error}; choose another one with --checkpoint") from None
        return run, checkpoint
    newest, _, problems = store.Store(directory, keep=2).newest()
    if not newest:
        raise InputError(f"{run} has no whole checkpoint yet" + (f": {problems[0]}" if problems else ""))
    return run, newest


def load(
    run: Path, checkpoint: str = "", device: torch.device | None = None, live: bool = False
) -> tuple[Game, Config, str]:
    """Return the game of a run with the averaged networks of a checkpoint, its config, and the checkpoint's name.

    `live`: where averaged weights belong are those that were trained.

    A training that runs meanwhile deletes old checkpoints: where it deletes the one being read, the newest is read instead.
    """
    for _ in range(_TRIES):
        directory, name = locate(run, checkpoint)
        config, _ = config_module.read_run(directory)
        with naming(config):
            game = games.build(config)
        try:
            _fill(game, config, directory / "checkpoints" / name, device, "weights" if live else "average")
        except format.DamagedError as error:
            if (directory / "checkpoints" / name / format.MANIFEST).exists():
                raise InputError(f"the checkpoint is damaged: {error}; choose another one with --checkpoint") from None
        else:
            return game, config, name
    raise InputError(f"{run}: checkpoint {name} was deleted while it was read; choose one that is kept")


def _fill(game: Game, config: Config, checkpoint: Path, device: torch.device | None, kind: str) -> None:
    manifest = format.read_manifest(checkpoint)
    dtype = torch.float64 if config.training.precision == "fp64" else torch.float32
    for player in game.players:
        player.place(device or torch.device("cuda" if torch.cuda.is_available() else "cpu"), dtype)
        if player.average is not None:
            prefix = f"{player.name}/{kind}/"
            saved = format.read_tensors(checkpoint, manifest, prefix)
            player.average.network.load_state_dict({key.removeprefix(prefix): saved[key] for key in saved})


def generate(game: Game, seed: int, count: int, label: int | None = None) -> Iterator[torch.Tensor]:
    """Yield samples 0..count-1 of a seed, (C, H, W) in [-1, 1] on the CPU; they are drawn in portions."""
    for first in range(0, count, _AT_ONCE):
        yield from game.samples(seed, first, min(_AT_ONCE, count - first), label).cpu()
