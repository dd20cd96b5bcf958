"""Build a W&B run again from the files of a run: metrics.jsonl, samples/ and media/ are the truth, W&B a view of them."""

import contextlib
import datetime
import json
import queue
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gan_dist import config as config_module, files
from gan_dist.config import Config
from gan_dist.errors import InputError
from gan_dist.tracking import news
from gan_dist.tracking.weights_and_biases import WeightsAndBiases, leet, mode_of

_PATIENCE = 24 * 3600.0  # seconds
_VIEW = ".wandb-leet.json"  # how `wandb leet` shows a folder; it writes the person's own changes there
_FIRST = "speed/images_per_second"


def rebuild(directory: Path, mode: str = "auto", run_id: str = "", patience: float = _PATIENCE) -> tuple[int, str]:
    """Log all figures, sample grids and panels of a run to W&B; return how many lines, and where they are seen.

    `run_id` names another W&B run than the run's own. An online run takes what is beyond what it has already. Offline, the
    folders that earlier starts left under this id give way to one. Raises InputError where the directory holds no run,
    or W&B cannot be reached or takes longer than `patience` seconds.
    """
    if not (directory / "config.yaml").exists():
        raise InputError(f"{directory} is no run directory (no config.yaml in it); give a folder that training made")
    config, recorded = config_module.read_run(directory)
    lines = [line for line in files.read_json_lines(directory / "metrics.jsonl") if "images" in line]
    if not lines:
        raise InputError(f"{directory} has no figures yet (metrics.jsonl)")
    try:
        mode = mode_of(mode)
    except RuntimeError as error:  # online, and no key
        raise InputError(str(error)) from None
    config = config.with_({"track.wandb": mode})
    run_id = run_id or str(recorded["wandb_id"])
    if mode != "offline":
        return len(lines), _write(directory, directory, config, run_id, lines, patience)
    with _aside(directory) as folder:
        _write(directory, folder, config, run_id, lines, patience)
        _replace(directory, folder, run_id, recorded)
    _arrange(directory / "wandb", config)
    return len(lines), leet(directory)


def _write(
    directory: Path, folder: Path, config: Config, run_id: str, lines: list[dict[str, Any]], patience: float
) -> str:
    """Let W&B write the run into a folder; return where it is seen."""
    pictures = news.pictures(directory)
    # W&B takes no position below the last one; of one position the figures come first
    entries = [(line["images"], 0, line) for line in lines] + [(found[0], 1, found) for found in pictures]
    problems: list[str] = []
    places: list[str] = []
    board = WeightsAndBiases(
        directory, config, run_id, problems.append, places.append, queue.Queue(), _command(directory), folder
    )
    entries.sort(key=lambda entry: entry[:2])
    for images, _, entry in entries:
        if isinstance(entry, dict):
            figures = {name: value for name, value in entry.items() if value is not None}
            board.metrics(images, {name: value for name, value in figures.items() if name not in ("images", "step")})
        else:
            board.media(*entry)
    board.events(entries[-1][0], directory / "events.jsonl")
    board.close(patience)
    if problems or not places:
        raise InputError(problems[0].partition(";")[0] if problems else "W&B is disabled (WANDB_MODE)")
    return places[0]


@contextlib.contextmanager
def _aside(directory: Path) -> Iterator[Path]:
    """Make a folder for W&B to write into, which is gone afterwards: a reader sees the old run or the new one."""
    folder = directory / ".wandb-new"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        (folder / "wandb").mkdir(parents=True)
        yield folder
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror})") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _replace(directory: Path, folder: Path, run_id: str, recorded: Mapping[str, Any]) -> None:
    """Put the run that W&B wrote into RUN/wandb, in the place of all folders of its id."""
    target = directory / "wandb"
    target.mkdir(exist_ok=True)
    (written,) = _folders(folder / "wandb", run_id)
    # the same name each time: leet remembers which runs a person chose by it
    name = f"offline-run-{_stamp(recorded) or written.name.split('-')[2]}-{run_id}"
    for old in _folders(target, run_id):
        shutil.rmtree(old)
    written.rename(target / name)
    latest = target / "latest-run"
    latest.unlink(missing_ok=True)
    latest.symlink_to(name)


def _folders(folder: Path, run_id: str) -> list[Path]:
    """Return what W&B wrote offline of a run, and of no other whose id ends alike."""
    name = re.compile(rf"offline-run-\d+_\d+-{re.escape(run_id)}")
    return [path for path in folder.iterdir() if name.fullmatch(path.name)]


def _stamp(recorded: Mapping[str, Any]) -> str:
    """Return when the run was created, as W&B writes it in names of folders; empty where that is not known."""
    try:
        created = datetime.datetime.fromisoformat(str(recorded["created"]))
    except (KeyError, ValueError):
        return ""
    return created.astimezone().strftime("%Y%m%d_%H%M%S")


def _arrange(folder: Path, config: Config) -> None:
    """Let `wandb leet` begin with losses, scores and speed: it sorts charts by name and can only leave some out.

    What a person changed there stays.
    """
    scores = [re.escape(name) for name in dict(getattr(config.evaluate, "scores", {}))]
    quality = [f"score/({'|'.join(scores)})(/|$)"] if scores else ["score/(real|fake|gap)$", "collapse/diversity$"]
    pattern = "|".join(["^loss/", *(f"^{each}" for each in quality), f"^{_FIRST}$"])
    with contextlib.suppress(OSError):
        if not (folder / _VIEW).exists():
            files.write_atomic(folder / _VIEW, json.dumps({"metrics_filter": {"query": pattern}}, indent=2) + "\n")


def _command(directory: Path) -> list[str]:
    """Return the command line of the run's last start; empty where none was recorded."""
    commands = [
        line["command"] for line in files.read_json_lines(directory / "environment.jsonl") if line.get("command")
    ]
    return [str(word) for word in commands[-1]] if commands else []
