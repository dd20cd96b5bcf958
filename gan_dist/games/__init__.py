"""Define games: the players, the order of their updates, and their losses. Each game is one file, with its keys."""

from gan_dist.config.common import Config
from gan_dist.games import start
from gan_dist.games.autoencoder import Autoencoder, VaeGan
from gan_dist.games.base import Game, GameKeys
from gan_dist.games.contrastive import Contrastive
from gan_dist.games.generation import Generation
from gan_dist.games.paired import Paired
from gan_dist.games.plane import Plane
from gan_dist.games.restoration import Restoration
from gan_dist.games.unpaired import Unpaired

__all__ = ["GAMES", "Game", "GameKeys", "build"]

GAMES: dict[str, type[GameKeys]] = {
    "generation": Generation,
    "plane": Plane,
    "paired": Paired,
    "unpaired": Unpaired,
    "contrastive": Contrastive,
    "restoration": Restoration,
    "autoencoder": Autoencoder,
    "vae_gan": VaeGan,
}


def build(config: Config) -> Game:
    """Build the game that a config describes, with the initial weights of its seed."""
    keys: GameKeys = config.game
    game = keys.build(config)
    start.prepare(game, config)
    return game
