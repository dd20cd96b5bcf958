"""The adversarial losses, from logits: D(x) in the papers is sigmoid(logit) here.

log D = -softplus(-logit) and log(1 - D) = -softplus(logit), which never overflow, where a logarithm of a
sigmoid does. All return a scalar: the mean over the samples, to be descended.
"""

from torch import Tensor
from torch.nn.functional import softplus


def discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """-[log D(x) + log(1 - D(G(z)))]: the discriminator ascends the value of Goodfellow et al. (2014), eq. 1."""
    return softplus(-real).mean() + softplus(fake).mean()


def minimax(fake: Tensor) -> Tensor:
    """log(1 - D(G(z))): the generator descends the same value. Its gradient fades where D is sure."""
    return -softplus(fake).mean()


def nonsaturating(fake: Tensor) -> Tensor:
    """-log D(G(z)): the same fixed point with a strong gradient early on (Goodfellow et al., 2014, section 3)."""
    return softplus(-fake).mean()


GENERATOR = {"minimax": minimax, "nonsaturating": nonsaturating}
