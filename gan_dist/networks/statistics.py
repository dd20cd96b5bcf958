"""BatchNorm whose running statistics mean the same at any process count and accumulation."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class BatchNorm(nn.Module):
    """Batch normalisation over (N, C) or (N, C, H, W) (Ioffe and Szegedy, 2015).

    A forward normalises each of its `parts` by the statistics of the samples in it. The running statistics move once an
    update, by the mean of the statistics of all forwards since the last one, and only while `tracking`: a
    generator's forwards in the discriminator's turn leave no trace.
    """

    running_mean: Tensor
    running_var: Tensor
    step_mean: Tensor
    step_var: Tensor
    step_count: Tensor

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
        self.register_buffer("step_count", torch.zeros(()), persistent=False)
        self.tracking = False
        self.parts = 1
        """Micro-batches in a forward, one after the other: each is normalised by itself."""
        self._gathered = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.epsilon
            )
        if self.parts == 1:
            return self._normalise(x)
        return torch.cat([self._normalise(part) for part in x.chunk(self.parts)])

    def _normalise(self, x: Tensor) -> Tensor:
        if not self.tracking:
            return functional.batch_norm(x, None, None, self.weight, self.bias, True, eps=self.epsilon)
        # counted in a tensor: a compiled network would be compiled anew for every value of a Python number
        self._gathered = True
        mean, variance = torch.zeros_like(self.step_mean), torch.zeros_like(self.step_var)
        output = functional.batch_norm(x, mean, variance, self.weight, self.bias, True, 1.0, self.epsilon)
        with torch.no_grad():
            self.step_mean += mean
            self.step_var += variance
            self.step_count += 1
        return output

    @property
    def gathered(self) -> bool:
        """Whether a forward has gathered statistics since the last commit."""
        return self._gathered

    @torch.no_grad()
    def take(self) -> tuple[Tensor, Tensor]:
        """Hand out what was gathered, mean and variance, and begin anew."""
        taken = self.step_mean / self.step_count, self.step_var / self.step_count
        self._clear()
        return taken

    @torch.no_grad()
    def give(self, mean: Tensor, variance: Tensor) -> None:
        """Take these for what was gathered."""
        self.step_mean.copy_(mean)
        self.step_var.copy_(variance)
        self.step_count.fill_(1)
        self._gathered = True

    def _clear(self) -> None:
        self.step_mean.zero_()
        self.step_var.zero_()
        self.step_count.zero_()
        self._gathered = False

    @torch.no_grad()
    def commit(self, good: Tensor | None = None) -> None:
        """Let the running statistics follow what the step has gathered; not where `good` (a boolean scalar) is false."""
        if self._gathered:
            for running, total in ((self.running_mean, self.step_mean), (self.running_var, self.step_var)):
                step = total / self.step_count
                running.lerp_(step if good is None else torch.where(good, step, running), self.momentum)
            self._clear()


def batch_norms(network: nn.Module) -> list[BatchNorm]:
    return [module for module in network.modules() if isinstance(module, BatchNorm)]


def foreign_norms(network: nn.Module) -> list[str]:
    """Layers that keep running statistics by themselves: of what one process saw, and of every forward, also a frozen one's."""
    return [
        f"{name} ({type(module).__name__})"
        for name, module in network.named_modules()
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats
    ]
