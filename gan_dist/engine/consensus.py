"""Exchange small values between ranks over separate gloo groups, so that the GPU's stream never waits for them."""

import datetime
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed

T = TypeVar("T")


def channel(world_size: int, timeout: datetime.timedelta) -> Callable[[Any], list[Any]]:
    """Return a function that collects a value of every rank on all ranks, usable from a thread. Every rank calls this."""
    if world_size == 1:
        return lambda value: [value]
    group = torch.distributed.new_group(backend="gloo", timeout=timeout)

    def gather(value: Any) -> list[Any]:
        found: list[Any] = [None] * world_size
        torch.distributed.all_gather_object(found, value, group=group)  # type: ignore[arg-type]
        return found

    return gather


class Agreement:
    """Make a few integers of every rank known to all ranks at the same step.

    They are sent about every `interval` seconds, in the background of a step, and received after the next step. Each rank
    also sends how many of its steps fit into the interval; all use the smallest, so that all send at the same step.
    """

    def __init__(self, world_size: int, count: int, interval: float = 0.5) -> None:
        self._world_size, self._interval = world_size, interval
        self._own = torch.zeros(1 + count, dtype=torch.int64)
        self._all = torch.zeros(world_size * (1 + count), dtype=torch.int64)
        self._group = torch.distributed.new_group(backend="gloo") if world_size > 1 else None
        self._pending: Any = None
        self._step, self._next = 0, 1
        self._sent, self._sent_at = 0, time.perf_counter()

    def due(self) -> bool:
        """Return whether this step sends. Call it after every step, before `send`."""
        self._step += 1
        return self._pending is None and self._step >= self._next

    def send(self, values: list[int]) -> None:
        """Send this rank's integers."""
        now = time.perf_counter()
        seconds = max((now - self._sent_at) / max(1, self._step - self._sent), 1e-6)
        self._sent, self._sent_at = self._step, now
        self._own[0] = max(1, min(10_000, int(self._interval / seconds)))
        self._own[1:] = torch.tensor(values)
        if self._group is None:
            self._all.copy_(self._own)
            self._pending = True
        else:
            self._pending = torch.distributed.all_gather_into_tensor(
                self._all,
                self._own,
                group=self._group,  # type: ignore[arg-type]
                async_op=True,
            )

    def receive(self) -> list[list[int]] | None:
        """Return the integers of every rank, in order, in the step after they were sent; otherwise None."""
        if self._pending is None or self._step == self._sent:
            return None
        if self._group is not None:
            self._pending.wait()
        self._pending = None
        rows: list[list[int]] = self._all.view(self._world_size, -1).tolist()
        self._next = self._step + min(row[0] for row in rows)
        return [row[1:] for row in rows]

    def close(self) -> None:
        """Finish an exchange that has begun, so that no rank waits for another."""
        if self._pending is not None and self._group is not None:
            self._pending.wait()
        self._pending = None


def lost_contact(error: BaseException) -> bool:
    """Return whether an error may be the consequence of another rank's end."""
    if isinstance(error, torch.distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _ECHOES)


_ECHOES = ("Connection closed", "Connection reset", "Connection refused", "gloo", "NCCL", "Timed out", "Socket")
