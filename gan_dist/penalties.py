"""Penalties on the discriminator's gradient with respect to its images, for logits (N,) and images (N, C, H, W).

Each takes a function from images to logits and returns a scalar, the mean over the images, without its weight.
`exact` ones differentiate the logits and are differentiated again when the loss is descended; their networks must
therefore not be compiled, nor lose weights in between. All add nothing times the logits, so that every weight has a
gradient: an output bias has none by a penalty alone, and DDP waits for it for ever.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Logits = Callable[[Tensor], Tensor]


def squared_gradient(logits_of: Logits, images: Tensor) -> Tensor:
    """E ||grad D(x)||^2: R1 of real images, R2 of generated ones, each by gamma/2 (Mescheder et al., 2018, eq. 9)."""
    gradient, logits = _gradient(logits_of, images)
    return gradient.square().sum((1, 2, 3)).mean() + 0 * logits.sum()


def gradient_length(logits_of: Logits, real: Tensor, fake: Tensor, between: Tensor) -> Tensor:
    """E (||grad D(x)|| - 1)^2 at x = real + between * (fake - real), `between` (N,) in [0, 1] (Gulrajani et al., 2017, eq. 3)."""
    images = torch.lerp(real, fake, between[:, None, None, None].to(real.dtype))
    gradient, logits = _gradient(logits_of, images)
    # the root's slope at 0 is infinite: a gradient of exactly 0 would make the penalty's NaN
    length = (gradient.square().sum((1, 2, 3)) + 1e-12).sqrt()
    return (length - 1).square().mean() + 0 * logits.sum()


def squared_difference(logits_of: Logits, images: Tensor, noise: Tensor, step: float) -> Tensor:
    """E ((D(x + s n) - D(x)) / s)^2 with n standard normal: as s goes to 0 and D is smooth, E ||grad D(x)||^2.

    Needs no second derivative, so it runs where `squared_gradient` cannot. Two logits are subtracted, so it wants
    fp32; and where D has kinks (LeakyReLU) its own gradient keeps terms of them that the exact penalty's lacks
    (docs/engines.md has the figures).
    """
    difference = logits_of(images + step * noise) - logits_of(images)
    return (difference / step).square().mean()


def usual_step(network: nn.Module) -> float:
    """The step of `squared_difference` that errs least for images in [-1, 1]: 0.03 where D has kinks, else 0.01."""
    kinked = any(isinstance(module, nn.ReLU | nn.LeakyReLU | nn.PReLU) for module in network.modules())
    return 0.03 if kinked else 0.01


def _gradient(logits_of: Logits, images: Tensor) -> tuple[Tensor, Tensor]:
    images = images.detach().requires_grad_()
    logits = logits_of(images)
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient, logits
