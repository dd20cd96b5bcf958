"""Write a run's figures and pictures to trackio, from the run's own files."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gan_dist import config as config_module, files
from gan_dist.config import Config
from gan_dist.errors import InputError
from gan_dist.redaction import redact_all
from gan_dist.tracking import media, news
from gan_dist.tracking.weights_and_biases import project

_STATE = "trackio.json"


def write(directory: Path) -> tuple[int, int, str]:
    """Bring trackio's run up to date; return how many lines and pictures were new, and the command that shows them.

    Raises InputError without the package trackio, and where it cannot write.
    """
    trackio = _library()
    config, recorded = config_module.read_run(directory)
    name, shown = project(config), f"trackio show --project {project(config)}"
    state = news.load_state(directory / _STATE)
    run = state.get("run") if isinstance(state.get("run"), str) and state.get("project") == name else None
    if run is not None and run not in _runs(trackio, name):  # somebody deleted it
        run = None
    found = news.read(directory, state if run else {})
    if not found:
        return 0, 0, shown
    try:
        with _quietly():
            if found.anew and run:
                _runs(trackio, name)[run].delete()
                run = None
            made = _start(trackio, config, name, run, str(recorded.get("wandb_id", "")))
            _fill(trackio, made, found)
            trackio.finish()  # not of the run: else it would finish it again at exit
        files.write_json(directory / _STATE, {**found.state, "project": name, "run": str(made.name)})
    except OSError as error:
        raise InputError(f"{error.filename or directory} cannot be written: {error.strerror or error}") from None
    return len(found.lines), len(found.pictures), shown


def _start(trackio: Any, config: Config, name: str, run: str | None, own: str) -> Any:
    """Go on with a run, or begin one under a name that no other run of the project has."""
    taken = _runs(trackio, name)
    names = (config.run.name, *(f"{config.run.name}-{each}" for each in (own, *range(2, len(taken) + 3)) if each))
    free = next(each for each in names if each not in taken)
    try:
        return trackio.init(
            project=name,
            name=run or free,
            config=redact_all(config.flat()),
            resume="must" if run else "never",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
    except (ValueError, RuntimeError) as error:  # a name that it does not take
        raise InputError(f"trackio: {error}") from None


def _fill(trackio: Any, run: Any, found: news.News) -> None:
    for line in found.lines:
        run.log({name: value for name, value in line.items() if name != "images"}, step=int(line["images"]))
    for images, name, path in found.pictures:
        with contextlib.suppress(OSError, InputError):  # broken, or the run went back meanwhile
            run.log({name: _shown(trackio, images, path)}, step=images)
    if found.events:
        rows = [dict(zip(("time", "images", "event", "details"), event, strict=True)) for event in found.events]
        run.log({"events": trackio.Table(data=rows)}, step=found.last)


def _shown(trackio: Any, images: int, path: Path) -> Any:
    if path.suffix == ".png":
        return trackio.Image(str(path), caption=media.caption(path) or f"{images:,} images")
    content = media.read(path)
    if isinstance(content, media.Table):
        return trackio.Table(columns=list(content.columns), data=[list(row) for row in content.rows])
    return trackio.Histogram(np_histogram=(np.asarray(content.counts), np.asarray(content.edges)))


def _runs(trackio: Any, name: str) -> dict[str, Any]:
    """Return the runs of a project by name."""
    try:
        return {run.name: run for run in trackio.Api().runs(name)}
    except ValueError:  # there is no such project
        return {}


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep trackio's lines from the terminal while it lasts. Raises InputError for what it only warns of: figures it lost."""
    with warnings.catch_warnings(record=True) as told, contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("always")
        yield
    for warning in told:
        if "trackio" in warning.filename and not issubclass(warning.category, DeprecationWarning | FutureWarning):
            raise InputError(f"trackio: {' '.join(str(warning.message).split())[:300]}")


def _library() -> Any:
    try:
        import trackio
    except ImportError:
        raise InputError("--to trackio needs the package trackio: pip install trackio") from None
    return trackio
