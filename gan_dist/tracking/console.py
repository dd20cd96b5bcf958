"""What a person sees while a run trains: a progress bar on a terminal, plain lines elsewhere. Goes to stdout."""

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

_REFRESH = 0.25  # seconds between two redraws


class Report:
    """Progress from `start` to `total` images; an epoch is `samples` images."""

    def __init__(self, start: int, total: int, samples: int, console: Console | None = None) -> None:
        self.console = console or Console(soft_wrap=True, highlight=False)
        self.start, self.total, self.samples = start, total, samples
        self.began = time.perf_counter()
        self._next = 0.0
        self._figures = ""
        self._bar: Progress | None = None

    def begin(self) -> None:
        """Start the clock, and the bar where there is a terminal."""
        self.began = time.perf_counter()
        if self.console.is_terminal:
            columns = BarColumn(bar_width=30), TextColumn("{task.description}")
            self._bar = Progress(*columns, console=self.console, auto_refresh=False)
            self._task = self._bar.add_task(self._line(self.start), total=self.total, completed=self.start)
            self._bar.start()

    def progress(self, images: int) -> None:
        """Called every step: redraws when it is time to."""
        if self._bar is None or (now := time.perf_counter()) < self._next:
            return
        self._next = now + _REFRESH
        self._bar.update(self._task, completed=images, description=self._line(images), refresh=True)

    def metrics(self, images: int, values: dict[str, float]) -> None:
        """New figures: the losses stay on the bar; without a terminal they are a line."""
        self._figures = "  ".join(f"{name} {values[name]:.3f}" for name in sorted(values) if name.startswith("loss/"))
        if self._bar is None:
            self.console.print(self._line(images))

    def say(self, text: str) -> None:
        """One line, above the bar where there is one."""
        self.console.print(text)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _line(self, images: int) -> str:
        rate = (images - self.start) / max(time.perf_counter() - self.began, 1e-9)
        left = duration((self.total - images) / rate) if rate > 0 else "-"
        return (
            f"images {images:,}/{self.total:,}  epoch {images / self.samples:.1f}  "
            f"{rate:,.0f} images/s  ETA {left}  {self._figures}"
        ).rstrip()


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: 1:02:03."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
