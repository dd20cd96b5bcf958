"""Exchange small values between ranks over separate gloo groups, so that the GPU's stream never waits for them."""

import datetime
import itertools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]

T = TypeVar("T")
_PROMPT = datetime.timedelta(seconds=10)
_boards = itertools.count()


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


class Board:
    """Short texts by name that any rank writes and reads at any time, without the others: in the launcher's store.

    It has a connection of its own, so it may be used from a thread: the store's other users are not held up by it. Each
    method raises RuntimeError where the store is gone (its rank or launcher was killed) or does not answer in time.
    """

    def __init__(self, store: Store, timeout: datetime.timedelta = _PROMPT) -> None:
        self._store = store.clone()
        self._store.set_timeout(timeout)

    def put(self, name: str, text: str) -> None:
        self._store.set(name, text)

    def put_first(self, name: str, text: str) -> None:
        """Write the text unless another one is there."""
        self._store.compare_set(name, "", text)

    def read(self, names: list[str]) -> list[str]:
        """Return the texts, of names that were put before: it waits for any that was not."""
        return [text.decode() for text in self._store.multi_get(names)]


def board(rank: int, world_size: int, names: Sequence[str]) -> Board | None:
    """Return a board with these names, all "" yet; None for one rank. All ranks call it."""
    if world_size == 1:
        return None
    store = torch.distributed.distributed_c10d._get_default_store()
    made = Board(PrefixStore(f"gan_dist/board/{next(_boards)}", store))
    for name in names[rank::world_size]:
        made.put(name, "")
    return made


def who_differs(machines: Sequence[str], values: Sequence[Any]) -> str:
    """Return whose value is not the usual one, in words: "on node2 (rank 4) unlike node1 (rank 0)"; "" where all are equal.

    Both arguments are in order of rank. Where no value has a majority, rank 0's is taken as the usual one.
    """
    usual, count = Counter(values).most_common(1)[0]
    if count * 2 <= len(values):
        usual = values[0]
    differing: dict[str, str] = {}
    for rank, (machine, value) in enumerate(zip(machines, values, strict=True)):
        if value != usual:
            differing.setdefault(machine, f"{machine} (rank {rank})")
    if not differing:
        return ""
    rank = list(values).index(usual)
    names = list(differing.values())
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f"on {', '.join(names[:4])}{more} unlike {machines[rank]} (rank {rank})"


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


class Gate:
    """Let all ranks enter a step, or none: each says one number for the step that comes next, 0 for "I am ready".

    A number is sent a step ahead, so that it has arrived when it is asked for.
    """

    def __init__(self, world_size: int) -> None:
        self.is_alone = world_size == 1
        self._own, self._all = torch.zeros(1, dtype=torch.int64), torch.zeros(world_size, dtype=torch.int64)
        self._group = torch.distributed.new_group(backend="gloo") if world_size > 1 else None
        self._pending: Any = None
        self._sent = False

    def say(self, number: int) -> None:
        """Send this rank's number for the next step, in the background."""
        self._own[0] = number
        self._sent = True
        if self._group is None:
            self._all.copy_(self._own)
        else:
            self._pending = torch.distributed.all_gather_into_tensor(
                self._all,
                self._own,
                group=self._group,  # type: ignore[arg-type]
                async_op=True,
            )

    def hear(self) -> int:
        """Wait for all ranks, and return the greatest number; 0 where nothing was said."""
        if self._pending is not None:
            self._pending.wait()
        self._pending, sent, self._sent = None, self._sent, False
        return int(self._all.max()) if sent else 0


def lost_contact(error: BaseException) -> bool:
    """Return whether an error may be the consequence of another rank's end."""
    if isinstance(error, torch.distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _ECHOES)


_ECHOES = ("Connection closed", "Connection reset", "Connection refused", "gloo", "NCCL", "Timed out", "Socket")
