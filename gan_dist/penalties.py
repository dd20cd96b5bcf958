"""Penalties on the discriminator's gradient with respect to its images, for logits (N, ...) and images (N, C, H, W).

They differentiate the logits and are differentiated again when the loss is descended; their networks must therefore not be
compiled, nor lose weights in between. All add nothing times the logits, so that every weight has a gradient: an output bias
has none by a penalty alone, and DDP would wait for it.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from gan_dist import rng, schedules
from gan_dist.config.common import Config
from gan_dist.config.section import Part, Positive
from gan_dist.interfaces import Batch
from gan_dist.networks.statistics import Statistics

Logits = Callable[[Tensor], Tensor]


class Adversarial(Protocol):
    """What a penalty sees of a game with a discriminator."""

    seed: int

    def logits_of(self, batch: Batch, purpose: str = "real") -> Logits:
        """Return the discriminator as a function of images, with the rest of what it sees (labels, an input) from the batch.

        `purpose` keys its augmentations: "real" or "fake".
        """

    def real(self, batch: Batch) -> Tensor:
        """Return the images that the discriminator is to believe."""

    def fakes(self, batch: Batch) -> Tensor:
        """Return the generator's images of this step for the batch, without gradients."""

    def generate(self, batch: Batch, purpose: str, **asked: Any) -> Any:
        """Return what the generator makes of latents of its own for each position of the batch; `purpose` keys them."""


class Penalty(Part):
    """A term of a player's loss, in each of its updates or in an update of its own every few steps."""

    weight: schedules.ScheduledNonnegative
    """How much it counts."""
    every: Positive = 1
    """Steps between two penalties, each then so many times as strong (Karras et al., 2020). 1: in every discriminator update;
    more: an update of its own, with the optimizer corrected for it."""
    full_precision: bool = True
    """Compute it in fp32 where training.precision is bf16 or fp16."""

    player: ClassVar[Literal["generator", "discriminator"]] = "discriminator"
    """Whose loss it belongs to."""
    twice: ClassVar[bool] = True
    """Whether it differentiates a gradient."""

    def value(self, game: Adversarial, batch: Batch, kept: Statistics | None) -> Tensor:
        """Return the penalty without its weight: a scalar, the mean over the batch. `kept` is what `statistics` made."""
        raise NotImplementedError

    def of_player(self) -> Literal["generator", "discriminator"]:
        """Return whose loss it belongs to."""
        return self.player

    def factor(self, images: int) -> float:
        """Return what the value is multiplied by when so many images have been seen."""
        return schedules.at(self.weight, images)

    def statistics(self) -> Statistics | None:
        """Return what the penalty keeps from step to step, if anything; the game attaches it to the player and saves it."""
        return None

    def check(self, config: Config) -> None:
        name = self.kind.rpartition(":")[2]
        if config.training.precision in ("fp32", "fp64") and not self.full_precision:
            raise ValueError(
                f"penalties.{name}.full_precision: false has no effect with training.precision: "
                f"{config.training.precision}; remove it, or set training.precision: bf16"
            )
        if config.training.compile and self.twice:
            raise ValueError(
                f"training.compile cannot differentiate twice, as penalties.{name} needs; set training.compile: false"
            )


class R1(Penalty):
    """weight/2 E ||grad D(x)||^2 on real images (Mescheder et al., 2018, eq. 9)."""

    def value(self, game: Adversarial, batch: Batch, kept: Statistics | None) -> Tensor:
        return squared_gradient(game.logits_of(batch), game.real(batch))

    def of_player(self) -> Literal["generator", "discriminator"]:
        """Return whose loss it belongs to."""
        return self.player

    def factor(self, images: int) -> float:
        return schedules.at(self.weight, images) / 2


class R2(R1):
    """weight/2 E ||grad D(x)||^2 on generated images (Mescheder et al., 2018)."""

    def value(self, game: Adversarial, batch: Batch, kept: Statistics | None) -> Tensor:
        return squared_gradient(game.logits_of(batch, "fake"), game.fakes(batch))


class WganGp(Penalty):
    """weight E (||grad D(x)|| - 1)^2 between real and generated images (Gulrajani et al., 2017, eq. 3)."""

    def value(self, game: Adversarial, batch: Batch, kept: Statistics | None) -> Tensor:
        between = rng.uniform(rng.key(game.seed, "between"), batch.positions, 1)[:, 0]
        return gradient_length(game.logits_of(batch), game.real(batch), game.fakes(batch), between)


PENALTIES: dict[str, type[Penalty]] = {"r1": R1, "r2": R2, "wgan_gp": WganGp}


def in_order(named: dict[str, Penalty]) -> list[tuple[str, Penalty]]:
    """Return the penalties in the order in which they are added up: built-in ones as listed above, then users' by name."""
    known = list(PENALTIES)
    return sorted(named.items(), key=lambda item: (known.index(item[0]) if item[0] in known else len(known), item[0]))


def squared_gradient(logits_of: Logits, images: Tensor) -> Tensor:
    """E ||grad D(x)||^2."""
    gradient, logits = _gradient(logits_of, images)
    return _of_sample(gradient.square()).mean() + 0 * logits.sum()


def gradient_length(logits_of: Logits, real: Tensor, fake: Tensor, between: Tensor) -> Tensor:
    """E (||grad D(x)|| - 1)^2 at x = real + between * (fake - real), `between` (N,) in [0, 1]."""
    images = torch.lerp(real, fake, between.view(-1, *[1] * (real.ndim - 1)).to(real.dtype))
    gradient, logits = _gradient(logits_of, images)
    # the root's slope at 0 is infinite: a gradient of exactly 0 would make the penalty's NaN
    length = (_of_sample(gradient.square()) + 1e-12).sqrt()
    return (length - 1).square().mean() + 0 * logits.sum()


def _of_sample(values: Tensor) -> Tensor:
    """Return the sum over each sample, (N, C, H, W) or (N, D) -> (N,)."""
    return values.sum(tuple(range(1, values.ndim)))


def _gradient(logits_of: Logits, images: Tensor) -> tuple[Tensor, Tensor]:
    images = images.detach().requires_grad_()
    logits = logits_of(images)
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient, logits
