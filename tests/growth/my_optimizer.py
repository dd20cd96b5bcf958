"""An optimizer of one's own: Lion (Chen et al., 2023, algorithm 2)."""

from typing import Any

import torch

from gan_dist import schedules
from gan_dist.config import Fraction
from gan_dist.optimizers import Optimizer, Parameters


class Lion(Optimizer):
    """The sign of a running mean of gradients."""

    learning_rate: schedules.ScheduledPositive = 1e-4
    """Step size; a third to a tenth of Adam's."""
    beta1: Fraction = 0.9
    """Part of the running mean in the update."""
    beta2: Fraction = 0.99
    """Decay of the running mean."""

    def build(self, parameters: Parameters, slow: float = 1.0) -> torch.optim.Optimizer:
        return TorchLion(parameters, {"beta1": self.beta1, "beta2": self.beta2, **self.settings(0, slow)})


class TorchLion(torch.optim.Optimizer):
    def __init__(self, parameters: Parameters, settings: dict[str, Any]) -> None:
        super().__init__(parameters, settings)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["exp_avg"] = torch.zeros_like(weight)
                mean = state["exp_avg"]
                weight.sub_(torch.lerp(weight.grad, mean, group["beta1"]).sign(), alpha=group["lr"])
                mean.lerp_(weight.grad, 1 - group["beta2"])
