"""Penalties on logits (N, ...): near those of before (LeCam), and alike for images, or latents, that are alike."""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import relu

from gan_dist import rng
from gan_dist.config.common import Config
from gan_dist.config.section import Fraction
from gan_dist.interfaces import Batch
from gan_dist.networks.statistics import RunningMean, Statistics
from gan_dist.penalties.base import Adversarial, Penalty


class LeCam(Penalty):
    """weight (E relu(s(x) - a_fake)^2 + E relu(a_real - s(G(z)))^2), where s are logits (Tseng et al., 2021).

    a_real and a_fake are running means of the mean logits of real and of generated images, over all ranks, as they were
    before this update.
    """

    decay: Fraction = 0.99
    """Of both running means, in each update that it is part of. They are corrected for having begun at zero."""
    begin: Annotated[int, Field(ge=0)] = 0
    """Position in images from which on it counts. The means follow from the start."""

    twice: ClassVar[bool] = False

    def value(self, game: Adversarial, batch: Batch, kept: Statistics | None) -> Tensor:
        assert isinstance(kept, RunningMean)
        real = game.logits_of(batch, "real")(game.real(batch))
        fake = game.logits_of(batch, "fake")(game.fakes(batch))
        of_image = real.reshape(len(real), -1).mean(1), fake.reshape(len(fake), -1).mean(1)
        kept.add(torch.stack([*of_image, torch.ones_like(of_image[0])], 1))
        # the third mean follows a constant one: what it lacks, the others lack too. Before the first update it is 0
        a_real, a_fake, known = kept.value / kept.value[2].clamp(min=torch.finfo(kept.value.dtype).tiny)
        value: Tensor = known * (relu(real - a_fake).square().mean() + relu(a_real - fake).square().mean())
        return value

    def factor(self, images: int) -> float:
        return super().factor(images) if images >= self.begin else 0.0

    def statistics(self) -> Statistics:
        return RunningMean((3,), 1 - self.decay, in_penalties=True)


class Consistency(Penalty):
    """weight E (s(x) - s(T(x)))^2 on real images, where s are logits: CR (Zhang et al., 2020). T mirrors and shifts."""

    flip: bool = True
    """Mirror half of the images left to right."""
    shift: Fraction = 0.125
    """Longest shift along either axis, as part of the image's size. What comes in at the border is its reflection."""

    twice: ClassVar[bool] = False

    def check(self, config: Config) -> None:
        super().check(config)
        name = config.key_of(self)
        if getattr(config.game, "samples", "images") != "images":
            raise ValueError(f"{name} mirrors and shifts images, and game.kind: {config.game.kind} has none; remove it")
        moved = self.shift * max(config.data.size) if hasattr(config.data, "size") else 1
        if not self.flip and moved < 1:
            raise ValueError(
                f"{name} has no effect with flip: false and shift: {self.shift:g}; raise one, or remove it"
            )

    def value(self, game: Adversarial, batch: Batch, kept: Statistics | None) -> Tensor:
        return self._of(game, batch, game.real(batch), "real")

    def _of(self, game: Adversarial, batch: Batch, images: Tensor, purpose: str) -> Tensor:
        logits_of = game.logits_of(batch, purpose)
        draws = batch.draws(rng.key(game.seed, f"consistency {purpose}"))
        return (logits_of(images) - logits_of(shifted(images, draws, self.shift, self.flip))).square().mean()


class BalancedConsistency(Consistency):
    """Consistency on real images and on generated ones, each by the weight: bCR (Zhao et al., 2021)."""

    def value(self, game: Adversarial, batch: Batch, kept: Statistics | None) -> Tensor:
        return super().value(game, batch, kept) + self._of(game, batch, game.fakes(batch), "fake")


class LatentConsistency(Penalty):
    """weight E (s(G(z)) - s(G(z + noise)))^2, where s are logits: the discriminator's part of zCR (Zhao et al., 2021)."""

    noise: Annotated[float, Field(gt=0)] = 0.05
    """Deviation of the normal noise on each number of a latent."""

    twice: ClassVar[bool] = False

    def value(self, game: Adversarial, batch: Batch, kept: Statistics | None) -> Tensor:
        with torch.no_grad():
            images, near = self._pair(game, batch)
        logits_of = game.logits_of(batch, "fake")
        return (logits_of(images) - logits_of(near)).square().mean()

    def _pair(self, game: Adversarial, batch: Batch) -> tuple[Tensor, Tensor]:
        return game.generate(batch, "latent of zcr"), game.generate(batch, "latent of zcr", noise=self.noise)


class LatentDiversity(LatentConsistency):
    """-weight E (G(z) - G(z + noise))^2, the mean over pixels: the generator's part of zCR (Zhao et al., 2021)."""

    player: ClassVar[Literal["generator", "discriminator"]] = "generator"

    def value(self, game: Adversarial, batch: Batch, kept: Statistics | None) -> Tensor:
        images, near = self._pair(game, batch)
        return -(images - near).square().mean()


def shifted(images: Tensor, draws: rng.Draws, most: float, flip: bool) -> Tensor:
    """Shift images by up to `most` of their size, whole pixels, reflected at the border, and mirror half of them if `flip`."""
    height, width = images.shape[2:]
    rows = _line(height, int(most * height), draws, "rows")
    columns = _line(width, int(most * width), draws, "columns")
    if flip:
        columns = torch.where(draws.integers("flip", 2, 1) == 1, columns.flip(1), columns)
    numbers = torch.arange(len(images), device=images.device)[:, None, None]
    return images[numbers, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _line(size: int, most: int, draws: rng.Draws, name: str) -> Tensor:
    """Return which row each row of an image is taken from: (N, size)."""
    moved = torch.arange(size, device=draws.positions.device) + draws.integers(name, 2 * most + 1, 1) - most
    return size - 1 - (size - 1 - moved.abs()).abs()
