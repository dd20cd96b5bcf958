"""Optimizers of players. Their settings are pure functions of the images seen, so only tensors of state are saved."""

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from gan_dist import schedules
from gan_dist.config.common import Config
from gan_dist.config.section import Fraction, Part

Parameters = list[torch.nn.Parameter]


class Optimizer(Part):
    """How a player's weights follow its gradients."""

    learning_rate: schedules.ScheduledPositive = 2e-4
    """Step size."""
    clip_norm: Annotated[float, Field(ge=0)] = 0.0
    """Longest gradient (L2 norm over all weights of the player); a longer one is scaled down to it. 0: any."""
    clip_weights: Annotated[float, Field(ge=0)] = 0.0
    """Largest size of a weight: after each update all are clamped to it (WGAN's critic: 0.01; Arjovsky et al., 2017). 0: any."""
    lookahead_every: Annotated[int, Field(ge=0)] = 0
    """Updates of the player after which its weights go back to the slow ones, which follow them then (Lookahead-minimax;
    Chavdarova et al., 2021). Give both players one, so that it falls into the same step: the discriminator the generator's
    times game.discriminator_steps. 0: never."""
    lookahead_rate: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Part of the way to the weights that the slow ones go each time. They begin as the initial weights."""

    def make(self, parameters: Parameters, slow: float = 1.0) -> torch.optim.Optimizer:
        """Build the optimizer, and let it do what the keys of every kind say."""
        optimizer = self.build(parameters, slow)
        if self.clip_weights or self.lookahead_every:
            _Further.add_to(optimizer, self, counts=not self.lookahead_every or self._counts(slow))
        return optimizer

    def _counts(self, slow: float) -> bool:
        """Say whether the optimizer counts its steps of a weight."""
        weight = torch.nn.Parameter(torch.zeros(2, 2))
        weight.grad = torch.zeros(2, 2)
        optimizer = self.build([weight], slow)
        try:
            optimizer.step()
        except Exception:  # which optimizer_probe.py reports when it tries the same
            return True
        return "step" in optimizer.state[weight]

    def check(self, config: Config) -> None:
        if not self.lookahead_every and self.lookahead_rate != type(self).model_fields["lookahead_rate"].default:
            raise ValueError(
                "optimizers.*.lookahead_rate has no effect without lookahead_every; set it, or remove the rate"
            )

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


class _Further(torch.optim.Optimizer):
    """What a step of any optimizer does beyond its own: clamp the weights, and look ahead.

    Its class is put before that of an optimizer that is made already. Whatever it keeps is state of the weight, so that it
    is saved, cut over ranks, and taken back with a skipped update like the optimizer's own.
    """

    _keys: Optimizer
    _counted: bool
    """Whether the optimizer counts its steps itself."""

    @staticmethod
    def add_to(optimizer: torch.optim.Optimizer, keys: Optimizer, counts: bool) -> None:
        own = type(optimizer)
        optimizer.__class__ = type(own.__name__, (_Further, own), {"__module__": own.__module__})
        assert isinstance(optimizer, _Further)
        optimizer._keys, optimizer._counted = keys, counts
        # a fused kernel could skip the update, and not this: engine/update.py takes back all of it
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]

    @torch.no_grad()
    def step(self, *arguments: Any, **named: Any) -> Any:
        keys = self._keys
        weights = [weight for group in self.param_groups for weight in group["params"] if weight.grad is not None]
        first = {}
        if keys.lookahead_every:
            first = {weight: weight.clone() for weight in weights if "slow" not in self.state.get(weight, {})}
        result = super().step(*arguments, **named)
        for weight in weights:
            if keys.clip_weights:
                weight.clamp_(-keys.clip_weights, keys.clip_weights)
            if keys.lookahead_every:
                state = self.state[weight]
                if weight in first:
                    state["slow"] = first[weight]
                    if not self._counted:
                        state["step"] = torch.zeros((), device=weight.device)
                if not self._counted:
                    state["step"] += 1
                self._look_ahead(weight, state["slow"], state["step"] % keys.lookahead_every == 0)
        return result

    def _look_ahead(self, weight: Tensor, slow: Tensor, due: "Tensor | bool") -> None:
        """Let the slow weights follow, and the others go back to them, where it is `due`."""
        rate = self._keys.lookahead_rate
        if isinstance(due, Tensor) and due.device == weight.device:  # the host does not wait for it
            slow.lerp_(weight, rate * due.to(weight.dtype))
            weight.copy_(torch.where(due, slow, weight))
        elif due:
            slow.lerp_(weight, rate)
            weight.copy_(slow)


OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "adamw": AdamW, "sgd": Sgd, "rmsprop": RmsProp}
