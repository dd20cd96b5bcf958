"""Give a training its batches, and end it between two steps, on all ranks, where one of them cannot have its data."""

from collections.abc import Callable, Generator, Iterator
from typing import Protocol

from gan_dist.config import Config
from gan_dist.control.stop import Reason, Requests
from gan_dist.control.watchdog import Watchdog
from gan_dist.data.fetching import OutageError, Waiting
from gan_dist.data.index import Index
from gan_dist.errors import AgreedError
from gan_dist.interfaces import Batch
from gan_dist.tracking import Tracker

Batches = Iterator[list[Batch]]
Supplied = Generator[list[Batch], None, None]


class Gate(Protocol):
    """What ranks tell each other of the step that comes next (engine/consensus.py)."""

    is_alone: bool

    def say(self, number: int) -> None: ...
    def hear(self) -> int: ...


class Supply:
    """Batches of a rank, while all ranks have theirs."""

    def __init__(self, config: Config, index: Index, requests: Requests, gate: Callable[[], Gate]) -> None:
        """Make it on all ranks. `gate` makes one, which costs connections between all of them."""
        self._config, self._requests = config, requests
        far = any(each.is_remote for each in index.images.values())
        made = gate() if far else None  # what lies in files waits for nobody
        self._gate = made if made is not None and not made.is_alone else None
        self.reason = Reason.NONE
        """Why there are no more batches; NONE where the run is finished."""
        self.problem = ""
        """Why this rank cannot have its data."""

    def waiting(self, watchdog: Watchdog, tracker: Tracker, images: Callable[[], int]) -> Waiting:
        """Return what is done while a server does not answer: beat, report once, and look for a request to stop."""
        return Waiting(
            self._config.data.patience or self._config.control.hang_seconds / 2,
            lambda: bool(self._requests.reason),
            lambda: watchdog.beat("waiting for data", images()),
            lambda event, reason: tracker.event(event, images(), reason=reason),
        )

    def lacking(self, reason: Reason, gather: Callable[[str], list[str]]) -> str:
        """Return what some rank lacked, to be said after the reason for the stop. All ranks call it.

        Raises AgreedError, with exit code 2, for a shard that changed.
        """
        if reason not in (Reason.NO_DATA, Reason.CHANGED_DATA):
            return ""
        problem = next(filter(None, gather(self.problem)), "")
        if reason == Reason.CHANGED_DATA:
            raise AgreedError(f"data.shards: {problem}; put it back and rerun the same command, or start a new run")
        return f": {problem}"

    def of(self, batches: Batches) -> Supplied:
        """Yield batches until they end, or a rank cannot have its own."""
        self.reason = Reason.NONE
        return self._alone(batches) if self._gate is None else self._together(batches, self._gate)

    def _alone(self, batches: Batches) -> Supplied:
        while True:
            try:
                batch = next(batches, None)
            except OutageError as error:
                self.problem = str(error)
                self.reason = Reason.CHANGED_DATA if error.changed else self._requests.reason or Reason.NO_DATA
                return
            if batch is None:
                return
            yield batch

    def _together(self, batches: Batches, gate: Gate) -> Supplied:
        """Take each batch a step ahead and say so, so that nobody waits for the others' word."""
        own = self._alone(batches)
        batch = next(own, None)
        gate.say(self.reason)
        try:
            while True:
                self.reason = Reason(gate.hear())
                if self.reason or batch is None:  # the last step is done, on all ranks
                    return
                following = next(own, None)
                gate.say(self.reason)
                yield batch
                batch = following
        finally:
            gate.hear()  # so that no word is left for another time
