"""What is written about a run, line by line: the truth that every dashboard can be rebuilt from."""

import contextlib
import datetime
import json
import math
import os
from pathlib import Path
from typing import Any

from gan_dist import files


def open_metrics(path: Path, start: int) -> None:
    """Make `path` end at position `start`: lines of later positions, and a torn last line, are dropped."""
    if not path.exists():
        return
    kept, text = [], path.read_text(errors="replace")  # a torn block may hold anything
    for line in text.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            if json.loads(line)["images"] <= start:
                kept.append(line + "\n")
    if "".join(kept) != text:
        files.write_atomic(path, "".join(kept))


def write_metrics(path: Path, images: int, step: int, values: dict[str, float]) -> None:
    """Append one line of figures, rounded to 7 significant digits."""
    rounded = {name: float(f"{value:.7g}") for name, value in values.items()}
    _append(path, {"images": images, "step": step, **rounded})


def write_event(path: Path, kind: str, images: int, rank: int, details: dict[str, Any]) -> None:
    """Append what happened. Any rank may: a line is one write to the file's end."""
    _append(path, {"time": _now(), "rank": rank, "images": images, "event": kind, **details})


def write_environment(path: Path, images: int, facts: dict[str, Any]) -> None:
    """Append what a start of the run runs on."""
    _append(path, {"time": _now(), "images": images, **facts})


def write_status(path: Path, **facts: Any) -> None:
    """Replace the run's state, whole, for scripts."""
    files.write_json(path, _plain({**facts, "time": _now(), "host": os.uname().nodename, "pid": os.getpid()}))


def _append(path: Path, record: dict[str, Any]) -> None:
    line = json.dumps(_plain(record), default=str) + "\n"
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = (
                "\n" + line
            )  # a kill or a full disk tore the last line: it stays one bad line, and takes no other along
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def _plain(value: Any) -> Any:
    """The same with null for every number that is not finite, which JSON cannot say."""
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
