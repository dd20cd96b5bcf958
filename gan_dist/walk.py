"""Walk between latents: the frames of a closed loop through samples of a run."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from gan_dist import rng
from gan_dist.games.base import GROUP, in_groups
from gan_dist.interfaces import LatentSpace
from gan_dist.tracking import grid


@dataclasses.dataclass(frozen=True)
class Route:
    """What a walk passes, one after the other, and again from the first."""

    latents: Tensor
    """(K, latent)."""
    labels: Tensor | None = None
    """(K,) int64; None: there are no classes."""

    def __len__(self) -> int:
        return len(self.latents)


def of_samples(space: LatentSpace, samples: Sequence[tuple[int, int]], labels: Sequence[int] = ()) -> Route:
    """Return the route through samples, each a seed and a number, as `gan-dist generate` draws them.

    `labels` are their classes; by default those that `generate` gives them. Of samples and labels the fewer are repeated.
    """
    count = max(len(samples), len(labels))
    chosen = [samples[place % len(samples)] for place in range(count)]
    device = next(space.network.parameters()).device
    latents = [space.draw(rng.key(seed, "sample"), torch.tensor([number], device=device)) for seed, number in chosen]
    if not space.classes:
        return Route(torch.cat(latents))
    classes = [labels[place % len(labels)] if labels else chosen[place][1] % space.classes for place in range(count)]
    return Route(torch.cat(latents), torch.tensor(classes, device=device))


@torch.no_grad()
def of_images(space: LatentSpace, images: Sequence[Tensor]) -> Route:
    """Return the route through the latents of images (C, H, W) in [-1, 1]: the means that an encoder gives them."""
    assert space.encoder is not None
    weight = next(space.encoder.parameters())
    return Route(torch.cat([space.encoder(image[None].to(weight.device, weight.dtype))[0] for image in images]))


def frames(
    space: LatentSpace, routes: Sequence[Route], count: int, columns: int = 0, truncation: float | None = None
) -> Iterator[np.ndarray]:
    """Yield `count` frames (H, W, C) uint8 of a closed loop: one walk, or several side by side in so many columns.

    `truncation` brings latents nearer to their mean: the styles w of a network that has them, as StyleGAN does, otherwise
    the latents, which it is a factor of. A walk is the same whatever is drawn beside it, and on whatever device up to its
    rounding.
    """
    walks = [_pictures(space, route, count, truncation) for route in routes]
    for pictures in zip(*walks, strict=True):
        yield pictures[0] if len(pictures) == 1 else grid.sheet(pictures, columns)


def _pictures(space: LatentSpace, route: Route, count: int, truncation: float | None) -> Iterator[np.ndarray]:
    """Yield the frames of one walk. Frames are drawn in fixed groups, as samples are."""
    show = _of_styles(space, route, truncation) if hasattr(space.network, "from_styles") else None
    show = show or _of_latents(space, route, 1.0 if truncation is None else truncation)

    @torch.no_grad()
    def draw(numbers: Tensor) -> Tensor:
        passed = numbers % count * len(route)  # integers: frame 0 is the first sample to the bit
        before = passed // count
        return show(before, (before + 1) % len(route), passed % count / count)

    for first in range(0, count, GROUP):
        for image in in_groups(draw, first, min(GROUP, count - first), route.latents.device):
            yield grid.to_uint8(image)


Show = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Numbers (N,) of two neighbours on a route, and (N,) parts of the way between them -> images (N, C, H, W)."""


def _of_latents(space: LatentSpace, route: Route, truncation: float) -> Show:
    """Return what goes along great circles between latents, and straight between the embeddings of classes."""
    network, dtype = space.network, next(space.network.parameters()).dtype
    latents = _to_normal(route.latents.double()) if space.uniform else route.latents.double()
    embeddings = [module for module in network.modules() if isinstance(module, nn.Embedding)]

    def show(before: Tensor, after: Tensor, part: Tensor) -> Tensor:
        passed = slerp(latents[before], latents[after], part.double())
        if space.uniform:
            passed = _to_uniform(passed)
        passed = (truncation * passed).to(dtype)
        images: Tensor
        if route.labels is None:
            images = network(passed, None)
            return images
        old, new = route.labels[before], route.labels[after]
        if not embeddings:  # nothing to walk between
            images = network(passed, torch.where(part < 0.5, old, new))
            return images
        with _blended(embeddings, old, new, part.to(dtype)):
            images = network(passed, old)
        return images

    return show


def _of_styles(space: LatentSpace, route: Route, truncation: float | None) -> Show:
    """Return what goes straight between styles: the space in which StyleGAN's images change evenly."""
    network: Any = space.network
    latents = route.latents.to(next(network.parameters()).dtype)
    usual = network.truncation
    try:
        network.truncation = usual if truncation is None else truncation
        with torch.no_grad():
            each = [
                network.styles(latents[place : place + 1], None if route.labels is None else route.labels[place, None])
                for place in range(len(route))
            ]
    finally:
        network.truncation = usual
    styles = torch.cat(each)

    def show(before: Tensor, after: Tensor, part: Tensor) -> Tensor:
        images: Tensor = network.from_styles(
            torch.lerp(styles[before], styles[after], part.to(styles.dtype)[:, None, None])
        )
        return images

    return show


def slerp(start: Tensor, end: Tensor, part: Tensor) -> Tensor:
    """Return latents (N, D) at (N,) parts of the way from `start` to `end`, along a great circle (Shoemake, 1985).

    Straight ones would pass near the mean, where no samples are: normal latents of D numbers have lengths near sqrt(D).
    """
    part = part[:, None]
    cosine = functional.cosine_similarity(start, end, dim=1)[:, None].clamp(-1, 1)
    angle = cosine.acos()
    sine = angle.sin()
    flat = sine < 1e-6  # the same direction, or opposite ones: any circle would do
    safe = torch.where(flat, torch.ones_like(sine), sine)
    first = torch.where(flat, 1 - part, ((1 - part) * angle).sin() / safe)
    second = torch.where(flat, part, (part * angle).sin() / safe)
    return first * start + second * end


def _to_normal(uniform: Tensor) -> Tensor:
    """Return standard normal numbers for uniform ones in [-1, 1], by their quantiles."""
    normal: Tensor = torch.special.ndtri(((uniform + 1) / 2).clamp(1e-12, 1 - 1e-12))
    return normal


def _to_uniform(normal: Tensor) -> Tensor:
    uniform: Tensor = 2 * torch.special.ndtr(normal) - 1
    return uniform


@contextlib.contextmanager
def _blended(embeddings: Sequence[nn.Embedding], old: Tensor, new: Tensor, part: Tensor) -> Iterator[None]:
    """While it lasts, the embedding of the classes `old` is that at so many parts of the way to the classes `new`."""

    def blend(module: nn.Module, given: tuple[Any, ...], made: Tensor) -> Tensor | None:
        if given[0].shape != old.shape or not torch.equal(given[0], old):  # of something else
            return None
        weight: Any = module.weight
        return torch.lerp(made, functional.embedding(new, weight), part[:, None])

    hooks = [embedding.register_forward_hook(blend) for embedding in embeddings]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
