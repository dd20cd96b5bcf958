"""Write a run's figures and pictures as TensorBoard's files, from the run's own."""

import contextlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gan_dist import config as config_module, files
from gan_dist.config import Config
from gan_dist.errors import InputError
from gan_dist.redaction import redact_all
from gan_dist.tracking import media, news

FOLDER = "tensorboard"
_STATE = "written.json"
_EVENTS = "events.out.tfevents.*"


def write(directory: Path) -> tuple[int, int, str]:
    """Bring RUN/tensorboard up to date; return how many lines and pictures were new, and the command that shows them.

    What is new goes into a file of its own, which counts once it is complete: a call that is killed is made up for by the
    next one. Raises InputError without the package tensorboard, and where nothing can be written.
    """
    make_writer = _library()
    config, _ = config_module.read_run(directory)
    folder = directory / FOLDER
    state = news.load_state(folder / _STATE)
    complete = [name for name in state.get("files", []) if isinstance(name, str) and (folder / name).is_file()]
    if len(complete) < len(state.get("files", [])):  # somebody removed some
        state, complete = {}, []
    found = news.read(directory, state)
    shown = f"tensorboard --logdir {folder}"
    if not found:
        return 0, 0, shown
    files.make_directory(folder, "TensorBoard's folder")
    if found.anew:
        complete = []
    try:
        for path in folder.glob(_EVENTS):
            if path.name not in complete and not found.anew:  # of a call that was killed
                path.unlink()
        before = set(folder.glob(_EVENTS))
        with _told_once(), contextlib.closing(make_writer(str(folder))) as writer:
            _fill(writer, directory, config, found, first=not complete)
        (made,) = set(folder.glob(_EVENTS)) - before
        files.write_json(folder / _STATE, {**found.state, "files": [*complete, made.name]})
        for path in before if found.anew else ():
            path.unlink()
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror or error}") from None
    return len(found.lines), len(found.pictures), shown


@contextlib.contextmanager
def _told_once() -> Iterator[None]:
    """Keep the traceback of TensorBoard's thread from the terminal: what it could not write is raised here too."""
    before = threading.excepthook
    threading.excepthook = lambda told: None if told.exc_type and issubclass(told.exc_type, OSError) else before(told)
    try:
        yield
    finally:
        threading.excepthook = before


def _fill(writer: Any, directory: Path, config: Config, found: news.News, first: bool) -> None:
    when = news.clock(directory)
    if first:
        keys = redact_all(config.flat())
        writer.add_text("config", _table(("key", "value"), keys.items()), 0, when(0))
    for line in found.lines:
        images = int(line["images"])
        for name, value in line.items():
            if name != "images":
                writer.add_scalar(name, value, images, when(images))
    for images, name, path in found.pictures:
        try:
            _show(writer, images, name, path, when(images))
        except (OSError, InputError):  # broken, or the run went back meanwhile, and the file with it
            continue
    if found.events:
        table = _table(("time", "images", "event", "details"), found.events)
        writer.add_text("events", table, found.last, when(found.last))


def _table(columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return a table in Markdown; a bar in a cell ends no cell."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _show(writer: Any, images: int, name: str, path: Path, time: float) -> None:
    if path.suffix == ".png":
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGBA" if "A" in picture.mode else "RGB"))
        writer.add_image(name, pixels, images, time, dataformats="HWC")
        return
    content = media.read(path)
    if isinstance(content, media.Table):
        writer.add_text(name, _table(content.columns, content.rows), images, time)
        return
    counts, edges = np.asarray(content.counts, float), np.asarray(content.edges, float)
    middles = (edges[1:] + edges[:-1]) / 2
    writer.add_histogram_raw(
        name,
        min=float(edges[0]),
        max=float(edges[-1]),
        num=float(counts.sum()),
        sum=float((counts * middles).sum()),
        sum_squares=float((counts * middles**2).sum()),
        bucket_limits=edges[1:].tolist(),
        bucket_counts=counts.tolist(),
        global_step=images,
        walltime=time,
    )


def _library() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError(
            "--to tensorboard needs the package tensorboard: pip install 'gan_dist[tensorboard]'"
        ) from None
    return SummaryWriter
