"""Show a run in Weights & Biases: one run over all resumes, everything drawn against `images`. It can never fail the run."""

import contextlib
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from gan_dist.config import Config
from gan_dist.figures import LOGITS
from gan_dist.redaction import redact, redact_all
from gan_dist.tracking import shown

_INIT_SECONDS = 30  # without network W&B gives up after this long
_FINISH_SECONDS = 60  # an upload that takes longer at the end is left to `wandb sync`
_MOMENT = 5.0  # seconds
_WAITING = 1000  # reports that may wait for W&B; more are dropped, metrics.jsonl has them


class WeightsAndBiases:
    """A W&B run, or nothing where it is disabled or has failed. W&B has a thread: it may hang, and training goes on.

    Offline nothing is written while a run trains: W&B keeps a folder for each start, which it takes for as many runs, and
    of which `wandb sync` keeps the last. `later` is true then, and rebuild.py writes one at the end of each start.

    `failed` is told once what went wrong, `ready` where the run is seen when it is known. `command` is given for a run
    that is rebuilt: the command line that trained it, which W&B shows in place of this process's, as it shows nothing of
    this process's machine then. `folder` is where W&B writes.
    """

    def __init__(
        self,
        directory: Path,
        config: Config,
        wandb_id: str,
        failed: Callable[[str], None],
        ready: Callable[[str], None] = lambda place: None,
        work: "queue.Queue[Callable[[], Any] | None] | None" = None,
        command: Sequence[str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self._directory, self._folder = directory, folder or directory
        self.later = False
        self._failed, self._ready = failed, ready
        self._command, self._config = command, config
        self._run: Any = None
        self._scores: set[str] = set()
        """Whose summary W&B knows."""
        self._given_up = False
        self._giving_up = threading.Lock()
        self._started = threading.Event()
        self._work = work if work is not None else queue.Queue(_WAITING)
        self._thread: threading.Thread | None = None
        if config.track.wandb != "disabled":
            self._thread = threading.Thread(target=self._serve, name="wandb", daemon=True)
            self._thread.start()
            self._put(lambda: self._start(config, wandb_id))

    @property
    def place(self) -> str:
        """Where the run is seen: its page, or the command that shows it from the files; empty where there is no run.

        Waits a moment for a W&B that is just starting.
        """
        self._started.wait(_MOMENT if self._thread is not None else 0)
        if self.later:
            return leet(self._directory)
        if self._run is None:
            return ""
        return leet(self._directory) if self._run.offline else str(self._run.url)

    def _start(self, config: Config, wandb_id: str) -> None:
        import wandb

        mode = mode_of(config.track.wandb)
        if mode == "offline" and self._command is None:
            self.later = True
        if mode == "disabled" or self.later:
            self._started.set()
            if self.later:
                self._ready(f"gan-dist watch {self._directory}; W&B's files are written at the end")
            return
        settings = wandb.Settings(  # silent: the console is ours, and Tracker says where the run is seen
            init_timeout=_INIT_SECONDS, finish_timeout=_FINISH_SECONDS, silent=True, console="off"
        )
        if self._command is not None:
            settings.x_disable_stats = True
            settings.program = self._command[0] if self._command else "unknown"
        with _arguments(self._command):
            self._run = wandb.init(
                project=project(config),
                name=config.run.name,
                id=wandb_id,
                resume="allow",
                dir=self._folder,
                mode=mode,  # type: ignore[arg-type]
                config=redact_all(config.flat()),
                settings=settings,
            )
        self._run.define_metric("images", hidden=True)  # the x axis: images against images says nothing
        self._run.define_metric("*", step_metric="images")
        self._started.set()
        self._ready(self.place)

    def metrics(self, images: int, values: dict[str, float]) -> None:
        """Add figures to the point of a position."""

        def content() -> dict[str, Any]:
            for name in values.keys() - self._scores:
                if name.startswith("score/") and name.removeprefix("score/") not in LOGITS:
                    # the best of a run in the runs table; by name, as of two patterns that fit W&B takes any
                    self._run.define_metric(name, step_metric="images", summary=self._best(name))
                    self._scores.add(name)
            # updates that were never skipped are no news
            told = {name: value for name, value in values.items() if value or not name.startswith("skipped/")}
            return {"images": images, **told}

        self._log(content, images)  # at step=, as an offline run that is resumed counts from 0 again

    def _best(self, name: str) -> Literal["min", "max"]:
        """Return which value of a score W&B's table of runs shows."""
        metric = getattr(getattr(self._config.evaluate, "scores", None), name.split("/")[1], None)
        better = getattr(metric, "better", "lower")
        if not isinstance(better, str):  # of several values, by name
            better = better.get("/".join(name.split("/")[2:]), "lower")
        return "max" if better == "higher" else "min"

    def media(self, images: int, name: str, path: Path) -> None:
        """Show what a file of RUN/media or RUN/samples holds."""

        def content() -> dict[str, Any]:
            try:
                return {"images": images, **shown.of_file(name, path, images, terminal=self._run.offline)}
            except FileNotFoundError:  # the run went back meanwhile, and the file with it
                return {"images": images}

        self._log(content, images)

    def events(self, images: int, path: Path) -> None:
        """Show the events of events.jsonl as a table."""

        def content() -> dict[str, Any]:
            rows = shown.events(path)
            return {"images": images, **({"events": shown.event_table(rows)} if rows else {})}

        self._log(content, images)

    def alert(self, title: str, text: str, level: str, wait: float) -> None:
        """Let W&B tell a person by mail or chat, where the run is online."""

        def send() -> None:
            if self._run is not None and not self._run.offline:
                self._run.alert(title=title, text=text, level=level, wait_duration=wait)

        if self._thread is not None and not self._given_up:
            self._put(send)

    def close(self, patience: float = _INIT_SECONDS + _FINISH_SECONDS) -> None:
        """Let W&B finish, for at most so many seconds; what was given up is not waited for."""
        with self._giving_up:  # a reason that is just being reported is reported before this ends
            if self._thread is None or self._given_up:
                return
        self._put(None)
        self._thread.join(patience)
        if self._thread.is_alive():
            self._give_up(f"does not finish in {patience:g} s")

    def _log(self, content: Callable[[], dict[str, Any]], images: int) -> None:
        if self._thread is not None and not self._given_up and not self.later:
            self._put(lambda: self._run is not None and self._run.log(content(), step=images))

    def _put(self, work: Callable[[], Any] | None) -> None:
        try:
            self._work.put_nowait(work)
        except queue.Full:
            self._give_up("does not answer")

    def _serve(self) -> None:
        while not self._given_up:
            work = self._work.get()
            try:
                if work is None:
                    if self._run is not None:
                        self._run.finish()
                    return
                work()
            except Exception as error:  # whatever a tracker raises, training is worth more
                self._give_up(f"{type(error).__name__}: {error}")

    def _give_up(self, reason: str) -> None:
        with self._giving_up:
            if not self._given_up:
                self._given_up, self._run = True, None
                self._started.set()
                self._failed(f"W&B: {reason}; `gan-dist track {self._directory}` brings it up to date later")


def leet(directory: Path) -> str:
    """Return the command that shows, in the terminal, what W&B wrote into a run directory."""
    return f"wandb leet {directory / 'wandb'}"


def project(config: Config) -> str:
    """Return W&B's project: `track.project`, else WANDB_PROJECT, else gan_dist."""
    return config.track.project or os.environ.get("WANDB_PROJECT") or "gan_dist"


@contextlib.contextmanager
def _arguments(command: Sequence[str] | None) -> Iterator[None]:
    """While it lasts W&B, which records sys.argv and has no setting for it, reads a command line without secrets."""
    before = sys.argv
    sys.argv = [redact(word) for word in (before if command is None else command or ["unknown"])]
    try:
        yield
    finally:
        sys.argv = before


def mode_of(wanted: str) -> str:
    """W&B's mode: `track.wandb` as it is; for `auto` WANDB_MODE, else online where W&B has a key, else offline.

    Raises RuntimeError for online without a key: on a terminal W&B would ask for one, and wait without end.
    """
    import wandb

    if wanted == "auto":
        wanted = os.environ.get("WANDB_MODE") or "auto"
    if wanted not in ("auto", "online"):
        return wanted
    wandb.setup(wandb.Settings(silent=True, mode="online"))
    # looks wherever W&B does (WANDB_API_KEY, netrc, its settings; hosts change), and asks neither user nor server
    if wandb.login(prompt=False, verify=False):
        return "online"
    if wanted == "online":
        raise RuntimeError("track.wandb is online and W&B has no key: run `wandb login`, or set track.wandb: offline")
    return "offline"
