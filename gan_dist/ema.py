"""Keep the moving average of a network, by a half-life in images."""

import copy
from collections.abc import Callable, Iterable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from gan_dist.config.section import Section
from gan_dist.schedules import ScheduledCount

RAMP = 0.05  # the half-life is at most this part of the images seen (Karras et al., StyleGAN2-ADA, 2020)


class AverageKeys(Section):
    """The moving average (EMA) of the generator's weights, which samples are drawn from."""

    half_life: ScheduledCount = 10_000
    """Half-life of the average in images."""
    ramp: Annotated[float, Field(ge=0)] = RAMP
    """The half-life is at most this part of the images seen, so that the average forgets the random start. 0: no limit."""


def decay(images: int, batch: int, half_life: float, ramp: float = RAMP) -> float:
    """Return the part of the average that stays when a batch has been seen, `images` of them before it."""
    effective = min(half_life, ramp * images) if ramp else half_life
    return 0.5 ** (batch / effective) if effective > 0 else 0.0


class Average:
    """A copy of `network` in evaluation mode that follows it. Statistics are averaged alike, integers and flags copied."""

    def __init__(self, network: nn.Module, half_life: float | Callable[[int], float], ramp: float = RAMP) -> None:
        """`half_life` is in images, or a function of the images seen; `ramp` as in AverageKeys."""
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.half_life, self.ramp = half_life, ramp
        self._leader = network
        self._pairs: list[tuple[Tensor, Tensor]] | None = None

    def follow(self, own: Iterable[Tensor], leaders: Iterable[Tensor]) -> None:
        """Let each tensor of `own` follow one of `leaders` from now on: a rank may keep parts of both."""
        self._pairs = list(zip(own, leaders, strict=True))

    @torch.no_grad()
    def update(self, images: int, batch: int) -> None:
        """Follow by one step of `batch` images, the first `images` of the run being seen before."""
        if self._pairs is None:
            self.follow(_tensors(self.network), _tensors(self._leader))
        pairs = self._pairs or []
        half_life = self.half_life(images) if callable(self.half_life) else self.half_life
        averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_(
            [own for own, _ in averaged],
            [leader for _, leader in averaged],
            1 - decay(images, batch, half_life, self.ramp),
        )
        for own, leader in pairs:
            if not own.is_floating_point():
                own.copy_(leader)


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]
