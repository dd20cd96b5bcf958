"""Measure what the time of a training goes to, and notice a rate that fell far below the run's own."""

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

PATIENCE = 600.0  # seconds of a low rate before anything is said
QUIET = 3600.0  # seconds between two alarms
_LOW = 0.5  # of the median
_KNOWN = 5  # rates that a median needs
_APART = ("evaluation", "pictures")  # work that comes seldom, and is no step


@dataclasses.dataclass(frozen=True)
class Slow:
    """A rate that stayed below half of its median."""

    rate: float
    """Images per second of late."""
    median: float
    """Of this start."""
    minutes: float
    """Since the rate is low."""
    shares: dict[str, float]
    """Part of the time that went to each kind of work, the largest first: loader, save, step ..."""

    @property
    def words(self) -> str:
        """Say it with its figures, and what to look at."""
        parts = ", ".join(f"{name} {share:.0%}" for name, share in self.shares.items())
        return (
            f"{self.rate:,.0f} images/s for {self.minutes:.0f} minutes, the median of this start is {self.median:,.0f}; the time "
            f"goes to {parts}. {REMEDIES[next(iter(self.shares))]}"
        )


REMEDIES = {
    "loader": "The loader is slow: look at the disk or network of data.shards, and at data.workers.",
    "save": "Saves are slow: look at the disk of the run, or set checkpoint.every higher.",
    "step": "The steps are slow: look for other programs on these cores or GPUs, for clocks, and for a slow link between ranks.",
}


class Pace:
    """How fast a rank trains, and what it waits for. It reads clocks of the host only: no device is waited for."""

    def __init__(self) -> None:
        self._spent: dict[str, float] = {}
        self._low: dict[str, float] = {}
        """What went to each kind of work since the rate is low."""
        self._rates: list[float] = []
        self._low_for = 0.0
        self._quiet = 0.0

    @contextlib.contextmanager
    def spending(self, name: str) -> Iterator[None]:
        """Count the time of the block as that of `save`, `evaluation` or `pictures`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._spent[name] = self._spent.get(name, 0.0) + time.perf_counter() - began

    def waiting(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items, and count the time that each is waited for as the loader's."""
        source = iter(items)
        while True:
            with self.spending("loader"):
                item = next(source, None)
            if item is None:
                return
            yield item

    def report(self, images: int, seconds: float) -> tuple[dict[str, float], Slow | None]:
        """Take in a report: `images` in `seconds`. Returns figures for metrics.jsonl, and an alarm where one is due."""
        spent, self._spent = self._spent, {}
        seconds = max(seconds, 1e-9)
        figures = {f"speed/{name}_share": min(1.0, spent.get(name, 0.0) / seconds) for name in ("loader", "save")}
        work = max(seconds - sum(spent.get(name, 0.0) for name in _APART), 1e-9)
        spent = {name: spent.get(name, 0.0) for name in ("loader", "save")}
        spent["step"] = max(0.0, work - sum(spent.values()))
        return figures, self._judge(images / work, work, spent)

    def _judge(self, rate: float, seconds: float, spent: dict[str, float]) -> Slow | None:
        median = statistics.median(self._rates) if len(self._rates) >= _KNOWN else 0.0
        self._rates.append(rate)
        self._quiet -= seconds
        if rate >= _LOW * median:
            self._low_for, self._low = 0.0, {}
            return None
        self._low_for += seconds
        for name, part in spent.items():
            self._low[name] = self._low.get(name, 0.0) + part
        if self._low_for < PATIENCE or self._quiet > 0:
            return None
        self._quiet = QUIET
        shares = {name: part / self._low_for for name, part in self._low.items()}
        ordered = dict(sorted(shares.items(), key=lambda entry: -entry[1]))
        return Slow(rate, median, self._low_for / 60, ordered)
