"""Play with points of the plane, a mixture of Gaussians: the smallest place to see a generator lose modes, or keep them.

The ring of 8 Gaussians is that of Metz et al. (Unrolled GANs, 2017), the grid of 25 that of Srivastava et al. (VEEGAN, 2017) and
of Lin et al. (PacGAN, 2018). Real points are drawn by their positions in the run, so there is no data set, and no point
comes twice.
"""

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field as Bounds
from torch import Tensor, nn

from gan_dist import rng
from gan_dist.augment import Augmentation
from gan_dist.config.common import Config
from gan_dist.config.no_data import NoData
from gan_dist.config.section import Many, One, Section
from gan_dist.games.base import Game
from gan_dist.games.generation import Generation, GenerationGame
from gan_dist.games.scatter import Colour, Dots, scatter
from gan_dist.interfaces import Batch, Field
from gan_dist.networks import NETWORKS, Network, Shape

_GREY: Colour = (0.62, 0.62, 0.62)
_GOOD: Colour = (0.05, 0.35, 0.80)
_BAD: Colour = (0.90, 0.35, 0.05)
_CENTRE: Colour = (0.15, 0.15, 0.15)


class Plane(Generation):
    """Points of the plane from random latents; each step draws new real ones from a mixture of Gaussians."""

    shape: Literal["ring8", "grid25"] = "ring8"
    """Where the Gaussians are: 8 on a circle, or 25 in 5 rows of 5. All have the same weight."""
    scale: Annotated[float, Bounds(gt=0)] = 2.0
    """Radius of the ring, or distance between neighbours in the grid."""
    deviation: Annotated[float, Bounds(gt=0)] = 0.05
    """Standard deviation of each Gaussian, in x and in y."""

    samples: ClassVar[Literal["images", "points"]] = "points"
    parts: ClassVar[Mapping[str, One | Many | type[Section]]] = {
        **Generation.parts,
        "data": NoData,
        "networks.generator": One(Network, NETWORKS, "mlp"),
        "networks.discriminator": One(Network, NETWORKS, "mlp"),
        "augment": Many(Augmentation, {}, "Augmentations of the points that the discriminator sees, in this order."),
    }

    def build(self, config: Config) -> Game:
        return PlaneGame(config)

    def fields_of(self, config: Config) -> dict[str, Field]:
        return {}

    def shape_of(self, config: Config) -> Shape:
        return Shape((0, 0), 0, self.latent, points=2)


class PlaneGame(GenerationGame):
    """A generator that turns latents into points, against a discriminator that tells them from those of the mixture."""

    makes_points: ClassVar[bool] = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        keys: Plane = config.game
        self.mixture = Mixture(centres(keys.shape, keys.scale), keys.deviation)
        self.modules = (*self.modules, self.mixture)

    def real(self, batch: Batch) -> Tensor:
        if "real" not in batch.cache:
            batch.cache["real"] = self._real(batch.positions)
        return batch.cache["real"]

    def _real(self, positions: Tensor) -> Tensor:
        points: Tensor = self.mixture(rng.Draws(rng.key(self.seed, "real"), positions))
        return points

    @property
    def galleries(self) -> tuple[str, ...]:
        return ()  # the grid shows real points beside the generated ones

    def pictures(self, seed: int, count: int, shown: Batch) -> dict[str, Tensor]:
        return {"samples": self.chart(self.samples(seed, 0, count))[None]}

    def chart(self, samples: Tensor) -> Tensor:
        """Draw points in one picture: (N, 2) -> (3, 512, 512) in [-1, 1].

        Grey are as many real points, blue the samples within three deviations of a centre, orange the others; circles are the
        centres, at three deviations.
        """
        middles, deviation = self.mixture.centres.cpu().double(), self.mixture.deviation
        samples = samples.detach().cpu().double()
        good = torch.cdist(samples, middles).amin(1) <= 3 * deviation
        reach = 1.25 * float(middles.abs().max())
        circle = max(3.0, 3 * deviation * 512 / 2 / reach)
        return scatter(
            [
                Dots(self._real(torch.arange(len(samples), device=self.mixture.centres.device)), _GREY, 1.5, 0.5),
                Dots(samples[~good], _BAD, 1.5, 0.7),
                Dots(samples[good], _GOOD, 1.5, 0.7),
                Dots(middles, _CENTRE, circle, 0.8, ring=1.0),
            ],
            reach,
        )


class Mixture(nn.Module):
    """Gaussians of one weight and one deviation round their centres (modes, 2)."""

    centres: Tensor

    def __init__(self, centres: Tensor, deviation: float) -> None:
        super().__init__()
        self.deviation = deviation
        self.register_buffer("centres", centres, persistent=False)

    def forward(self, draws: rng.Draws) -> Tensor:
        """Return a point for each position: (N, 2)."""
        middles = self.centres[draws.integers("mode", len(self.centres))]
        return middles + self.deviation * draws.normal("place", 2).to(middles.dtype)


def centres(shape: str, scale: float) -> Tensor:
    """Return the centres of the Gaussians: (8 or 25, 2) float64."""
    if shape == "ring8":
        angles = torch.arange(8, dtype=torch.float64) * (2 * math.pi / 8)
        return scale * torch.stack([angles.cos(), angles.sin()], 1)
    places = scale * torch.arange(-2, 3, dtype=torch.float64)
    return torch.cartesian_prod(places, places)
