"""BatchNorm whose running statistics mean the same at any process count and accumulation."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class BatchNorm(nn.Module):
    """Batch normalisation over (N, C) or (N, C, H, W) (Ioffe and Szegedy, 2015).

    A forward normalises by the statistics of the samples it is given. The running statistics move once an
    update, by the mean of the statistics of all forwards since the last one, and only while `tracking`: a
    generator's forwards in the discriminator's turn leave no trace.
    """

    running_mean: Tensor
    running_var: Tensor
    step_mean: Tensor
    step_var: Tensor

    def __init__(self, channels: int, momentum: float = 0.1, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.epsilon = momentum, epsilon
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        # what a step gathers is not the run's state: between steps it is empty
        self.register_buffer("step_mean", torch.zeros(channels), persistent=False)
        self.register_buffer("step_var", torch.zeros(channels), persistent=False)
        self.tracking = False
        self._forwards = 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.epsilon
            )
        if not self.tracking:
            return functional.batch_norm(x, None, None, self.weight, self.bias, True, eps=self.epsilon)
        self._forwards += 1
        share = 1 / self._forwards  # a running mean with this momentum is the mean of all forwards so far
        return functional.batch_norm(
            x, self.step_mean, self.step_var, self.weight, self.bias, True, share, self.epsilon
        )

    @torch.no_grad()
    def commit(self) -> None:
        """Let the running statistics follow what the step has gathered."""
        if self._forwards:
            self.running_mean.lerp_(self.step_mean, self.momentum)
            self.running_var.lerp_(self.step_var, self.momentum)
            self.step_mean.zero_()
            self.step_var.zero_()
            self._forwards = 0


def batch_norms(network: nn.Module) -> list[BatchNorm]:
    return [module for module in network.modules() if isinstance(module, BatchNorm)]
