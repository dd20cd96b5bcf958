"""What a run directory records about its jobs: their starts, how the run stands, and what failed first."""

import contextlib
import dataclasses
import datetime
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gan_dist import files
from gan_dist.run_directory import STARTS

_LAST_WORDS = 10  # lines that end the log of a job that failed


@dataclasses.dataclass(frozen=True)
class Start:
    """One start of the run by Slurm."""

    job: str
    restart: int
    images: int
    """Images that the run had at this start."""
    time: float
    nodes: str = ""
    commit: str = ""
    code: str = ""
    """Folder of the copy of the code that ran."""
    submission: str = ""
    """Name of what a person submitted once: a job with its restarts, or all jobs of a chain."""
    told: bool = False
    """Whether it was told to end before training began: such a start proves nothing about the run."""


def read_status(run: Path) -> dict[str, Any] | None:
    """Return status.json; None where the run has not begun, and empty where the file is torn or lost."""
    try:
        status = json.loads((run / "status.json").read_text(errors="replace"))
    except OSError:
        return {} if (run / "events.jsonl").exists() else None
    except ValueError:
        return {}
    return status if isinstance(status, dict) else {}


def images_of(status: Mapping[str, Any] | None) -> int:
    """Return the images of the newest checkpoint, where the next start continues."""
    name = str((status or {}).get("checkpoint") or "")
    digits = name.removeprefix("images-")
    return int(digits) if digits.isdecimal() else 0


def time_of(record: Mapping[str, Any]) -> float:
    """Return the time of a status or an event in seconds since 1970; 0 where it has none."""
    try:
        return datetime.datetime.fromisoformat(str(record["time"])).timestamp()
    except (KeyError, ValueError, OverflowError):
        return 0.0


def read_starts(run: Path) -> list[Start]:
    """Return all starts in order. A later line about a start (that it was told to end) replaces its first line."""
    starts: dict[tuple[str, float], Start] = {}
    for line in files.read_json_lines(run / STARTS):
        with contextlib.suppress(TypeError):
            start = Start(**line)
            if isinstance(start.time, int | float):
                starts[start.job, start.time] = start
    return list(starts.values())


def first_line(reason: object) -> str:
    """Return the first line of a reason: a CUDA error has several lines, an answer to a batch shell has one."""
    return next(iter(str(reason).splitlines()), "")


def record(run: Path, start: Start) -> None:
    """Append a start. Raises OSError where the run directory cannot be written."""
    run.mkdir(parents=True, exist_ok=True)
    with (run / STARTS).open("a") as file:
        file.write(json.dumps(dataclasses.asdict(start)) + "\n")
        file.flush()
        os.fsync(file.fileno())


def first_failure(run: Path, reasons: Sequence[str] = ()) -> list[str]:
    """Return the first failure of the last start, in ten lines at most.

    `reasons` are lines that ranks wrote before the run could write events (train.py).
    """
    last_start = max((start.time for start in read_starts(run)), default=0.0)
    failures: list[dict[str, Any]] = []
    for event in files.read_json_lines(run / "events.jsonl"):
        if event.get("event") in ("started", "resumed"):
            failures = []
        if event.get("event") == "failed" and ("time" not in event or time_of(event) >= last_start):
            failures.append(event)
    causes = [event for event in failures if "ended because rank" not in str(event.get("reason"))] or failures
    if not causes:
        return list(reasons[:_LAST_WORDS])
    event = causes[0]
    images = event.get("images")
    place = f"{images:,}" if isinstance(images, int | float) else images
    lines = [f"rank {event.get('rank')} at {place} images: {first_line(event.get('reason'))}"]
    log = run / "logs" / f"rank-{event.get('rank')}.txt"
    if log.exists():
        lines += log.read_text(errors="replace").splitlines()[-(_LAST_WORDS - 1) :]
    return lines
