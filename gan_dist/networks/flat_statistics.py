"""Keep the statistics of a player's BatchNorm layers in flat tensors, so that an update moves them all at once."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from gan_dist.networks.statistics import BatchNorm, Statistics


class Moved(Protocol):
    """What gathers in forwards and moves once an update: a layer of `Statistics`, or a `Group` of them."""

    @property
    def gathered(self) -> bool: ...
    def take(self) -> list[Tensor]: ...
    def give(self, values: list[Tensor]) -> None: ...
    def drop(self) -> None: ...
    def commit(self, good: Tensor | None = None) -> None: ...


class Group:
    """BatchNorm layers of one player and one momentum, whose statistics lie one after the other in flat tensors.

    Zeroing, dividing, sharing and moving them is then one operation for all layers, and not some for each. The layers'
    buffers lie in them, so networks, checkpoints and averages see what they saw. What layers gather apart from it
    (compiled, or in other numbers of forwards) it leaves to them.
    """

    def __init__(self, layers: Sequence[BatchNorm]) -> None:
        """Take the layers' running statistics over, where they are now."""
        self._layers = list(layers)
        self._momentum = layers[0].momentum
        buffers = [buffer for layer in layers for buffer in (layer.running_mean, layer.running_var)]
        self._shapes = [buffer.shape for buffer in buffers]
        self._running = torch.cat([buffer.detach().reshape(-1) for buffer in buffers])
        for buffer, view in zip(buffers, self._views(self._running), strict=True):
            buffer.data = view  # the same tensor, for those who follow it
        for layer in layers:
            layer.group = self
        self._rows: list[Tensor] = []
        """Row k takes the statistics of each layer's forward number k of an update; all are zero before."""
        self._places: list[list[Tensor]] = []
        """Of each row, the views of the layers: mean, variance, mean, ..."""
        self._forwards = [0] * len(layers)
        self._number = {id(layer): number for number, layer in enumerate(layers)}
        self._given: Tensor | None = None
        self._taken_from: list[BatchNorm] = []

    def __deepcopy__(self, memo: Any) -> None:
        """Return None: a copied layer gathers by itself."""

    def _views(self, flat: Tensor) -> list[Tensor]:
        parts = torch.split(flat, [shape.numel() for shape in self._shapes])
        return [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def place_of(self, layer: BatchNorm) -> tuple[Tensor, Tensor]:
        """Return zeros, for the next forward of a layer to write its mean and its variance to."""
        number = self._number[id(layer)]
        forward = self._forwards[number]
        self._forwards[number] += 1
        if forward == len(self._rows):
            self._rows.append(torch.zeros_like(self._running))
            self._places.append(self._views(self._rows[-1]))
        mean, variance = self._places[forward][2 * number : 2 * number + 2]
        return mean, variance

    @property
    def gathered(self) -> bool:
        return self._given is not None or any(self._forwards) or any(layer.gathered for layer in self._layers)

    def _mean(self) -> Tensor | None:
        """Return the mean of what all layers gathered alike, flat; None where the layers have it themselves."""
        if self._given is not None:
            return self._given
        if len(set(self._forwards)) > 1 or any(layer.gathered for layer in self._layers):
            for number, layer in enumerate(self._layers):
                for places in self._places[: self._forwards[number]]:
                    layer._gather((places[2 * number], places[2 * number + 1]))
            self._clear()
            return None
        total = self._rows[0]
        for row in self._rows[1 : self._forwards[0]]:
            total.add_(row)
        return total if self._forwards[0] == 1 else total / self._forwards[0]

    def _clear(self) -> None:
        if used := max(self._forwards):
            torch._foreach_zero_(self._rows[:used])
        self._forwards = [0] * len(self._layers)
        self._given = None

    @torch.no_grad()
    def take(self) -> list[Tensor]:
        """Hand out the mean of what was gathered: one flat tensor, or those of the layers."""
        mean = self._mean()
        if mean is None:
            self._taken_from = [layer for layer in self._layers if layer.gathered]
            return [each for layer in self._taken_from for each in layer.take()]
        taken = [mean.clone()] if mean is self._rows[0] else [mean]
        self._clear()
        return taken

    @torch.no_grad()
    def give(self, values: list[Tensor]) -> None:
        if len(values) == 1:
            self._given = values[0].to(self._running.dtype)
            return
        for layer, pair in zip(self._taken_from, zip(values[::2], values[1::2], strict=True), strict=True):
            layer.give(list(pair))

    @torch.no_grad()
    def drop(self) -> None:
        self._clear()
        for layer in self._layers:
            layer.drop()

    @torch.no_grad()
    def commit(self, good: Tensor | None = None) -> None:
        if not self.gathered:
            return
        mean = self._mean()
        if mean is None:
            for layer in self._layers:
                layer.commit(good)
            return
        self._running.lerp_(mean if good is None else torch.where(good, mean, self._running), self._momentum)
        self._clear()


def together(statistics: Sequence[Statistics]) -> tuple[Moved, ...]:
    """Return what moves these statistics, in their order, with BatchNorm layers of one kind in one group."""
    kinds: dict[float, list[BatchNorm]] = {}
    for each in statistics:
        if isinstance(each, BatchNorm) and type(each).commit is BatchNorm.commit:
            kinds.setdefault(each.momentum, []).append(each)
    groups = {id(layers[0]): Group(layers) for layers in kinds.values()}
    inside = {id(layer) for layers in kinds.values() for layer in layers[1:]}
    return tuple(groups.get(id(each), each) for each in statistics if id(each) not in inside)
