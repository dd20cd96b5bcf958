"""Show how far packing is."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Bar:
    """Progress on a terminal, or a line now and then where there is none."""

    def __init__(self, total: int, done: int, shown: bool, verb: str = "packing") -> None:
        columns = TextColumn(verb), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        terminal = sys.stderr.isatty()
        console = Console(stderr=True)
        self._verb = verb
        self._bar = Progress(*columns, console=console, disable=not (shown and terminal), transient=True)
        self._lines = shown and not terminal
        self._total, self._done, self._begin = total, done, time.perf_counter()
        self._start, self._said = done, time.perf_counter()

    def __enter__(self) -> "Bar":
        self._bar.start()
        self._task = self._bar.add_task("", total=self._total, completed=self._done)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, count: int) -> None:
        self._done += count
        self._bar.advance(self._task, count)
        now = time.perf_counter()
        if self._lines and now - self._said > 5:
            rate = (self._done - self._start) / (now - self._begin)
            left = (self._total - self._done) / rate
            print(
                f"{self._verb} {self._done:,}/{self._total:,}  {rate:,.0f} images/s  {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )
            self._said = now
