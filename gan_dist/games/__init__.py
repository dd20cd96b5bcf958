"""Games: who plays, in which order they are updated, and by which losses."""

from gan_dist.config import Config
from gan_dist.games.base import Game
from gan_dist.games.generation import Generation

__all__ = ["KINDS", "Game", "build"]

KINDS = {"generation": Generation}


def build(config: Config) -> Game:
    return KINDS[config.game.kind](config)
