"""The moving average of a network, by a half-life in images."""

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from gan_dist.config.section import Section
from gan_dist.schedules import ScheduledCount

RAMP = 0.05  # the half-life is at most this part of the images seen (Karras et al., StyleGAN2-ADA, 2020)


class AverageKeys(Section):
    """The moving average (EMA) of the generator's weights, which samples are drawn from."""

    half_life: ScheduledCount = 10_000
    """Half-life of the average in images. While fewer than 20 times as many have been seen it is a twentieth of the images
    seen, so that the average forgets the random start."""


def decay(images: int, batch: int, half_life: float) -> float:
    """The part of the average that stays when a batch has been seen, `images` of them before it."""
    effective = min(half_life, RAMP * images)
    return 0.5 ** (batch / effective) if effective > 0 else 0.0


class Average:
    """A copy of `network` in evaluation mode that follows it. BatchNorm's statistics are averaged alike."""

    def __init__(self, network: nn.Module, half_life: int | Callable[[int], float]) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.half_life = half_life
        self._leader = network
        self._pairs: tuple[list[Tensor], list[Tensor]] | None = None

    def _half_life(self, images: int) -> float:
        return self.half_life(images) if callable(self.half_life) else self.half_life

    def follow(self, own: Iterable[Tensor], leaders: Iterable[Tensor]) -> None:
        """From now on each tensor of `own` follows one of `leaders`: where a process keeps parts of both."""
        self._pairs = list(own), list(leaders)

    @torch.no_grad()
    def update(self, images: int, batch: int) -> None:
        """Follow by one step of `batch` images, the first `images` of the run being seen before."""
        own, leaders = self._pairs or (_tensors(self.network), _tensors(self._leader))
        torch._foreach_lerp_(own, leaders, 1 - decay(images, batch, self._half_life(images)))


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]
