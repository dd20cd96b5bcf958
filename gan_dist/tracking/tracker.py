"""Report on a run: to files first, W&B second, the console third. None of them can fail a run."""

import logging
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from gan_dist.config import Config
from gan_dist.errors import EXIT_FAILED, EXIT_INPUT, InputError
from gan_dist.tracking import alerts, media, panels as panels_module, records
from gan_dist.tracking.console import ProgressConsole
from gan_dist.tracking.media import Media, Scalar
from gan_dist.tracking.panels import Panel
from gan_dist.tracking.rebuild import rebuild
from gan_dist.tracking.weights_and_biases import WeightsAndBiases, leet

_log = logging.getLogger("gan_dist")
_PATIENCE = 60.0  # seconds for W&B's files at the end of a start
KEYS = "press 3 for pictures (Tab and Enter enlarge one), Ctrl-L for all charts, h for help"
"""Of `wandb leet`."""


class Tracker:
    """Reports of one process. Rank 0 writes everything; the others write events and their log only."""

    def __init__(
        self,
        directory: Path,
        config: Config,
        *,
        samples: int,
        start: int,
        wandb_id: str,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.directory, self.rank, self.world_size = directory, rank, world_size
        self.config, self.images, self.wandb_id = config, start, wandb_id
        self._checkpoint: str | None = None
        self._lost: set[str] = set()
        self._broken: set[str] = set()
        """Panels that have raised."""
        self._board: WeightsAndBiases | None = None
        self._began = time.monotonic()
        self._report: ProgressConsole | None = None
        _open_log(directory / "logs" / f"rank-{rank}.txt", rank)
        if rank == 0:
            for name in ("metrics.jsonl", "scores.jsonl"):
                records.open_metrics(directory / name, start)
            media.remove_later(directory / "media", start)
            self._report = ProgressConsole(start, config.training.whole_images, samples, self._failed)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            if not isinstance(error, InputError):
                _log.error("traceback:", exc_info=error)
            self.event("failed", self.images, reason=f"{type(error).__name__}: {error}")
            code = EXIT_INPUT if isinstance(error, InputError) else EXIT_FAILED
            self.status("failed", self.images, str(error) or type(error).__name__, self._checkpoint, code=code)
        self.close()

    def failed(self, reason: str, **details: Any) -> None:
        """Report that the process is about to end. Any thread may call it."""
        self._write(
            "events.jsonl",
            lambda path: records.write_event(path, "failed", self.images, self.rank, {"reason": reason, **details}),
        )
        self._tell("failed", self.images, {"reason": reason})
        self.status("failed", self.images, reason, self._checkpoint)

    def rewind(self, images: int) -> None:
        """Drop figures and media of later positions: the run went back to this one."""
        self.images = images
        if self._report is not None:
            self._write("metrics.jsonl", lambda path: records.open_metrics(path, images))
            self._write("scores.jsonl", lambda path: records.open_metrics(path, images))
            self._write("media", lambda folder: media.remove_later(folder, images))

    def guard(self, name: str, work: Callable[[], object]) -> bool:
        """Write a picture or the like; return whether it worked. A full disk is reported, and stops nothing."""
        return self._write(name, lambda _: work())

    def close(self) -> None:
        """Stop the bar and finish W&B, or write its files; at most a minute."""
        if self._report is not None:
            self._report.close()
        if self._board is not None:
            self._board.close()
            if self._board.later:
                self._write_board()

    def _write_board(self) -> None:
        """Write the W&B run of all starts, offline."""
        try:
            _, place = rebuild(self.directory, "offline", patience=_PATIENCE)
            self.say(f"{place}: {KEYS}")
        except Exception as error:  # whatever W&B raises: the run is safe, and its files are the truth
            reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            self._failed(f"W&B: {reason}; `gan-dist track {self.directory}` writes its files later")

    @property
    def dashboard(self) -> str:
        """Where to look at the figures: an address, the command that shows W&B's files, or else our own file."""
        if self._board is not None:
            place = self._board.place
        else:  # nothing is trained; an earlier start may have left files
            place = leet(self.directory) if (self.directory / "wandb").exists() else ""
        return place or str(self.directory / "metrics.jsonl")

    def begin(self) -> None:
        """Start W&B and the clock: the rate and the time left count from here."""
        if self._report is not None:
            self._report.begin()
            self._board = WeightsAndBiases(self.directory, self.config, self.wandb_id, self._failed, self._announce)
            if self.config.track.wandb == "disabled":
                self._announce(self.dashboard)

    def _announce(self, place: str) -> None:
        self.say(f"{'Watch' if place.startswith('gan-dist') else 'Dashboard'}: {place}")

    def metrics(self, images: int, step: int, values: dict[str, float]) -> None:
        """Report the figures of a position: its line in metrics.jsonl, a point in W&B, a line on the console."""
        if self._report is not None:
            self._figures(images, step, values)
            self._report.metrics(images, values)

    def log(self, images: int, contents: Mapping[str, Media]) -> None:
        """Show named numbers, images, histograms and tables at a position; other ranks than 0 do nothing.

        Numbers join the line of the position in metrics.jsonl, all else is a file under RUN/media. Raises InputError for a
        name that leaves that folder or that the line uses itself.
        """
        if self._report is None:
            return
        for name in contents:
            media.check_name(name)
        numbers = {name: float(content.value) for name, content in contents.items() if isinstance(content, Scalar)}
        if numbers:
            self._figures(images, images // self.config.training.batch, numbers)
        if scores := {name: value for name, value in numbers.items() if name.startswith("score/")}:
            self.say(f"images {images:,}  " + "  ".join(f"{name} {value:.4g}" for name, value in scores.items()))
        for name, content in contents.items():
            if not isinstance(content, Scalar):
                self._medium(images, name, content)

    def _medium(self, images: int, name: str, content: media.Image | media.Histogram | media.Table) -> None:
        paths: list[Path] = []
        self._write("media", lambda folder: paths.append(media.write(folder, images, name, content)))
        if paths and self._board is not None:
            self._board.media(images, name, paths[0])

    def _figures(self, images: int, step: int, values: dict[str, float]) -> None:
        self._write("metrics.jsonl", lambda path: records.write_metrics(path, images, step, values))
        if self._board is not None:
            self._board.metrics(images, values)

    def draw(self, panels: Mapping[str, Panel], game: Any, images: int) -> None:
        """Draw panels of the game on rank 0; one that raises is reported, and not drawn again before the next start."""
        for name, panel in panels.items() if self._report is not None else ():
            if name in self._broken:
                continue
            try:
                self.log(images, panels_module.draw(name, panel, game, images))
            except Exception as error:  # it may be a user's: days of training are worth more than a picture
                self._broken.add(name)
                _log.error("panel %s:", name, exc_info=error)
                self.event("panel failed", images, panel=name, reason=f"{type(error).__name__}: {error}")

    def progress(self, images: int) -> None:
        """Note the position after a step; costs about a microsecond."""
        self.images = images
        if self._report is not None:
            self._report.progress(images)

    def event(self, kind: str, images: int, **details: Any) -> None:
        """Report what happened: a line in events.jsonl, in the log, and on rank 0's console."""
        self._write("events.jsonl", lambda path: records.write_event(path, kind, images, self.rank, details))
        text = f"{kind} at {images:,} images" + "".join(f"  {name} {value}" for name, value in details.items())
        text = " ".join(text.splitlines())
        _log.info(text)
        if self._report is not None:
            self._report.say(text)
        self._tell(kind, images, details)

    def _tell(self, kind: str, images: int, details: Mapping[str, Any], words: str = "") -> None:
        """Send an alert where alerts.py has a rule for the event. `words` are used as they are."""
        if self._board is None or (rule := alerts.RULES.get(kind)) is None:
            return
        hours = (time.monotonic() - self._began) / 3600
        about = alerts.About(self.directory, self._checkpoint, hours, bool(os.environ.get("GAN_DIST_SUBMISSION")))
        text = words or alerts.words(kind, images, details, about)
        self._board.alert(f"{self.config.run.name}: {kind}", text, rule.level, rule.wait)

    def alert(self, kind: str, images: int, words: str, **details: Any) -> None:
        """Report an event that has words of its own: they go to the log, the console and an alert."""
        self._write("events.jsonl", lambda path: records.write_event(path, kind, images, self.rank, details))
        _log.info(words)
        if self._report is not None:
            self._report.say(f"images {images:,}  {words}")
        self._tell(kind, images, details, words)

    def scores(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Write scores with their records to scores.jsonl."""
        if self._report is not None:
            self._write("scores.jsonl", lambda path: records.write_scores(path, lines))

    def environment(self, images: int, facts: dict[str, Any]) -> None:
        """Record what this start runs on: a line in environment.jsonl."""
        self._write("environment.jsonl", lambda path: records.write_environment(path, images, facts))

    def picture(self, path: Path, images: int, name: str = "samples/grid") -> None:
        """Show a picture of RUN/samples that was written."""
        if self._board is not None:
            self._board.media(images, name, path)

    def say(self, text: str) -> None:
        """Print a line for the person at the console."""
        if self._report is not None:
            self._report.say(text)

    def status(self, state: str, images: int, reason: str, checkpoint: str | None, **more: Any) -> None:
        """Replace status.json; `state` is running, finished, stopped or failed."""
        self._checkpoint = checkpoint
        facts = {"state": state, "images": images, "reason": reason, "checkpoint": checkpoint, **more}
        job = os.environ.get("SLURM_JOB_ID", "")
        launch = {"processes": self.world_size, "wandb_id": self.wandb_id, "job": job}
        if self.rank == 0:
            self._write("status.json", lambda path: records.write_status(path, **facts, **launch))

    def _write(self, name: str, work: Callable[[Path], object]) -> bool:
        """Write to a file of the run; return whether it worked. A failure is reported once for each file."""
        try:
            work(self.directory / name)
            return True
        except OSError as error:
            if name not in self._lost:
                self._lost.add(name)
                self._failed(f"{name}: {error.strerror}")
            return False

    def _failed(self, reason: str) -> None:
        self.event("tracker failed", self.images, reason=reason)


def _open_log(path: Path, rank: int) -> None:
    """Send the package's log to this process's own file; each line says where, as a rank moves from node to node."""
    node = os.environ.get("SLURMD_NODENAME") or platform.node()
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.handleError = lambda record: None  # type: ignore[method-assign]  # a full disk: events.jsonl said so
    handler.setFormatter(
        logging.Formatter(f"%(asctime)s {node.replace('%', '%%')} rank {rank} %(levelname)s %(message)s")
    )
    for old in list(_log.handlers):
        _log.removeHandler(old)
        old.close()
    _log.addHandler(handler)
    _log.setLevel(logging.INFO)
