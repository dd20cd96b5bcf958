"""A W&B run made anew from the files of a run: metrics.jsonl is the truth, W&B a view of it."""

import json
import queue
from pathlib import Path

from gan_dist import config as config_module
from gan_dist.errors import InputError
from gan_dist.tracking.weights_and_biases import WeightsAndBiases

_GRID = "images-*.png"


def rebuild(directory: Path, mode: str = "auto", run_id: str = "") -> tuple[int, str]:
    """Log all of metrics.jsonl and the sample grids to W&B; how many lines, and where they are seen.

    `run_id` names another W&B run than the run's own. An online run takes what is beyond what it has already.
    Raises InputError where the directory holds no run, or W&B cannot be reached.
    """
    if not (directory / "config.yaml").exists():
        raise InputError(f"{directory} is no run directory (no config.yaml in it); give a folder that training made")
    config, recorded = config_module.read_run(directory)
    config = config.with_({"track.wandb": mode})
    lines = []
    metrics = directory / "metrics.jsonl"
    for text in metrics.read_text().splitlines() if metrics.exists() else ():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue  # torn by a kill; the run's next start drops it
    if not lines:
        raise InputError(f"{directory} has no figures yet (metrics.jsonl)")
    grids = {int(path.stem.removeprefix("images-")): path for path in (directory / "samples").glob(_GRID)}
    problems: list[str] = []
    places: list[str] = []
    board = WeightsAndBiases(
        directory, config, run_id or str(recorded["wandb_id"]), problems.append, places.append, queue.Queue()
    )
    for line in lines:
        values = {name: value for name, value in line.items() if value is not None and name not in ("images", "step")}
        board.metrics(line["images"], values)
        if line["images"] in grids:
            board.picture(line["images"], grids.pop(line["images"]))
    board.close(patience=24 * 3600.0)
    if problems or not places:
        raise InputError(problems[0].partition(";")[0] if problems else "W&B is disabled (WANDB_MODE)")
    return len(lines), places[0]
