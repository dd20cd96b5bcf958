"""Weights & Biases: one run over all resumes, everything drawn against `images`. It can never fail the run."""

import netrc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gan_dist.config import Config

_INIT_SECONDS = 30  # without network W&B gives up after this long


class Board:
    """A W&B run, or nothing where it is disabled or has failed; `failed` is told the reason once."""

    def __init__(self, directory: Path, config: Config, wandb_id: str, failed: Callable[[str], None]) -> None:
        self._failed = failed
        self._run: Any = None
        mode = _mode(config.track.wandb)
        if mode != "disabled":
            self._attempt(lambda: self._start(directory, config, wandb_id, mode))

    @property
    def address(self) -> str:
        """The run's page; empty where it is offline."""
        return str(self._run.url) if self._run is not None and not self._run.offline else ""

    def _start(self, directory: Path, config: Config, wandb_id: str, mode: str) -> None:
        import wandb

        self._run = wandb.init(
            project=config.track.project,
            name=config.run.name,
            id=wandb_id,
            resume="allow",
            dir=directory,
            mode=mode,  # type: ignore[arg-type]
            config=config.flat(),
            settings=wandb.Settings(init_timeout=_INIT_SECONDS, silent=mode == "offline", console="off"),
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
        """Do it; on any error report it and go on without W&B."""
        try:
            work()
        except Exception as error:  # whatever a tracker raises, training is worth more
            self._run = None
            self._failed(f"{type(error).__name__}: {error}")


def _mode(wanted: str) -> str:
    """The mode of `track.wandb`; WANDB_MODE goes before `auto`."""
    if wanted != "auto":
        return wanted
    if os.environ.get("WANDB_MODE"):
        return os.environ["WANDB_MODE"]
    return "online" if os.environ.get("WANDB_API_KEY") or _has_login() else "offline"


def _has_login() -> bool:
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
