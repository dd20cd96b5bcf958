"""Write the report of some runs to a file, and that of a run at its end."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from gan_dist import files, units
from gan_dist.errors import InputError
from gan_dist.report import markdown, page, reading

PAGE = "report.html"
_log = logging.getLogger("gan_dist")


def make(runs: Sequence[Path], form: str) -> tuple[str, Path]:
    """Return the report of some runs as text (`html` or `md`), and the first run's directory.

    Raises InputError where one is no run, or has no figures yet.
    """
    found = [reading.read(run) for run in runs]
    names = [run.name for run in found]
    if len(set(names)) < len(names):  # the same name in two folders: told apart by the folders
        found = [reading.named(run, str(run.directory)) for run in found]
    return (page.html if form == "html" else markdown.text)(found), found[0].directory


def write(runs: Sequence[Path], out: Path | None = None, form: str = "html") -> Path:
    """Write the report and return its path: RUN/report.html of one run, report.html here of several, unless `out` says.

    Raises InputError where one is no run, has no figures yet, or the file cannot be written.
    """
    text, directory = make(runs, form)
    path = out or (directory / PAGE if len(runs) == 1 else Path(PAGE))
    if path.is_dir():
        path = path / PAGE
    try:
        files.write_atomic(path, text)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); give another file by --out") from None
    return path


@contextlib.contextmanager
def at_the_end(directory: Path, say: Callable[[str], None], wanted: bool) -> Iterator[None]:
    """Write the page of a run when it ends, however it does, and say where. Nothing that fails here changes that end."""
    try:
        yield
    finally:
        if wanted:
            try:
                path = write([directory])
                say(f"Report: {path} ({units.size(path.stat().st_size)})")
            except InputError as error:  # no figures yet, or a full disk
                _log.info("no report: %s", error)
            except Exception as error:
                _log.error("report:", exc_info=error)
                say(f"No report: {type(error).__name__}: {error}; `gan-dist report {directory}` tries again")
