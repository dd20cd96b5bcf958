"""Gather the metrics of a run on the device, and read them once an interval: the step never waits for them."""

import torch
from torch import Tensor


class Metrics:
    """Means of named numbers since the last reading."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.weight = 1.0
        """What a number counts by default: the micro-batches that it is the mean of."""
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, float | Tensor] = {}

    @torch.no_grad()
    def add(self, name: str, value: Tensor, weight: float | Tensor | None = None) -> None:
        """Take in the mean of `value` (any shape), counting as `weight` of a number. Costs no synchronisation.

        What all ranks know alike weighs 1 on one of them and 0 on the others: 1/W on each of W would round.
        """
        weight = self.weight if weight is None else weight
        self._put(name, value.detach().mean(dtype=torch.float64) * weight, weight)

    def take(self) -> tuple[dict[str, float], Tensor]:
        """Return all sums and clear them: {name: count} in order of name, and the sums in that order, (names,) float64."""
        counts = {name: float(count) for name, count in sorted(self._counts.items())}
        sums = [self._sums[name] for name in counts]
        self.clear()
        return counts, torch.stack(sums) if sums else torch.zeros(0, dtype=torch.float64, device=self.device)

    def give(self, counts: dict[str, float], sums: Tensor) -> None:
        """Take in what `take` handed out, of any floating type."""
        for (name, count), total in zip(counts.items(), sums.double().unbind(), strict=True):
            self._put(name, total, count)

    def _put(self, name: str, total: Tensor, count: float | Tensor) -> None:
        self._sums[name] = self._sums[name] + total if name in self._sums else total
        self._counts[name] = self._counts.get(name, 0.0) + count

    def totals(self) -> tuple[list[str], Tensor]:
        """Return the names in order, and (names, 2) float64 sums and counts: ranks add them up before reading."""
        names = sorted(self._sums)
        if not names:
            return [], torch.zeros(0, 2, dtype=torch.float64, device=self.device)
        sums = torch.stack([self._sums[name] for name in names])
        counts = torch.tensor([float(self._counts[name]) for name in names], device=self.device, dtype=torch.float64)
        return names, torch.stack([sums, counts], dim=1)

    def restore(self, totals: dict[str, tuple[float, float]]) -> None:
        """Restore sums and counts from a checkpoint."""
        for name, (total, count) in totals.items():
            self._sums[name] = torch.tensor(total, dtype=torch.float64, device=self.device)
            self._counts[name] = float(count)

    def clear(self) -> None:
        self._sums.clear()
        self._counts.clear()
