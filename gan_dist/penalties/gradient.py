"""Penalties on a network's gradient: of logits (N, ...) by images (N, C, H, W), or of images by styles.

They differentiate an output and are differentiated again when the loss is descended; their networks must therefore not lose
weights in between, nor be compiled by themselves (engine/traced.py compiles both derivatives together). All add nothing
times the output, so that every weight has a gradient: an output bias has none by a penalty alone, and DDP would wait for it.
"""

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from gan_dist import rng, schedules
from gan_dist.config.common import Config
from gan_dist.config.section import Positive
from gan_dist.interfaces import Batch
from gan_dist.networks.statistics import RunningMean, Statistics
from gan_dist.penalties.base import Adversarial, Logits, Penalty


class R1(Penalty):
    """weight/2 E ||grad D(x)||^2 on real images (Mescheder et al., 2018, eq. 9)."""

    shares: ClassVar[Literal["", "real", "fake"]] = "real"

    def value(self, game: Adversarial, batch: Batch, kept: Statistics | None) -> Tensor:
        return squared(*game.images_and_logits(batch, self.shares))

    def factor(self, images: int) -> float:
        return schedules.at(self.weight, images) / 2


class R2(R1):
    """weight/2 E ||grad D(x)||^2 on generated images (Mescheder et al., 2018)."""

    shares: ClassVar[Literal["", "real", "fake"]] = "fake"


class WganGp(Penalty):
    """weight E (||grad D(x)|| - 1)^2 between real and generated images (Gulrajani et al., 2017, eq. 3).

    The paper's critic has no batch normalisation: the gradient is then of each image by itself.
    """

    of_each: ClassVar[bool] = True

    def value(self, game: Adversarial, batch: Batch, kept: Statistics | None) -> Tensor:
        return gradient_length(game.logits_of(batch), game.real(batch), game.fakes(batch), _shares(game, batch))


class ZeroGp(Penalty):
    """weight E ||grad D(x)||^2 between real and generated images: zero-centred (Thanh-Tung et al., 2019)."""

    of_each: ClassVar[bool] = True

    def value(self, game: Adversarial, batch: Batch, kept: Statistics | None) -> Tensor:
        images = between(game.real(batch), game.fakes(batch), _shares(game, batch))
        return squared_gradient(game.logits_of(batch), images)


class PathLength(Penalty):
    """weight E (||J^T y|| - a)^2 of StyleGAN2's generator, J its images by its styles (Karras et al., 2020, eq. 4).

    y is normal noise over the root of its pixels, and a the mean length over the updates before, which moves by a hundredth.
    """

    player: ClassVar[Literal["generator", "discriminator"]] = "generator"

    weight: schedules.ScheduledNonnegative = 2.0
    """How much it counts."""
    every: Positive = 4
    """Steps between two penalties, each then so many times as strong. 1: in every generator update; more: an update of its own,
    with the optimizer corrected for it."""
    shrink: Positive = 2
    """Compute it on one of so many samples of each micro-batch: it takes much memory."""

    def value(self, game: Adversarial, batch: Batch, kept: Statistics | None) -> Tensor:
        assert isinstance(kept, RunningMean)
        batch = first_samples(batch, len(batch) // batch.parts // self.shrink)
        images, styles = game.generate(batch, "path length", styles=True)
        draws = batch.draws(rng.key(game.seed, "path length"))
        lengths = path_lengths(images, styles, draws.normal("pixels", *images.shape[1:]))
        kept.add(lengths)
        penalty: Tensor = (lengths - kept.value).square().mean() + 0 * images.sum()
        return penalty

    def statistics(self) -> Statistics:
        return RunningMean((), 0.01, in_penalties=True)

    def check(self, config: Config) -> None:
        super().check(config)
        name, micro = config.key_of(self), config.training.micro_batch
        if not getattr(getattr(getattr(config, "networks", None), "generator", None), "gives_styles", False):
            raise ValueError(
                f"{name} needs a generator with styles; set networks.generator.kind: stylegan2, or remove it"
            )
        if micro % self.shrink:
            raise ValueError(
                f"{name}.shrink = {self.shrink} does not divide training.micro_batch = {micro}; for example "
                f"{math.gcd(self.shrink, micro)} does"
            )


def squared_gradient(logits_of: Logits, images: Tensor) -> Tensor:
    """E ||grad D(x)||^2; of a discriminator that judges packs of images, an x is a pack."""
    images = images.detach().requires_grad_()
    return squared(images, logits_of(images))


def squared(images: Tensor, logits: Tensor) -> Tensor:
    """E ||grad D(x)||^2 of logits that are computed already, by images that take gradients."""
    return _squares(images, logits).mean() + 0 * logits.sum()


def gradient_length(logits_of: Logits, real: Tensor, fake: Tensor, shares: Tensor) -> Tensor:
    """E (||grad D(x)|| - 1)^2 between real and fake; of a discriminator that judges packs of images, an x is a pack."""
    images = between(real, fake, shares).detach().requires_grad_()
    logits = logits_of(images)
    squares = _squares(images, logits)
    # the root's slope at 0 is infinite: a gradient of exactly 0 would make the penalty's NaN
    length = (squares + 1e-12).sqrt()
    return (length - 1).square().mean() + 0 * logits.sum()


def between(real: Tensor, fake: Tensor, shares: Tensor) -> Tensor:
    """real + share * (fake - real), `shares` (N,) in [0, 1]."""
    return torch.lerp(real, fake, shares.view(-1, *[1] * (real.ndim - 1)).to(real.dtype))


def _shares(game: Adversarial, batch: Batch) -> Tensor:
    """Return a uniform number in (0, 1) for each image: (N,). The images of a pack are one point, and have the same."""
    shares = batch.draw(rng.uniform, rng.key(game.seed, "between"), 1)[:, 0]
    return shares[:: game.pack].repeat_interleave(game.pack) if game.pack > 1 else shares


def _squares(images: Tensor, logits: Tensor) -> Tensor:
    """Return the squared length of the gradient by each image, or each pack of images: (N,)."""
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    squares = gradient.square().sum(tuple(range(1, gradient.ndim)))
    return squares.view(len(logits), -1).sum(1)


def first_samples(batch: Batch, count: int) -> Batch:
    """Return the first `count` samples of each micro-batch."""
    chosen = torch.arange(len(batch), device=batch.positions.device).view(batch.parts, -1)[:, :count].flatten()
    fields = {name: tensor[chosen] for name, tensor in batch.fields.items()}
    return Batch(fields, batch.positions[chosen], batch.parts)


def path_lengths(images: Tensor, styles: Tensor, noise: Tensor) -> Tensor:
    """Return ||J^T y|| of each sample (N,): y is `noise`, as large as the images, over the root of the number of pixels.

    The square is the mean over the layers, and the sum over the numbers of a style.
    """
    height, width = images.shape[2:]
    product = (images * noise.to(images.dtype)).sum() / math.sqrt(height * width)
    (gradient,) = torch.autograd.grad(product, styles, create_graph=True)
    return (gradient.square().sum(2).mean(1) + 1e-12).sqrt()
