"""Adversarial losses, from logits: D(x) in the papers is sigmoid(logit) here.

log D = -softplus(-logit) and log(1 - D) = -softplus(logit), which never overflow, where a logarithm of a sigmoid does. Each
loss takes the logits of generated and of real images, of any shape, and returns a scalar for either side, to be descended:
the mean over all logits.
"""

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

from gan_dist.config.section import Part

Side = Callable[..., Tensor]
"""One side of a loss: logits of generated images, and of real ones, to a scalar."""


class Loss(Part):
    """What generator and discriminator descend."""

    uses_real: ClassVar[bool] = False
    """Whether the generator's side needs the logits of real images."""
    middle: ClassVar[float | None] = 0.0
    """The logit of an image that the discriminator is unsure about. None: only differences of logits mean something."""
    sure: ClassVar[float] = 12.0
    """How far the mean logits of real and generated images are apart when the discriminator is sure of all of them; the
    alarms of control.collapse begin there. inf: the loss does not say."""
    lipschitz: ClassVar[bool] = False
    """Whether the discriminator must be 1-Lipschitz: its logits are then no larger than an image is long."""
    couples: ClassVar[bool] = False
    """Whether samples of a micro-batch act on each other beyond a mean: it is then computed for each micro-batch alone."""

    def generator(self, fake: Tensor, real: Tensor | None) -> Tensor:
        """Return the generator's loss. `real` is None unless `uses_real`."""
        raise NotImplementedError

    def discriminator(self, fake: Tensor, real: Tensor) -> Tensor:
        """Return the discriminator's loss."""
        raise NotImplementedError


class Nonsaturating(Loss):
    """-log D(G(z)): a strong gradient early on (Goodfellow et al., 2014, section 3)."""

    def generator(self, fake: Tensor, real: Tensor | None) -> Tensor:
        return softplus(-fake).mean()

    def discriminator(self, fake: Tensor, real: Tensor) -> Tensor:
        """-[log D(x) + log(1 - D(G(z)))]: ascend the value of Goodfellow et al. (2014), eq. 1."""
        return softplus(-real).mean() + softplus(fake).mean()


class Minimax(Nonsaturating):
    """log(1 - D(G(z))): the generator descends the discriminator's own value. Its gradient fades where D is sure."""

    def generator(self, fake: Tensor, real: Tensor | None) -> Tensor:
        return -softplus(fake).mean()


class Hinge(Loss):
    """Hinge loss (Lim and Ye, 2017; Miyato et al., 2018, eq. 16 and 17)."""

    sure: ClassVar[float] = 4.0

    def generator(self, fake: Tensor, real: Tensor | None) -> Tensor:
        return -fake.mean()

    def discriminator(self, fake: Tensor, real: Tensor) -> Tensor:
        return relu(1 - real).mean() + relu(1 + fake).mean()


class LeastSquares(Loss):
    """Least squares with targets 0 and 1 (Mao et al., 2017, eq. 9)."""

    middle: ClassVar[float | None] = 0.5
    sure: ClassVar[float] = math.inf  # at 1 all is told apart, as it may be in a healthy run

    def generator(self, fake: Tensor, real: Tensor | None) -> Tensor:
        return (fake - 1).square().mean() / 2

    def discriminator(self, fake: Tensor, real: Tensor) -> Tensor:
        return ((real - 1).square().mean() + fake.square().mean()) / 2


class Wasserstein(Loss):
    """The critic's difference (Arjovsky et al., 2017, eq. 2); it needs a penalty, such as wgan_gp, to be Lipschitz."""

    middle: ClassVar[float | None] = None
    sure: ClassVar[float] = math.inf  # it depends on the scale of the images
    lipschitz: ClassVar[bool] = True

    def generator(self, fake: Tensor, real: Tensor | None) -> Tensor:
        return -fake.mean()

    def discriminator(self, fake: Tensor, real: Tensor) -> Tensor:
        return fake.mean() - real.mean()


class Relativistic(Loss):
    """Each real image against the generated one beside it (Jolicoeur-Martineau, 2019, section 4.2; R3GAN, 2024)."""

    middle: ClassVar[float | None] = None
    uses_real: ClassVar[bool] = True

    def generator(self, fake: Tensor, real: Tensor | None) -> Tensor:
        assert real is not None
        return softplus(real - fake).mean()

    def discriminator(self, fake: Tensor, real: Tensor) -> Tensor:
        return softplus(fake - real).mean()


class RelativisticAverage(Loss):
    """Each image against the mean of the other kind (Jolicoeur-Martineau, 2019, section 4.3).

    The means are those of a micro-batch. Both terms count whole, as in the paper; some code takes half of their sum.
    """

    middle: ClassVar[float | None] = None
    uses_real: ClassVar[bool] = True
    couples: ClassVar[bool] = True

    def generator(self, fake: Tensor, real: Tensor | None) -> Tensor:
        assert real is not None
        return self.discriminator(real, fake)

    def discriminator(self, fake: Tensor, real: Tensor) -> Tensor:
        return softplus(fake.mean() - real).mean() + softplus(fake - real.mean()).mean()


LOSSES: dict[str, type[Loss]] = {
    "nonsaturating": Nonsaturating,
    "minimax": Minimax,
    "hinge": Hinge,
    "least_squares": LeastSquares,
    "wasserstein": Wasserstein,
    "relativistic": Relativistic,
    "relativistic_average": RelativisticAverage,
}


def of_best(loss: Loss, part: float, fake: Tensor, real: Tensor | None) -> Tensor:
    """Return the generator's loss of a part of the images, those with the highest logits (Sinha et al., 2020)."""
    of_image = fake.flatten(1).mean(1) if fake.ndim > 1 else fake
    return loss.generator(fake[of_image.topk(max(1, round(part * len(fake)))).indices], real)


def signs(loss: Loss, fake: Tensor, real: Tensor) -> dict[str, Tensor]:
    """Return on which side of its middle the discriminator puts a micro-batch's images: -1, 0 or 1 for each, by name.

    sign_real and sign_fake, or sign_pair for losses that compare: whether a real image is above a generated one. The mean of
    sign_real is r_t of Karras et al. (StyleGAN2-ADA, 2020, eq. 1).
    """
    fake, real = fake.detach(), real.detach()
    if loss.middle is None:
        return {"sign_pair": (real - fake).sign()}
    if loss.middle:
        fake, real = fake - loss.middle, real - loss.middle
    return {"sign_real": real.sign(), "sign_fake": fake.sign()}


def by_part(loss: Callable[..., Tensor], parts: int, *logits: Tensor | None) -> Tensor:
    """Return the mean of a loss over the micro-batches of a pass: the same however many of them share it."""
    if parts == 1:
        return loss(*logits)
    split = [[None] * parts if each is None else list(each.chunk(parts)) for each in logits]
    return torch.stack([loss(*part) for part in zip(*split, strict=True)]).mean()
