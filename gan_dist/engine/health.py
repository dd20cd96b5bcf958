"""Count skipped updates: a loss or gradient that is not finite on any rank must not reach weights or optimizer state.

The counts are on the device. The host reads a copy of them when it has arrived, some steps later.
"""

import dataclasses

import torch
from torch import Tensor

from gan_dist.schedules import Moving


@dataclasses.dataclass(frozen=True)
class Skipped:
    """Skipped updates of a player: in total, in a row until now, and the position of the last one."""

    total: int
    streak: int
    last: int


class Health:
    """Count skipped updates of `players` players on the device. All that changes is changed in place."""

    def __init__(self, players: int, device: torch.device) -> None:
        self._device = device
        self._fault = torch.zeros((), device=device)
        """0, or NaN where something was not finite."""
        self.resize(players)

    def resize(self, players: int) -> None:
        """Start with zero counts for this many players."""
        self._counts = torch.zeros(players, 3, dtype=torch.int64, device=self._device)
        # a good update: total, 0, last; a skipped one: total + 1, streak + 1, position
        masks = torch.tensor([[1, 0, 1], [1, 1, 0], [1, 1, 0]], dtype=torch.int64, device=self._device)
        self._kept_by_good, self._kept_by_bad, self._added_by_bad = masks.unbind()
        self._position = 0
        """The last of them, as far as the host set it."""
        self._seen = [Skipped(0, 0, 0)] * players
        on_gpu = self._device.type == "cuda"
        self._host = torch.empty(players, 3, dtype=torch.int64, pin_memory=True) if on_gpu else None
        self._copied: torch.cuda.Event | None = None

    def add(self, loss: Tensor) -> None:
        """Note whether the loss of a micro-batch (a scalar) is finite."""
        self._fault.add_(loss.detach(), alpha=0)  # 0 times what is not finite is NaN

    def take(self) -> Tensor:
        """Return 0 if this rank's losses since the last call were finite, otherwise NaN: a float32 scalar on the device.

        So the sum over ranks is 0 if all were finite.
        """
        fault = self._fault.clone()
        self._fault.zero_()
        return fault

    def at(self, step: int) -> None:
        """Note the position of the updates that follow."""
        if step != self._position:
            self._added_by_bad[2].fill_(step)
            self._position = step

    def count(self, player: int, good: Tensor, step: int) -> None:
        """Count an update of a player; `good` is a boolean scalar on the device. For a step that is recorded, `at` was called."""
        if not isinstance(step, Moving):
            self.at(step)
        counts = self._counts[player]
        skipped = torch.addcmul(self._added_by_bad, counts, self._kept_by_bad)
        torch.where(good, counts * self._kept_by_good, skipped, out=counts)

    def read(self, wait: bool = False) -> list[Skipped]:
        """Return the counts of each player; on a GPU they may be some steps old, unless it may `wait`."""
        if self._host is None or wait:
            self._seen = [Skipped(*row) for row in self._counts.tolist()]
            return self._seen
        if self._copied is None or self._copied.query():  # type: ignore[no-untyped-call]
            if self._copied is not None:
                self._seen = [Skipped(*row) for row in self._host.tolist()]
            self._host.copy_(self._counts, non_blocking=True)
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()
        return self._seen

    def restore(self, totals: list[int]) -> None:
        """Continue from these counts of skipped updates."""
        self._counts.zero_()
        self._counts[:, 0] = torch.tensor(totals)
        self._copied = None
        self._seen = [Skipped(total, 0, 0) for total in totals]

    def forgive(self) -> None:
        """Set the counts in a row to zero: the run went back to a checkpoint."""
        self._counts[:, 1] = 0
        self._fault.zero_()
        self._copied = None
        self._seen = [Skipped(found.total, 0, found.last) for found in self._seen]
