"""Weights & Biases: one run over all resumes, everything drawn against `images`. It can never fail the run."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gan_dist.config import Config

_INIT_SECONDS = 30  # without network W&B gives up after this long
_FINISH_SECONDS = 60  # an upload that takes longer at the end is left to `wandb sync`


class Board:
    """A W&B run, or nothing where it is disabled or has failed; `failed` is told the reason once."""

    def __init__(self, directory: Path, config: Config, wandb_id: str, failed: Callable[[str], None]) -> None:
        self._directory = directory
        self._failed = failed
        self._run: Any = None
        if config.track.wandb != "disabled":
            self._attempt(lambda: self._start(config, wandb_id))

    @property
    def place(self) -> str:
        """Where the run is seen: its page, or the command that shows it from the files; empty where there is no run."""
        if self._run is None:
            return ""
        return leet(self._directory) if self._run.offline else str(self._run.url)

    def _start(self, config: Config, wandb_id: str) -> None:
        import wandb

        mode = _mode(config.track.wandb)
        if mode == "disabled":
            return
        self._run = wandb.init(
            project=config.track.project,
            name=config.run.name,
            id=wandb_id,
            resume="allow",
            dir=self._directory,
            mode=mode,  # type: ignore[arg-type]
            config=config.flat(),
            settings=wandb.Settings(  # silent: the console is ours, and Tracker says where the run is seen
                init_timeout=_INIT_SECONDS, finish_timeout=_FINISH_SECONDS, silent=True, console="off"
            ),
        )
        self._run.define_metric("images")
        self._run.define_metric("*", step_metric="images")

    def metrics(self, images: int, values: dict[str, float]) -> None:
        # step= because an offline run that is resumed counts from 0 again
        self._log(lambda: {"images": images, **values}, images)

    def picture(self, images: int, path: Path) -> None:
        def content() -> dict[str, Any]:
            import wandb

            return {"images": images, "samples/grid": wandb.Image(str(path))}

        self._log(content, images)

    def close(self) -> None:
        if self._run is not None:
            self._attempt(self._run.finish)
        self._run = None

    def _log(self, content: Callable[[], dict[str, Any]], images: int) -> None:
        if self._run is not None:
            self._attempt(lambda: self._run.log(content(), step=images))

    def _attempt(self, work: Callable[[], Any]) -> None:
        """Do it; on any error report it and go on without W&B. A limit on calls that hang belongs here."""
        try:
            work()
        except Exception as error:  # whatever a tracker raises, training is worth more
            self._run = None
            self._failed(f"W&B: {type(error).__name__}: {error}")


def leet(directory: Path) -> str:
    """The command that shows what W&B wrote into a run directory, in the terminal."""
    return f"wandb leet {directory / 'wandb'}"


def _mode(wanted: str) -> str:
    """W&B's mode: `track.wandb` as it is; for `auto` WANDB_MODE, else online where W&B has a key, else offline.

    Raises RuntimeError for online without a key: on a terminal W&B would ask for one, and wait for ever.
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
