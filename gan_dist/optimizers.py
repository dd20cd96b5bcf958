"""Optimizers of players. Their settings are pure functions of the images seen, so only tensors of state are saved."""

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field

from gan_dist import schedules
from gan_dist.config.section import Fraction, Part

Parameters = list[torch.nn.Parameter]


class Optimizer(Part):
    """How a player's weights follow its gradients."""

    learning_rate: schedules.ScheduledPositive = 2e-4
    """Step size."""
    clip_norm: Annotated[float, Field(ge=0)] = 0.0
    """Longest gradient (L2 norm over all weights of the player); a longer one is scaled down to it. 0: any."""

    def build(self, parameters: Parameters, slow: float = 1.0) -> torch.optim.Optimizer:
        """torch's optimizer for these parameters, with the settings of the first step."""
        raise NotImplementedError

    def settings(self, images: int, slow: float = 1.0) -> dict[str, Any]:
        """Return what each parameter group has in the update at this position in images.

        `slow` is below 1 for a player that is also updated by a penalty every n steps: n / (n + 1), so that n + 1 updates
        move it like n (Karras et al., StyleGAN2, 2020, appendix B).
        """
        return {"lr": schedules.at(self.learning_rate, images) * slow}


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015)."""

    beta1: schedules.ScheduledFraction = 0.5
    """Decay of the gradient's running mean; 0.5 as in DCGAN (Radford et al., 2016)."""
    beta2: schedules.ScheduledFraction = 0.999
    """Decay of the squared gradient's running mean."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the denominator."""

    torch_class: ClassVar[type[torch.optim.Adam]] = torch.optim.Adam

    def build(self, parameters: Parameters, slow: float = 1.0) -> torch.optim.Optimizer:
        on_gpu = parameters[0].is_cuda  # one kernel for all parameters; on a CPU it gains nothing
        return self.torch_class(
            parameters, eps=self.epsilon, fused=on_gpu or None, **self.settings(0, slow), **self.constants()
        )

    def constants(self) -> dict[str, Any]:
        """Return settings that never change, beyond Adam's own."""
        return {}

    def settings(self, images: int, slow: float = 1.0) -> dict[str, Any]:
        betas = schedules.at(self.beta1, images) ** slow, schedules.at(self.beta2, images) ** slow
        return {**super().settings(images, slow), "betas": betas}


class AdamW(Adam):
    """Adam with weight decay apart from the gradient (Loshchilov and Hutter, 2019)."""

    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Part of each weight that is taken away in an update, times the learning rate."""

    torch_class: ClassVar[type[torch.optim.Adam]] = torch.optim.AdamW

    def constants(self) -> dict[str, Any]:
        return {"weight_decay": self.weight_decay}


class Sgd(Optimizer):
    """Gradient descent with momentum."""

    learning_rate: schedules.ScheduledPositive = 1e-2
    """Step size."""
    momentum: Fraction = 0.9
    """Decay of the gradients' running sum."""

    def build(self, parameters: Parameters, slow: float = 1.0) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            parameters, momentum=self.momentum, fused=parameters[0].is_cuda or None, **self.settings(0, slow)
        )


class RmsProp(Optimizer):
    """RMSprop, as WGAN uses it (Arjovsky et al., 2017)."""

    learning_rate: schedules.ScheduledPositive = 5e-5
    """Step size."""
    decay: Fraction = 0.99
    """Decay of the squared gradient's running mean."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the denominator."""

    def build(self, parameters: Parameters, slow: float = 1.0) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(parameters, alpha=self.decay, eps=self.epsilon, **self.settings(0, slow))


OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "adamw": AdamW, "sgd": Sgd, "rmsprop": RmsProp}
