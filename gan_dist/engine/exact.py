"""Share the work by strategy exact: sums over micro-batches have the same bits at any number of ranks.

They are sums of gradients, statistics and metrics.

Floating-point sums depend on their order, so the order is fixed: a binary tree over the micro-batches of the global
batch. A rank sums the subtree of its own block. Then every rank gets one segment of all partial sums, adds them along the
rest of the tree, and the segments are gathered again (the traffic of an all-reduce).
EasyScale (Li et al., SC 2023) has the same aim for data-parallel training.
"""

import contextlib

import torch
import torch.distributed
from torch import Tensor

from gan_dist.engine import update
from gan_dist.engine.health import Health
from gan_dist.engine.precision import LossScale
from gan_dist.metrics import Metrics
from gan_dist.networks.flat_statistics import Moved
from gan_dist.player import Player


class Exact:
    """Every rank holds the networks as they are.

    The gradients, statistics and metrics of each micro-batch are a leaf of one tree over the global batch.
    """

    def __init__(self, health: Health, rank: int, world_size: int, parts: int, metrics: Metrics) -> None:
        """`metrics` are the run's: they are given sums over the global batch, in the order of its updates."""
        self._health, self._rank, self._world_size, self._metrics = health, rank, world_size, metrics
        self.parts = parts
        """Micro-batches of the global batch: the sum over all ranks is then the mean."""
        self._tree = TreeSum()
        self.leaf = Metrics(metrics.device)
        """Takes the metrics of one micro-batch."""
        self._gathered: list[tuple[Moved, int]] = []
        """With how many means each."""

    def wrap(self, player: Player) -> None:
        player.trained = player.network

    def computing(self, player: Player, last: bool, twice: bool) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def backward(self, player: Player, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def passed(self, player: Player) -> None:
        """Add the micro-batch to the tree, as a leaf."""
        fault = self._health.take()
        weights = [weight for weight in player.weights if weight.grad is not None]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        dtype = gradients[0].dtype
        taken = [(each, each.take()) for each in player.moved if each.gathered]
        self._gathered = [(each, len(means)) for each, means in taken]
        statistics = [mean.to(dtype) / self.parts for _, means in taken for mean in means]
        self._counts, sums = self.leaf.take()
        self._tree.add([*gradients, *statistics, sums.to(dtype), fault.to(dtype).view(1)])
        self._weights = weights
        for weight in weights:
            weight.grad = None

    def shared(self, player: Player) -> None:
        total = self._tree.total()
        sum_over_processes(total, self._world_size)
        for weight, gradient in zip(self._weights, total, strict=False):
            weight.grad = gradient
        *statistics, sums, fault = total[len(self._weights) :]
        self._fault = fault[0]
        # every rank has the same sums now, and one of them counts them: any other sum of theirs would round
        times = self.parts if self._rank == 0 else 0
        counts = {name: None if count is None else count * times for name, count in self._counts.items()}
        self._metrics.give(counts, sums if self._rank == 0 else torch.zeros_like(sums))
        means = iter(statistics)
        for each, count in self._gathered:
            each.give([next(means) for _ in range(count)])

    def update(self, player: Player, scale: LossScale | None) -> tuple[Tensor, Tensor]:
        gradients = [weight.grad for weight in player.weights if weight.grad is not None]
        norm = update.norm_of(gradients, scale)
        good = torch.add(self._fault, norm, alpha=0) == 0  # 0 times what is not finite is NaN
        update.step(player, gradients, norm, good)
        return norm, good

    def averages(self, player: Player) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def forget(self, player: Player) -> None:
        self._tree = TreeSum()
        self.leaf.clear()

    def release(self) -> None:
        """Do nothing: nothing is kept."""


class TreeSum:
    """Adds up equally long lists of tensors, given one after the other, along a binary tree."""

    def __init__(self) -> None:
        self._nodes: list[tuple[int, list[Tensor]]] = []
        """Sums that wait for their right neighbour: (leaves below, tensors), like the digits of a binary counter."""

    def add(self, leaf: list[Tensor]) -> None:
        """Take in the next leaf; its tensors are changed."""
        size = 1
        while self._nodes and self._nodes[-1][0] == size:
            _, left = self._nodes.pop()
            torch._foreach_add_(left, leaf)
            leaf, size = left, 2 * size
        self._nodes.append((size, leaf))

    def total(self) -> list[Tensor]:
        """Return the sum of all leaves: what is left of the tree is joined from the right."""
        _, total = self._nodes.pop()
        while self._nodes:
            _, left = self._nodes.pop()
            torch._foreach_add_(left, total)
            total = left
        return total


def sum_over_processes(tensors: list[Tensor], world_size: int) -> None:
    """Replace `tensors` of each process by their sum over all, along the tree whose leaves are the processes."""
    if world_size == 1 or not tensors:
        return
    runs = [in_memory(tensor) for tensor in tensors]
    count = sum(len(run) for run in runs)
    length = -(-count // world_size)
    sent = tensors[0].new_zeros(length * world_size)
    torch.cat(runs, out=sent[:count])
    received = torch.empty_like(sent)
    torch.distributed.all_to_all_single(received, sent)
    tree = TreeSum()
    for segment in received.split(length):  # type: ignore[no-untyped-call]
        tree.add([segment])
    torch.distributed.all_gather_into_tensor(sent, tree.total()[0].contiguous())
    torch._foreach_copy_(runs, torch.split(sent[:count], [len(run) for run in runs]))
    for tensor, run in zip(tensors, runs, strict=True):
        if run.data_ptr() != tensor.data_ptr():  # neither order of memory: the run is a copy
            tensor.copy_(run.view(tensor.shape))


def in_memory(tensor: Tensor) -> Tensor:
    """Return the elements one after the other, as a view where they lie so (contiguous or channels_last): nothing is moved."""
    if tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor.permute(0, 2, 3, 1).reshape(-1)
    return tensor.reshape(-1)
