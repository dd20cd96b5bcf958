"""A panel of one's own: a walk between two latents, and how bright its images are."""

import torch

from gan_dist.games.base import Game
from gan_dist.tracking.media import Histogram, Image, Media
from gan_dist.tracking.panels import Panel


class Walk(Panel):
    """Eight images of the averaged generator between sample 0 and sample 1 of the run's seed."""

    def draw(self, game: Game, images: int) -> dict[str, Media]:
        first, last = game.samples(0, 0, 2)
        between = torch.stack([torch.lerp(first, last, part) for part in torch.linspace(0, 1, 8)])
        return {"images": Image(between, caption=f"{images:,} images"), "pixels": Histogram.of(between)}
