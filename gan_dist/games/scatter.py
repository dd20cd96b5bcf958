"""Draw points of the plane as an image: antialiased dots, layer over layer, on white."""

import dataclasses

import torch
from torch import Tensor

Colour = tuple[float, float, float]
"""Red, green and blue in [0, 1]."""


@dataclasses.dataclass(frozen=True)
class Dots:
    """Points (N, 2) that are drawn alike, as discs or as rings."""

    points: Tensor
    colour: Colour
    radius: float
    """In pixels."""
    opacity: float = 1.0
    """Of one dot; dots that lie over each other add up."""
    ring: float = 0.0
    """Width in pixels of the line of a ring; 0: discs."""


def scatter(layers: list[Dots], reach: float, size: int = 512) -> Tensor:
    """Draw the square [-reach, reach]^2, y upward: (3, size, size) in [-1, 1].

    Points outside lie on its edge, points that are not finite are left out. The order of the points does not count.
    """
    canvas = torch.ones(3, size * size, dtype=torch.float64)
    for dots in layers:
        covered = _cover(dots, reach, size)
        canvas = torch.lerp(canvas, torch.tensor(dots.colour, dtype=torch.float64)[:, None], covered)
    return (2 * canvas - 1).float().view(3, size, size)


def _cover(dots: Dots, reach: float, size: int) -> Tensor:
    """Return how much of each pixel the dots cover: (size * size,) in [0, 1]."""
    points = dots.points.detach().double().cpu()
    points = points[points.isfinite().all(1)].clamp(-reach, reach)
    # in pixels from the upper left; a pixel's middle is at a whole number
    places = (torch.stack([points[:, 0], -points[:, 1]], 1) / reach + 1) * size / 2 - 0.5
    around = int(dots.radius + dots.ring) + 2
    steps = torch.arange(-around, around + 1)
    pixels = places.round().long()[:, None, None] + torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1)
    distance = (pixels - places[:, None, None]).norm(dim=-1)
    if dots.ring:
        distance, radius = (distance - dots.radius).abs(), dots.ring / 2
    else:
        radius = dots.radius
    cover = dots.opacity * (radius + 0.5 - distance).clamp(0, 1)
    inside = ((pixels >= 0) & (pixels < size)).all(-1) & (cover > 0)
    column, row = pixels[inside].unbind(-1)
    # what two dots leave free is the product of what each leaves free
    free = torch.zeros(size * size, dtype=torch.float64)
    free.index_add_(0, row * size + column, torch.log1p(-cover[inside].clamp(max=1 - 1e-9)))
    return 1 - free.exp()
