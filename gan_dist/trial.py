"""Build a game and try it on random samples, which need no data, before anything is trained with it."""

import sys
from collections.abc import Mapping, Sequence

import torch

from gan_dist import games
from gan_dist.config import Config
from gan_dist.data import checks
from gan_dist.engine import Engine
from gan_dist.games.base import Game
from gan_dist.games.check import naming, refuse_alike, what_is_wrong
from gan_dist.interfaces import Batch, Field, random_batch

_LARGE = 10_000_000


def build(config: Config, engine: Engine) -> Game:
    """Return the config's game on the engine's device, tried on one micro-batch. All ranks call it.

    Raises AgreedError, on all ranks, for a part of it that cannot train.
    """
    with naming(config):
        game = games.build(config)
        _announce(game, engine)
        engine.on_main(lambda: checks.check_fields(config, game.fields))
        engine.on_main(lambda: _check_scores(config, game))
        engine.place(game)
    batch = samples(config, engine, game, range(config.training.micro_batch))
    refuse_alike(engine.gather(what_is_wrong(game, config, batch)))
    return game


def _check_scores(config: Config, game: Game) -> None:
    """Raise InputError for a score that this game has nothing for: later, the run would be there already."""
    for _, metric in config.evaluate.scores:
        metric.for_game(game)


def _announce(game: Game, engine: Engine) -> None:
    """Say on a CPU that the first step of large networks takes long: until it is done there is nothing else to see."""
    weights = {player.name: sum(weight.numel() for weight in player.weights) for player in game.players}
    if engine.is_main and engine.device.type == "cpu" and sum(weights.values()) > _LARGE:
        sizes = ", ".join(f"{name} has {count:,} weights" for name, count in weights.items())
        print(
            f"trying a step: {sizes}, which takes minutes on a CPU; fewer channels are keys of networks.* (--help)",
            file=sys.stderr,
            flush=True,
        )


def random_batches(config: Config, fields: Mapping[str, Field], step: int, slots: range) -> list[Batch]:
    """Return random micro-batches for some slots of a step's global batch, in float64 on the CPU."""
    training = config.training
    batches = []
    for slot in slots[:: training.micro_batch]:
        first = step * training.batch + slot
        positions = torch.arange(first, first + training.micro_batch)
        batches.append(random_batch(fields, config.run.seed, positions))
    return batches


def on_device(config: Config, engine: Engine, batches: Sequence[Batch]) -> list[Batch]:
    """Return the batches as the loader would give them."""
    dtype = torch.float64 if config.training.precision == "fp64" else torch.float32
    layout = torch.channels_last if config.training.channels_last else torch.contiguous_format
    return [batch.to(engine.device, dtype, layout) for batch in batches]


def samples(config: Config, engine: Engine, game: Game, positions: range) -> Batch:
    """Return random samples for some positions as one micro-batch, as the loader would give it."""
    batch = random_batch(game.fields, config.run.seed, torch.arange(positions.start, positions.stop))
    return on_device(config, engine, [batch])[0]
