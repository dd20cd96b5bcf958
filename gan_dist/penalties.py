"""Penalties: terms of a player's loss beside the adversarial one, for logits (N, ...) and images (N, C, H, W).

Some bound the discriminator's gradient with respect to its images. These differentiate the logits and are differentiated
again when the loss is descended; their networks must therefore not be compiled, nor lose weights in between. Others ask for
the same logits of an image and of one like it, for logits near those of before, or for weights at right angles.

Every weight must have a gradient, as DDP would wait for it: an output bias has none by a gradient penalty alone. So these
add nothing times the logits.
"""

from collections.abc import Callable, Iterator
from typing import Annotated, Any, ClassVar, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import relu

from gan_dist import rng, schedules
from gan_dist.config.common import Config
from gan_dist.config.section import Fraction, Part, Positive
from gan_dist.errors import InputError
from gan_dist.interfaces import Batch
from gan_dist.networks.statistics import RunningMean, Statistics
from gan_dist.player import Player

Logits = Callable[[Tensor], Tensor]


class Adversarial(Protocol):
    """What a penalty sees of a game with a discriminator."""

    seed: int
    generator: Player
    discriminator: Player
    pack: int
    """Images that the discriminator judges together, side by side in a batch; a gradient penalty is of all of them."""

    def logits_of(self, batch: Batch, purpose: str = "real") -> Logits:
        """Return the discriminator as a function of images, with the rest of what it sees (labels, an input) from the batch.

        `purpose` keys its augmentations: "real" or "fake".
        """

    def real(self, batch: Batch) -> Tensor:
        """Return the images that the discriminator is to believe."""

    def fakes(self, batch: Batch) -> Tensor:
        """Return the generator's images of this step for the batch, without gradients."""

    def generate(self, batch: Batch, purpose: str, noise: float = 0.0, **asked: Any) -> Any:
        """Return what the generator makes of latents of its own for each position of the batch; `purpose` keys them.

        `noise` is the deviation of what is added to the latents: images beside those without.
        """


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
    reads_weights: ClassVar[bool] = False
    """Whether it reads the weights of its player, which must then be whole on every rank, and not only calls it."""

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

    def factor(self, images: int) -> float:
        return schedules.at(self.weight, images) / 2


class R2(R1):
    """weight/2 E ||grad D(x)||^2 on generated images (Mescheder et al., 2018)."""

    def value(self, game: Adversarial, batch: Batch, kept: Statistics | None) -> Tensor:
        return squared_gradient(game.logits_of(batch, "fake"), game.fakes(batch))


class WganGp(Penalty):
    """weight E (||grad D(x)|| - 1)^2 between real and generated images (Gulrajani et al., 2017, eq. 3).

    The paper's critic has no batch normalisation: the gradient is then of each image by itself.
    """

    def value(self, game: Adversarial, batch: Batch, kept: Statistics | None) -> Tensor:
        return gradient_length(game.logits_of(batch), game.real(batch), game.fakes(batch), _shares(game, batch))


class ZeroGp(Penalty):
    """weight E ||grad D(x)||^2 between real and generated images: zero-centred (Thanh-Tung et al., 2019)."""

    def value(self, game: Adversarial, batch: Batch, kept: Statistics | None) -> Tensor:
        images = between(game.real(batch), game.fakes(batch), _shares(game, batch))
        return squared_gradient(game.logits_of(batch), images)


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

    def value(self, game: Adversarial, batch: Batch, kept: Statistics | None) -> Tensor:
        return self._of(game, batch, game.real(batch), "real")

    def _of(self, game: Adversarial, batch: Batch, images: Tensor, purpose: str) -> Tensor:
        logits_of = game.logits_of(batch, purpose)
        draws = rng.Draws(rng.key(game.seed, f"consistency {purpose}"), batch.positions)
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


class Orthogonal(Penalty):
    """weight sum ||W W^T * (1 - I)||_F^2 over a player's weights of two or more axes (Brock et al., 2019, section 3.1).

    A row of W is all that leads to one output. The gradient is that of the formula, 4 weight (W W^T * (1 - I)) W; code that
    adds a gradient of its own may have another factor in it.
    """

    of: Literal["generator", "discriminator"] = "discriminator"
    """Whose weights."""
    without: list[str] = Field([])
    """Beginnings of the names of weights to leave out, such as an embedding of the classes that layers share."""

    twice: ClassVar[bool] = False
    reads_weights: ClassVar[bool] = True

    def value(self, game: Adversarial, batch: Batch, kept: Statistics | None) -> Tensor:
        if self.of == "generator":
            player, called = game.generator, game.generate(batch, "latent")
        else:
            player, called = game.discriminator, game.logits_of(batch)(game.real(batch))
        total: Tensor = 0 * called.sum()  # DDP shares gradients of what it was called for only
        for matrix in self._matrices(player):
            products = matrix @ matrix.t()
            total = total + (products - products.diagonal().diag()).square().sum()
        return total

    def _matrices(self, player: Player) -> Iterator[Tensor]:
        weights = player.whole_weights()
        for beginning in self.without:
            if not any(name.startswith(beginning) for name in weights):
                raise InputError(
                    f"penalties.orthogonal.without: no weight of the {self.of} has a name that begins with {beginning}; "
                    f"there are {', '.join(weights)}"
                )
        outputs = {
            f"{path}.weight".lstrip("."): 1
            for path, module in player.network.named_modules()
            if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
        }
        for name, weight in weights.items():
            if weight.ndim > 1 and not name.startswith(tuple(self.without)):
                yield weight.transpose(0, outputs.get(name, 0)).flatten(1)

    def of_player(self) -> Literal["generator", "discriminator"]:
        return self.of


PENALTIES: dict[str, type[Penalty]] = {
    "r1": R1,
    "r2": R2,
    "wgan_gp": WganGp,
    "zero_gp": ZeroGp,
    "lecam": LeCam,
    "cr": Consistency,
    "bcr": BalancedConsistency,
    "zcr": LatentConsistency,
    "zcr_generator": LatentDiversity,
    "orthogonal": Orthogonal,
}


def in_order(named: dict[str, Penalty]) -> list[tuple[str, Penalty]]:
    """Return the penalties in the order in which they are added up: built-in ones as listed above, then users' by name."""
    known = list(PENALTIES)
    return sorted(named.items(), key=lambda item: (known.index(item[0]) if item[0] in known else len(known), item[0]))


def squared_gradient(logits_of: Logits, images: Tensor) -> Tensor:
    """E ||grad D(x)||^2; of a discriminator that judges packs of images, an x is a pack."""
    squares, logits = _gradient(logits_of, images)
    return squares.mean() + 0 * logits.sum()


def gradient_length(logits_of: Logits, real: Tensor, fake: Tensor, shares: Tensor) -> Tensor:
    """E (||grad D(x)|| - 1)^2 between real and fake; of a discriminator that judges packs of images, an x is a pack."""
    squares, logits = _gradient(logits_of, between(real, fake, shares))
    # the root's slope at 0 is infinite: a gradient of exactly 0 would make the penalty's NaN
    length = (squares + 1e-12).sqrt()
    return (length - 1).square().mean() + 0 * logits.sum()


def between(real: Tensor, fake: Tensor, shares: Tensor) -> Tensor:
    """real + share * (fake - real), `shares` (N,) in [0, 1]."""
    return torch.lerp(real, fake, shares[:, None, None, None].to(real.dtype))


def _shares(game: Adversarial, batch: Batch) -> Tensor:
    """Return a uniform number in (0, 1) for each image: (N,). The images of a pack are one point, and have the same."""
    shares = rng.uniform(rng.key(game.seed, "between"), batch.positions, 1)[:, 0]
    return shares[:: game.pack].repeat_interleave(game.pack) if game.pack > 1 else shares


def _gradient(logits_of: Logits, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the squared length of the gradient by each image, or each pack of images, and the logits."""
    images = images.detach().requires_grad_()
    logits = logits_of(images)
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    squares = gradient.square().sum((1, 2, 3))
    return squares.view(len(logits), -1).sum(1), logits


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
