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
    kept, text = [], path.read_text()
    for line in text.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            if json.loads(line)["images"] <= start:
                kept.append(line + "\n")
    if "".join(kept) != text:
        files.write_atomic(path, "".join(kept))


def write_metrics(path: Path, images: int, step: int, values: dict[str, float]) -> None:
    """Append one line of figures, rounded to 7 digits; what is not finite is null, which JSON can say."""
    rounded = {name: float(f"{value:.7g}") if math.isfinite(value) else None for name, value in values.items()}
    _append(path, {"images": images, "step": step, **rounded})


def write_event(path: Path, kind: str, images: int, rank: int, details: dict[str, Any]) -> None:
    """Append what happened. Any rank may: a line is one write to the file's end."""
    _append(path, {"time": _now(), "rank": rank, "images": images, "event": kind, **details})


def write_status(path: Path, **facts: Any) -> None:
    """Replace the run's state, whole, for scripts."""
    files.write_json(path, {**facts, "time": _now(), "host": os.uname().nodename, "pid": os.getpid()})


def _append(path: Path, record: dict[str, Any]) -> None:
    line = json.dumps(record, default=str) + "\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
