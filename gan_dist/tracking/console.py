"""Show a person on stdout how a run trains: a progress bar on a terminal, plain lines elsewhere."""

import collections
import contextlib
import os
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from gan_dist.units import duration

_REFRESH = 0.25  # seconds between two redraws
_RECENT = 60.0  # seconds that the rate and the time left are taken from: longer than a save, shorter than patience


class ProgressConsole:
    """Progress from `start` to `total` images; an epoch is `samples` images.

    `failed` is told the reason when standard output is gone (a closed pipe, a full disk); nothing is shown after that.
    """

    def __init__(
        self, start: int, total: int, samples: int, failed: Callable[[str], None], console: Console | None = None
    ) -> None:
        self.console = console or _Stdout(soft_wrap=True, highlight=False, markup=False, emoji=False)
        self.start, self.total, self.samples = start, total, samples
        self.began = time.perf_counter()
        self._marks = collections.deque([(self.began, start)])
        """Times and positions of late; the first is the youngest that is at least _RECENT old, or the start."""
        self._failed = failed
        self._next = 0.0
        self._figures = ""
        self._gone = False
        self._bar: Progress | None = None

    def begin(self) -> None:
        """Start the clock, and the bar where there is a terminal that can move its cursor."""
        self.began = time.perf_counter()
        self._marks = collections.deque([(self.began, self.start)])
        if self.console.is_interactive:
            text = TextColumn("{task.description}", markup=False, table_column=Column())  # wraps on a narrow terminal
            self._bar = Progress(BarColumn(bar_width=20), text, console=self.console, auto_refresh=False)
            self._task = self._bar.add_task(self._line(self.start), total=self.total, completed=self.start)
            self._show(self._bar.start)

    def progress(self, images: int) -> None:
        """Redraw the bar where it is time to; called every step."""
        if self._bar is None or (now := time.perf_counter()) < self._next:
            return
        self._next = now + _REFRESH
        self._redraw(self._bar, images)

    def metrics(self, images: int, values: dict[str, float]) -> None:
        """Show new figures: the losses stay on the bar; without a terminal they are a line."""
        self._figures = "  ".join(f"{name} {values[name]:.3f}" for name in sorted(values) if name.startswith("loss/"))
        if self._bar is None:
            self.say(self._line(images))
        else:
            self._redraw(self._bar, images)

    def say(self, text: str) -> None:
        """Print one line, above the bar where there is one."""
        self._show(lambda: self.console.print(text, markup=False, emoji=False))

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._show(self._bar.stop)
            self._bar = None

    def _redraw(self, bar: Progress, images: int) -> None:
        line = f"{self._line(images)}  elapsed {duration(time.perf_counter() - self.began)}"
        self._show(lambda: bar.update(self._task, completed=images, description=line, refresh=True))

    def _show(self, work: Callable[[], object]) -> None:
        if self._gone:
            return
        try:
            work()
        except (OSError, UnicodeError) as error:
            self._gone = True
            # other prints go nowhere too, or Python would end with code 120 over what it could not flush
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.console.file.fileno())
            self._failed(f"standard output: {error}")

    def _rate(self, images: int) -> float:
        """Images per second of late: the mean since the start would lag for hours after a slow beginning."""
        now, marks = time.perf_counter(), self._marks
        if images < marks[-1][1]:  # the run went back
            self._marks = collections.deque([(now, images)])
            return 0.0
        while len(marks) > 1 and now - marks[1][0] >= _RECENT:
            marks.popleft()
        if now - marks[-1][0] >= _RECENT / 60 and images > marks[-1][1]:
            marks.append((now, images))
        return (images - marks[0][1]) / max(now - marks[0][0], 1e-9)

    def _line(self, images: int) -> str:
        rate = self._rate(images)
        left = duration((self.total - images) / rate) if rate > 0 else "-"
        epoch = f"epoch {images / self.samples:.1f}  " if self.samples else ""
        return (f"images {images:,}/{self.total:,}  {epoch}{rate:,.0f} images/s  ETA {left}  {self._figures}").rstrip()


class _Stdout(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError("its reader has ended")  # rich would end the program
