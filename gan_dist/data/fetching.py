"""Fetch the bytes of remote samples: those of a group together, and those of the next one meanwhile."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from torch.utils.data import get_worker_info

from gan_dist.data.decode import Decoder, together
from gan_dist.data.stores import ChangedError, Patience, StoreError

AT_ONCE = Patience(3.0, refusals=True)
"""For how long a worker tries again. Then the training process does, which hears of signals: `patiently`."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0  # seconds between two of its tries
_TICK = 0.1
LOOK = 2.0  # seconds after which a process that waits for its workers looks whether it is to stop

Item = dict[str, Any]
"""What became of a micro-batch: "notes", or an "error", an "outage", or a shard that "changed"."""


class OutageError(Exception):
    """The data cannot be had: no answer for as long as the config waits, a stop meanwhile, or a shard that changed."""

    def __init__(self, reason: str, changed: bool = False) -> None:
        super().__init__(reason)
        self.changed = changed


@dataclasses.dataclass(frozen=True)
class Waiting:
    """What a training does while it waits for a server."""

    seconds: float = 300.0
    """How long it waits."""
    stopped: Callable[[], bool] = lambda: False
    """Whether it is asked to stop."""
    beat: Callable[[], None] = lambda: None
    """Called about ten times a second."""
    report: Callable[[str, str], None] = lambda event, reason: None
    """Told once that the data is unreachable, and once that it is back."""


def outcome(error: StoreError) -> Item:
    """Return what became of a micro-batch whose bytes cannot be had."""
    return {"changed" if isinstance(error, ChangedError) else "outage": str(error)}


def patiently(items: Sequence[Item], again: Callable[[int], Item], waiting: Waiting) -> list[Item]:
    """Try micro-batches `again`, by their place, until the bytes of all are there.

    Raises OutageError where `waiting` ends, or a shard changed.
    """
    found, begun = list(items), 0.0
    for place in range(len(found)):
        pause = _FIRST_PAUSE
        while "changed" in found[place] or "outage" in found[place]:
            if "changed" in found[place]:
                raise OutageError(found[place]["changed"], changed=True)
            reason = found[place]["outage"]
            if not begun:
                begun = time.monotonic()
                waiting.report("data unreachable", reason)
            _pause(min(begun + waiting.seconds, time.monotonic() + pause), reason, waiting)
            if time.monotonic() >= begun + waiting.seconds:
                raise OutageError(reason)
            pause = min(2 * pause, _LONGEST_PAUSE)
            found[place] = again(place)
    if begun:
        waiting.report("data back", f"after {time.monotonic() - begun:.0f} s")
    return found


def _pause(end: float, reason: str, waiting: Waiting) -> None:
    while time.monotonic() < end:
        waiting.beat()
        if waiting.stopped():
            raise OutageError(reason)
        time.sleep(_TICK)


def awaited(groups: Iterator[list[Item]], waiting: Waiting) -> Iterator[list[Item]]:
    """Yield what workers make. A loader with the timeout LOOK is asked again, so that a slow server delays no stop."""
    while True:
        try:
            group = next(groups, None)
        except RuntimeError as error:
            if "timed out after" not in str(error):
                raise
            waiting.beat()
            if waiting.stopped():
                raise OutageError("stopped while it waited for data") from None
            continue
        if group is None:
            return
        yield group


class Ahead:
    """Bytes of a group's samples, held by the decoders. It is pickled to workers, and has a thread there."""

    def __init__(
        self, sets: Mapping[str, Mapping[str, Decoder]], samples: Callable[[str, int], np.ndarray], groups: int
    ) -> None:
        """`samples(set, group)` are the numbers that a group reads."""
        self._sets, self._samples, self._groups = sets, samples, groups
        self._thread: ThreadPoolExecutor | None = None
        self._next: tuple[int, Future[dict[str, dict[str, dict[int, bytes]]]]] | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_thread": None, "_next": None}

    def hold(self, group: int) -> Item | None:
        """Let the decoders hold the bytes of a group, and begin to fetch this worker's next one. Returns what went wrong."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "gan_dist-ahead")
        begun, self._next = self._next, None
        try:
            found = begun[1].result() if begun is not None and begun[0] == group else self._read(group)
        except StoreError as error:
            return outcome(error)
        for name, decoders in self._sets.items():
            for field, decoder in decoders.items():
                decoder.held = found[name][field]
        info = get_worker_info()
        following = group + (info.num_workers if info is not None else 1)
        if following < self._groups:
            self._next = following, self._thread.submit(self._read, following)
        return None

    def _read(self, group: int) -> dict[str, dict[str, dict[int, bytes]]]:
        return {name: together(decoders, self._samples(name, group)) for name, decoders in self._sets.items()}
