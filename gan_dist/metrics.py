"""Gather the metrics of a run on the device, and read them once an interval: the step never waits for them."""

import torch
from torch import Tensor


class Metrics:
    """Means of named numbers since the last reading.

    A name has one tensor for good, which is added to in place: a CUDA graph adds to where it was.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.weight = 1.0
        """What a number counts by default: the micro-batches that it is the mean of."""
        self.counts: dict[str, float] = {}
        """By name, of what was added since the last reading, without what counts on the device."""
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}

    @property
    def names(self) -> frozenset[str]:
        """Return all names that were ever added to."""
        return frozenset((*self._sums, *(f"count of {name}" for name in self._counts)))

    @torch.no_grad()
    def add(self, name: str, value: Tensor, weight: float | Tensor | None = None) -> None:
        """Take in the mean of `value` (any shape), counting as `weight` of a number. Costs no synchronisation.

        What all ranks know alike weighs 1 on one of them and 0 on the others: 1/W on each of W would round.
        """
        weight = self.weight if weight is None else weight
        self._put(name, value.detach().mean(dtype=torch.float64) * weight, weight)

    def take(self) -> tuple[dict[str, float], Tensor]:
        """Return all sums and clear them: {name: count} in order of name, and the sums in that order, (names,) float64.

        Of a name that counts on the device it waits for the count.
        """
        names = sorted(self.counts)
        counts = {
            name: self.counts[name] + (float(self._counts[name]) if name in self._counts else 0.0) for name in names
        }
        sums = [self._sums[name] for name in names]
        stacked = torch.stack(sums) if sums else torch.zeros(0, dtype=torch.float64, device=self.device)
        self.clear()
        return counts, stacked

    def give(self, counts: dict[str, float], sums: Tensor) -> None:
        """Take in what `take` handed out, of any floating type."""
        for (name, count), total in zip(counts.items(), sums.double().unbind(), strict=True):
            self._put(name, total, count)

    def _put(self, name: str, total: Tensor, count: float | Tensor) -> None:
        if name not in self._sums:
            self._sums[name] = self._zero()
        self._sums[name].add_(total)
        self.counts.setdefault(name, 0.0)
        if not isinstance(count, Tensor):
            self.counts[name] += count
            return
        if name not in self._counts:
            self._counts[name] = self._zero()
        self._counts[name].add_(count)

    def _zero(self) -> Tensor:
        return torch.zeros((), dtype=torch.float64, device=self.device)

    def totals(self) -> tuple[list[str], Tensor]:
        """Return the names in order, and (names, 2) float64 sums and counts: ranks add them up before reading."""
        names = sorted(self.counts)
        if not names:
            return [], torch.zeros(0, 2, dtype=torch.float64, device=self.device)
        counts = torch.tensor([self.counts[name] for name in names], dtype=torch.float64, device=self.device)
        on_device = torch.stack([self._counts.get(name, torch.zeros_like(self._sums[name])) for name in names])
        sums = torch.stack([self._sums[name] for name in names])
        return names, torch.stack([sums, counts + on_device], dim=1)

    def restore(self, totals: dict[str, tuple[float, float]]) -> None:
        """Restore sums and counts from a checkpoint."""
        for name, (total, count) in totals.items():
            self._put(name, torch.tensor(total, dtype=torch.float64, device=self.device), float(count))

    def clear(self) -> None:
        self.counts.clear()
        if tensors := [*self._sums.values(), *self._counts.values()]:
            torch._foreach_zero_(tensors)
