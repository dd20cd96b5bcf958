"""Build a W&B run again from the files of a run: metrics.jsonl, samples/ and media/ are the truth, W&B a view of them."""

import queue
from pathlib import Path

from gan_dist import config as config_module, files
from gan_dist.errors import InputError
from gan_dist.tracking import media
from gan_dist.tracking.weights_and_biases import WeightsAndBiases

_GRID = "images-*.png"


def rebuild(directory: Path, mode: str = "auto", run_id: str = "") -> tuple[int, str]:
    """Log all figures, sample grids and panels of a run to W&B; return how many lines, and where they are seen.

    `run_id` names another W&B run than the run's own. An online run takes what is beyond what it has already.
    Raises InputError where the directory holds no run, or W&B cannot be reached.
    """
    if not (directory / "config.yaml").exists():
        raise InputError(f"{directory} is no run directory (no config.yaml in it); give a folder that training made")
    config, recorded = config_module.read_run(directory)
    config = config.with_({"track.wandb": mode})
    lines = [line for line in files.read_json_lines(directory / "metrics.jsonl") if "images" in line]
    if not lines:
        raise InputError(f"{directory} has no figures yet (metrics.jsonl)")
    pictures = [
        (int(path.stem.removeprefix("images-")), "samples/grid", path) for path in (directory / "samples").glob(_GRID)
    ]
    pictures += media.listed(directory / "media")
    # W&B takes no position below the last one; of one position the figures come first
    entries = [(line["images"], 0, line) for line in lines] + [(found[0], 1, found) for found in pictures]
    problems: list[str] = []
    places: list[str] = []
    board = WeightsAndBiases(
        directory,
        config,
        run_id or str(recorded["wandb_id"]),
        problems.append,
        places.append,
        queue.Queue(),
        command=_command(directory),
    )
    for images, _, entry in sorted(entries, key=lambda entry: entry[:2]):
        if isinstance(entry, dict):
            figures = {name: value for name, value in entry.items() if value is not None}
            board.metrics(images, {name: value for name, value in figures.items() if name not in ("images", "step")})
        else:
            board.media(*entry)
    board.close(patience=24 * 3600.0)
    if problems or not places:
        raise InputError(problems[0].partition(";")[0] if problems else "W&B is disabled (WANDB_MODE)")
    return len(lines), places[0]


def _command(directory: Path) -> list[str]:
    """Return the command line of the run's last start; empty where none was recorded."""
    commands = [
        line["command"] for line in files.read_json_lines(directory / "environment.jsonl") if line.get("command")
    ]
    return [str(word) for word in commands[-1]] if commands else []
