"""A loss of one's own: one-sided label smoothing (Salimans et al., 2016, section 3.4)."""

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from gan_dist.config import Fraction
from gan_dist.losses import Loss


class Smoothed(Loss):
    """The nonsaturating loss, with real images that count as real by 1 - smoothing."""

    smoothing: Fraction = 0.1
    """What is taken away from the target of real images."""

    def generator(self, fake: Tensor, real: Tensor | None) -> Tensor:
        return softplus(-fake).mean()

    def discriminator(self, fake: Tensor, real: Tensor) -> Tensor:
        target = real.new_full(real.shape, 1 - self.smoothing)
        return binary_cross_entropy_with_logits(real, target) + softplus(fake).mean()
