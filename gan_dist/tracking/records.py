"""Write what is known about a run, line by line: the truth that every dashboard can be rebuilt from."""

import contextlib
import datetime
import errno
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gan_dist import files
from gan_dist.files import plain as _plain

_LONGEST = 1 << 20  # bytes of a line of metrics.jsonl


def open_metrics(path: Path, start: int) -> None:
    """Drop lines of positions after `start`, and a torn last line."""
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
    """Write figures of a position, rounded to 7 significant digits: a line of their own, or more figures of the last line.

    A position has one line, shared by all reports. Raises OSError, with the old lines as they were.
    """
    rounded = {name: float(f"{value:.7g}") for name, value in values.items()}
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)  # no O_APPEND: with it pwrite ignores the offset
    try:
        size = os.fstat(descriptor).st_size
        tail = os.pread(descriptor, _LONGEST, max(0, size - _LONGEST))
        last = tail[tail.rfind(b"\n", 0, -1) + 1 :]
        whole = last.endswith(b"\n")
        record = _parse(last) if whole else {}
        replaced = last if record.get("images") == images else b""
        if not replaced:
            record = {"images": images, "step": step}
        # a kill or a full disk tore the last line: it stays one bad line, and spoils no other
        line = (b"" if whole or not last else b"\n") + json.dumps(_plain({**record, **rounded})).encode() + b"\n"
        _replace_end(descriptor, size - len(replaced), replaced, line)
    finally:
        os.close(descriptor)


def _replace_end(descriptor: int, offset: int, old: bytes, new: bytes) -> None:
    """Put `new` where the file ends by `old`; the old end stays where the disk takes no more (OSError)."""
    try:
        if os.pwrite(descriptor, new, offset) < len(new):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if len(new) < len(old):
            os.ftruncate(descriptor, offset + len(new))
    except OSError:
        with contextlib.suppress(OSError):
            os.pwrite(descriptor, old, offset)
            os.ftruncate(descriptor, offset + len(old))
        raise


def write_event(path: Path, kind: str, images: int, rank: int, details: dict[str, Any]) -> None:
    """Append what happened. Every rank may call it: a line is one write to the file's end."""
    _append(path, {"time": _now(), "rank": rank, "images": images, "event": kind, **details})


def write_scores(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Append scores with their records to scores.jsonl, a line each."""
    for line in lines:
        _append(path, {"time": _now(), **line})


def write_environment(path: Path, images: int, facts: dict[str, Any]) -> None:
    """Append what one start of the run runs on."""
    _append(path, {"time": _now(), "images": images, **facts})


def write_status(path: Path, **facts: Any) -> None:
    """Replace the run's state as a whole, for scripts."""
    files.write_json(path, _plain({**facts, "time": _now(), "host": os.uname().nodename, "pid": os.getpid()}))


def _parse(line: bytes) -> dict[str, Any]:
    """Return the record of a line; empty where it is none."""
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _append(path: Path, record: dict[str, Any]) -> None:
    line = json.dumps(_plain(record), default=str) + "\n"
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            # a kill or a full disk tore the last line: it stays one bad line, and spoils no other
            line = "\n" + line
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
