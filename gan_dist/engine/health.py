"""Count skipped updates: a loss or gradient that is not finite on any rank must not reach weights or optimizer state.

The counts are on the device. The host reads a copy of them when it has arrived, some steps later.
"""

import dataclasses

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Skipped:
    """Skipped updates of a player: in total, in a row until now, and the position of the last one."""

    total: int
    streak: int
    last: int


class Health:
    """Count skipped updates of `players` players on the device."""

    def __init__(self, players: int, device: torch.device) -> None:
        self._device = device
        self._finite = torch.ones((), dtype=torch.bool, device=device)
        self.resize(players)

    def resize(self, players: int) -> None:
        """Start with zero counts for this many players."""
        self._counts = torch.zeros(players, 3, dtype=torch.int64, device=self._device)
        self._seen = [Skipped(0, 0, 0)] * players
        on_gpu = self._device.type == "cuda"
        self._host = torch.empty(players, 3, dtype=torch.int64, pin_memory=True) if on_gpu else None
        self._copied: torch.cuda.Event | None = None

    def add(self, loss: Tensor) -> None:
        """Note whether the loss of a micro-batch (a scalar) is finite."""
        self._finite.logical_and_(torch.isfinite(loss.detach()))  # in place, as all here: a CUDA graph knows addresses

    def take(self) -> Tensor:
        """Return 1 if this rank's losses since the last call were finite, otherwise 0: a float32 scalar on the device."""
        finite = self._finite.float()
        self._finite.fill_(True)
        return finite

    def count(self, player: int, good: Tensor, step: int | Tensor) -> None:
        """Count an update of a player; `good` is a boolean scalar on the device."""
        total, streak, last = self._counts[player].unbind()
        self._counts[player] = torch.stack([total + ~good, (streak + 1) * ~good, last * good + step * ~good])

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
        self._finite.fill_(True)
        self._copied = None
        self._seen = [Skipped(found.total, 0, found.last) for found in self._seen]
