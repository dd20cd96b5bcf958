"""Gather the metrics of a run on the device, and read them once an interval: the step never waits for them."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

_BLOCK = 64  # sums of one tensor; it never moves, as a CUDA graph adds to where it was
_SHORT = 4096  # elements of a value that is kept until it is averaged with others


class Metrics:
    """Means of named numbers since the last reading.

    What is added waits until `flush`, which averages and adds at once what is alike: a GPU would be given some kernels for
    each number otherwise.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.weight = 1.0
        """What a number counts by default: the micro-batches that it is the mean of."""
        self.counts: dict[str, float] = {}
        """By name, of what was flushed since the last reading, without what counts on the device."""
        self._waiting: list[tuple[str, Tensor, float, float | None]] = []
        """Name of a sum, a value, the weight of its mean, and what that counts; None: it is a count itself."""
        self._blocks: list[Tensor] = []
        self._places: dict[str, int] = {}
        """Of the sums by name, and of counts on the device by `_count_of` the name."""
        self._restored: dict[str, float] = {}
        """Sums of a checkpoint, until something is added to them."""

    @property
    def names(self) -> frozenset[str]:
        """Return all names that were ever added to."""
        return frozenset(self._places)

    @torch.no_grad()
    def add(self, name: str, value: Tensor, weight: float | Tensor | None = None) -> None:
        """Take in the mean of `value` (any shape), counting as `weight` of a number. Costs no synchronisation.

        `value` must not change until the end of the update. What all ranks know alike weighs 1 on one of them and 0 on the
        others: 1/W on each of W would round.
        """
        value = value.detach()
        if value.dim() and (value.numel() > _SHORT or isinstance(weight, Tensor)):
            value = value.mean(dtype=torch.float64)
        if isinstance(weight, Tensor):
            self._waiting += [(name, value * weight, 1.0, 0.0), (_count_of(name), weight, 1.0, None)]
        else:
            weight = self.weight if weight is None else weight
            self._waiting.append((name, value, weight, weight))

    def forget(self) -> None:
        """Drop what waits: an update was broken off."""
        self._waiting.clear()

    @torch.no_grad()
    def flush(self) -> None:
        """Add what waits to the sums."""
        for names, sums in self._gathered():
            self._add(names, sums)

    @torch.no_grad()
    def take(self) -> tuple[dict[str, float | None], Tensor]:
        """Return the sums of what waits, and drop it: {name: count}, and the sums in that order, (names,) float64.

        The count is None where the sum is itself the count of another.
        """
        sums: dict[str, Tensor] = {}
        flat = []
        twice = False
        before, self.counts = self.counts, dict[str, float]()
        for names, values in self._gathered():
            flat.append(values.double())
            for name, value in zip(names, flat[-1].unbind(), strict=True):
                twice = twice or name in sums
                sums[name] = sums[name] + value if name in sums else value
        counts, self.counts = self.counts, before
        if twice:
            flat = [torch.stack(list(sums.values()))]
        return {name: counts.get(name) for name in sums}, torch.cat(flat) if flat else self._zeros(0)

    @torch.no_grad()
    def give(self, counts: dict[str, float | None], sums: Tensor) -> None:
        """Take in what `take` handed out, of any floating type."""
        self._count((name, count) for name, count in counts.items() if count is not None)
        self._add(list(counts), sums)

    def _gathered(self) -> Iterator[tuple[list[str], Tensor]]:
        """Yield names, and their means times their weights, of what waits: in the order of `add` where they are alike."""
        alike: dict[tuple[torch.Size, torch.dtype, float], list[tuple[str, Tensor]]] = {}
        for name, value, weight, count in self._waiting:
            alike.setdefault((value.shape, value.dtype, weight), []).append((name, value))
            if count is not None:
                self._count([(name, count)])
        self._waiting = []
        for (shape, _, weight), found in alike.items():
            values = torch.stack([value for _, value in found])
            if shape:
                values = values.flatten(1).mean(1, dtype=torch.float64)
            if weight != 1:
                values = values.double() * weight
            yield [name for name, _ in found], values

    def _count(self, counts: Iterable[tuple[str, float]]) -> None:
        for name, count in counts:
            self.counts[name] = self.counts.get(name, 0.0) + count

    def _add(self, names: Sequence[str], values: Tensor) -> None:
        """Add to the sums, in their order: each run of places that follow each other at once."""
        places = [self._place(name) for name in names]
        start = 0
        for end in range(1, len(places) + 1):
            if end == len(places) or places[end] != places[end - 1] + 1 or places[end] % _BLOCK == 0:
                first = places[start] % _BLOCK
                self._blocks[places[start] // _BLOCK][first : first + end - start].add_(values[start:end])
                start = end

    def _place(self, name: str) -> int:
        place = self._places.setdefault(name, len(self._places))
        if place == len(self._blocks) * _BLOCK:
            self._blocks.append(self._zeros(_BLOCK))
        if name in self._restored:
            self._sum(name).fill_(self._restored.pop(name))
        return place

    def _sum(self, name: str) -> Tensor:
        block, number = divmod(self._places[name], _BLOCK)
        return self._blocks[block][number]

    def _zeros(self, count: int) -> Tensor:
        return torch.zeros(count, dtype=torch.float64, device=self.device)

    @torch.no_grad()
    def totals(self) -> tuple[list[str], Tensor]:
        """Return the names in order, and (names, 2) float64 sums and counts: ranks add them up before reading."""
        self.flush()
        names = sorted(self.counts)
        for name in names:
            self._place(name)
        if not names:
            return [], self._zeros(0).view(0, 2)
        sums = torch.stack([self._sum(name) for name in names])
        counts = torch.tensor([self.counts[name] for name in names], device=self.device, dtype=torch.float64)
        for number, name in enumerate(names):
            if _count_of(name) in self._places:
                counts[number] += self._sum(_count_of(name))
        return names, torch.stack([sums, counts], dim=1)

    def restore(self, totals: dict[str, tuple[float, float]]) -> None:
        """Restore sums and counts from a checkpoint."""
        for name, (total, count) in totals.items():
            self._restored[name] = total
            self.counts[name] = float(count)

    def clear(self) -> None:
        """Begin an interval."""
        self._waiting.clear()
        self.counts.clear()
        self._restored.clear()
        if self._blocks:
            torch._foreach_zero_(self._blocks)


def _count_of(name: str) -> str:
    return f"count of {name}"
