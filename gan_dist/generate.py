"""Images from a run's checkpoint: the averaged generator alone, without the training loop."""

from collections.abc import Iterator
from pathlib import Path

import torch

from gan_dist import config as config_module, games
from gan_dist.checkpoint import format, store
from gan_dist.config import Config
from gan_dist.errors import InputError
from gan_dist.games.base import Game

_AT_ONCE = 128
_TRIES = 10  # checkpoints that may go while they are read


def locate(run: Path, checkpoint: str = "") -> tuple[Path, str]:
    """The run directory and the checkpoint meant by RUN, a run directory or a checkpoint in it.

    The checkpoint is the one named, else the newest whole one. Raises InputError where there is none.
    """
    if (run / format.MANIFEST).exists():
        run, checkpoint = run.parent.parent, checkpoint or run.name
    if not (run / "config.yaml").exists():
        raise InputError(f"{run} is no run directory (no config.yaml in it); give a folder that training made")
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


def load(run: Path, checkpoint: str = "", device: torch.device | None = None) -> tuple[Game, Config, str]:
    """The game of a run with its averaged networks as a checkpoint has them, and that checkpoint's name.

    A training beside us deletes old checkpoints: where it does so under our hands, the newest is taken anew.
    """
    for _ in range(_TRIES):
        directory, name = locate(run, checkpoint)
        config, _ = config_module.read_run(directory)
        game = games.build(config)
        try:
            _fill(game, config, directory / "checkpoints" / name, device)
        except format.DamagedError as error:
            if (directory / "checkpoints" / name / format.MANIFEST).exists():
                raise InputError(f"the checkpoint is damaged: {error}; choose another one with --checkpoint") from None
        else:
            return game, config, name
    raise InputError(f"{run}: checkpoint {name} was deleted while it was read; choose one that is kept")


def _fill(game: Game, config: Config, checkpoint: Path, device: torch.device | None) -> None:
    manifest = format.read_manifest(checkpoint)
    dtype = torch.float64 if config.training.precision == "fp64" else torch.float32
    for player in game.players:
        player.place(device or torch.device("cuda" if torch.cuda.is_available() else "cpu"), dtype)
        if player.average is not None:
            prefix = f"{player.name}/average/"
            saved = format.read_tensors(checkpoint, manifest, prefix)
            player.average.network.load_state_dict({key.removeprefix(prefix): saved[key] for key in saved})


def generate(game: Game, seed: int, count: int, label: int | None = None) -> Iterator[torch.Tensor]:
    """Samples 0..count-1 of a seed, (C, H, W) in [-1, 1] on the CPU, drawn in portions."""
    for first in range(0, count, _AT_ONCE):
        yield from game.samples(seed, first, min(_AT_ONCE, count - first), label).cpu()
