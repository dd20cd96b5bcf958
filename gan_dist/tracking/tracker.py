"""All reports of a run in one place: files first, W&B second, the console third. None of them can fail a run."""

import logging
import os
import platform
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from gan_dist.config import Config
from gan_dist.errors import EXIT_FAILED, EXIT_INPUT, InputError
from gan_dist.tracking import records
from gan_dist.tracking.console import ProgressConsole
from gan_dist.tracking.weights_and_biases import WeightsAndBiases, leet

_log = logging.getLogger("gan_dist")


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
        self._board: WeightsAndBiases | None = None
        self._report: ProgressConsole | None = None
        _open_log(directory / "logs" / f"rank-{rank}.txt", rank)
        if rank == 0:
            records.open_metrics(directory / "metrics.jsonl", start)
            self._report = ProgressConsole(start, config.training.whole_images, samples, self._failed)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            if not isinstance(error, InputError):
                _log.error("the way there:", exc_info=error)
            self.event("failed", self.images, reason=f"{type(error).__name__}: {error}")
            code = EXIT_INPUT if isinstance(error, InputError) else EXIT_FAILED
            self.status("failed", self.images, str(error) or type(error).__name__, self._checkpoint, code=code)
        self.close()

    def failed(self, reason: str, **details: Any) -> None:
        """The process is about to end, from whatever thread: the last that can be said."""
        self._write(
            "events.jsonl",
            lambda path: records.write_event(path, "failed", self.images, self.rank, {"reason": reason, **details}),
        )
        self.status("failed", self.images, reason, self._checkpoint)

    def rewind(self, images: int) -> None:
        """The run went back to a position: figures of later ones are dropped."""
        self.images = images
        if self._report is not None:
            self._write("metrics.jsonl", lambda path: records.open_metrics(path, images))

    def guard(self, name: str, work: Callable[[], object]) -> bool:
        """Write a picture or the like, and whether it worked; a disk that refuses is reported, and stops nothing."""
        return self._write(name, lambda _: work())

    def close(self) -> None:
        """Stop the bar and finish W&B; at most a minute."""
        if self._report is not None:
            self._report.close()
        if self._board is not None:
            self._board.close()

    @property
    def dashboard(self) -> str:
        """Where to look at the figures: an address, the command that shows W&B's files, or else our own file."""
        if self._board is not None:
            place = self._board.place
        else:  # nothing is trained; an earlier start may have left files
            place = leet(self.directory) if (self.directory / "wandb").exists() else ""
        return place or str(self.directory / "metrics.jsonl")

    def begin(self) -> None:
        """Training begins now: W&B is told, and the rate and the time left count from here."""
        if self._report is not None:
            self._report.begin()
            self._board = WeightsAndBiases(self.directory, self.config, self.wandb_id, self._failed, self._announce)
            if self.config.track.wandb == "disabled":
                self._announce(self.dashboard)

    def _announce(self, place: str) -> None:
        self.say(f"Dashboard: {place}")

    def metrics(self, images: int, step: int, values: dict[str, float]) -> None:
        """One line of figures at a position."""
        if self._report is None:
            return
        self._write("metrics.jsonl", lambda path: records.write_metrics(path, images, step, values))
        if self._board is not None:
            self._board.metrics(images, values)
        self._report.metrics(images, values)

    def progress(self, images: int) -> None:
        """Called every step; costs about a microsecond."""
        self.images = images
        if self._report is not None:
            self._report.progress(images)

    def event(self, kind: str, images: int, **details: Any) -> None:
        """Something happened: a line in events.jsonl, in the log, and on rank 0's console."""
        self._write("events.jsonl", lambda path: records.write_event(path, kind, images, self.rank, details))
        text = f"{kind} at {images:,} images" + "".join(f"  {name} {value}" for name, value in details.items())
        text = " ".join(text.splitlines())
        _log.info(text)
        if self._report is not None:
            self._report.say(text)

    def environment(self, images: int, facts: dict[str, Any]) -> None:
        """What this start runs on: a line in environment.jsonl."""
        self._write("environment.jsonl", lambda path: records.write_environment(path, images, facts))

    def picture(self, path: Path, images: int) -> None:
        """A sample grid was written."""
        if self._board is not None:
            self._board.picture(images, path)

    def say(self, text: str) -> None:
        """A line for the person at the console."""
        if self._report is not None:
            self._report.say(text)

    def status(self, state: str, images: int, reason: str, checkpoint: str | None, **more: Any) -> None:
        """running, finished, stopped or failed: replaces status.json."""
        self._checkpoint = checkpoint
        facts = {"state": state, "images": images, "reason": reason, "checkpoint": checkpoint, **more}
        job = os.environ.get("SLURM_JOB_ID", "")
        launch = {"processes": self.world_size, "wandb_id": self.wandb_id, "job": job}
        if self.rank == 0:
            self._write("status.json", lambda path: records.write_status(path, **facts, **launch))

    def _write(self, name: str, work: Callable[[Path], object]) -> bool:
        """Write to a file of the run; where that fails it is said, once for each file, and tried again the next time."""
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
