"""Make W&B's objects of the files of a run: what it shows is what they hold."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gan_dist import files
from gan_dist.redaction import redact
from gan_dist.tracking import grid, media

GRID = "samples/grid"
_SINGLE = 8  # samples that W&B's page shows one by one: it cannot enlarge a part of a grid
_FEW = 9  # of a grid that a terminal can show
_EVENTS = 1000  # the newest ones
_OWN = ("time", "rank", "images", "event")


def of_file(name: str, path: Path, images: int, terminal: bool = False) -> dict[str, Any]:
    """Return what to log for a file of RUN/media or RUN/samples, by name.

    Beside a grid there are single samples of it, and for a terminal a few of them as a small one. Raises FileNotFoundError.
    """
    import wandb

    if path.suffix != ".png":
        return {name: _of_json(path)}
    caption, own = f"{images:,} images", media.caption(path)
    if not name.startswith("samples/"):
        return {name: wandb.Image(str(path), caption=own or caption)}
    about = own if name.endswith("/reals") else f"{caption}, {own}" if own else caption
    found: dict[str, Any] = {name: wandb.Image(str(path), caption=about)}
    if name == GRID and len(samples := grid.cut(path, _FEW)) > 1:
        if terminal:
            found["samples/9"] = wandb.Image(grid.join(samples), caption=caption)
        found["samples/single"] = [
            wandb.Image(sample, caption=f"{caption}, sample {number}")
            for number, sample in enumerate(samples[:_SINGLE])
        ]
    return found


def _of_json(path: Path) -> Any:
    import wandb

    content = media.read(path)
    if isinstance(content, media.Table):
        rows = [list(row) for row in content.rows]
        return wandb.Table(columns=list(content.columns), data=rows, allow_mixed_types=True)
    return wandb.Histogram(np_histogram=(np.asarray(content.counts), np.asarray(content.edges)))


def events(path: Path) -> list[tuple[str, int, str, str]]:
    """Return the newest events of events.jsonl as rows: time, images, event, details in words."""
    rows = []
    for line in files.read_json_lines(path)[-_EVENTS:]:
        details = "  ".join(f"{name} {value}" for name, value in line.items() if name not in _OWN and value is not None)
        with contextlib.suppress(TypeError, ValueError):  # a torn or edited line
            rows.append(
                (str(line.get("time")), int(line["images"]), str(line["event"]), redact(" ".join(details.split())))
            )
    return rows


def event_table(rows: Sequence[tuple[str, int, str, str]]) -> Any:
    """Return W&B's table of events."""
    import wandb

    return wandb.Table(columns=["time", "images", "event", "details"], data=[list(row) for row in rows])
