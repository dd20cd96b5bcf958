"""Decide what a person is told of while away, how urgent it is, and in which words. W&B sends it by mail or chat."""

import dataclasses
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from gan_dist import files
from gan_dist.redaction import redact

Level = Literal["INFO", "WARN", "ERROR"]
_LONGEST = 600  # characters
_FINAL = ("STOP", "run.deadline")  # of reasons that hold for a later start of the job too


@dataclasses.dataclass(frozen=True)
class Rule:
    """How an event is told."""

    level: Level
    wait: float = 0.0
    """Seconds in which no other one of its kind is sent."""


RULES: dict[str, Rule] = {
    "failed": Rule("ERROR"),
    "save failed": Rule("ERROR", 3600.0),
    "desync": Rule("ERROR"),
    "disk": Rule("WARN", 3600.0),
    "suspect": Rule("WARN"),
    "slow": Rule("WARN", 3600.0),
    "went back": Rule("WARN"),
    "clear": Rule("INFO"),
    "stopped": Rule("INFO"),
    "finished": Rule("INFO"),
}
"""Events that are told, by their kind in events.jsonl. A new one is one entry; all others stay in that file."""


@dataclasses.dataclass(frozen=True)
class About:
    """What the words need of a run."""

    directory: Path
    checkpoint: str | None
    """The newest whole one."""
    hours: float
    """Since this start."""
    requeued: bool
    """Whether it runs in a job of slurm/, which is queued again when it was stopped."""


def words(kind: str, images: int, details: Mapping[str, Any], about: About) -> str:
    """Return the text of an alert: one paragraph, without secrets."""
    said = "; ".join(f"{name} {value}" for name, value in details.items() if name != "reason" and value is not None)
    parts = [f"{about.directory} {kind} at {images:,} images."]
    if reason := details.get("reason"):
        parts.append(f"{str(reason).rstrip('.')}.")
    if said:
        parts.append(f"{said}.")
    if kind == "failed":
        parts.append(f"Newest checkpoint: {about.checkpoint or 'none'}. To go on: {command()}")
    if kind == "stopped":
        by_itself = about.requeued and not any(word in str(details.get("reason")) for word in _FINAL)
        parts.append("The job is queued again by itself." if by_itself else f"To go on: {command()}")
    if kind == "finished":
        parts.append(f"{_best(about.directory)} {about.hours:.1f} hours. Report: {about.directory / 'report.html'}")
    text = redact(" ".join(" ".join(parts).split()))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def command() -> str:
    """Return the command line of this process, as a person types it."""
    return redact(shlex.join(sys.argv))


def _best(directory: Path) -> str:
    """Return the best score, of the last event that names one."""
    best = [line for line in files.read_json_lines(directory / "events.jsonl") if line.get("event") == "best"]
    if not best:
        return "No score chose a checkpoint."
    return f"Best: {best[-1].get('score')} {best[-1].get('value')} of {best[-1].get('checkpoint')}."
