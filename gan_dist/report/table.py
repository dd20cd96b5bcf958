"""Show many runs as a table: a row for each."""

import datetime
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gan_dist import run_status, units
from gan_dist.report import events, facts
from gan_dist.slurm_jobs import records

Report = dict[str, Any]
_LAST = float("inf")
"""Sorts what is not known behind everything else."""


def describe(run: Path) -> Report:
    """Return how a run stands, with the bytes of its folder and the seconds since it was last heard of (null: never)."""
    report = run_status.read(run)
    heard = max(records.time_of(record) for record in (*report["events"], report))
    age = datetime.datetime.now(datetime.UTC).timestamp() - heard if heard else None
    return {**report, "bytes": _size(run), "age_seconds": None if age is None else round(age)}


def _state(report: Report) -> str:
    return "lost" if report["lost"] else str(report["state"])


def _worth(report: Report, found: Report | None, name: str) -> tuple[str, float]:
    """Sort scores of one name together, the best first."""
    if not found or not isinstance(found.get("value"), int | float):
        return "~", _LAST
    short = str(found[name]).removeprefix(facts.GROUP)
    return short, -found["value"] if found["better"] == "higher" else found["value"]


_KEYS: dict[str, Callable[[Report], Any]] = {
    "name": lambda report: report["run"],
    "state": _state,
    "images": lambda report: -report["images"],
    "rate": lambda report: -report["images_per_second"],
    "score": lambda report: _worth(report, report["score"], "name"),
    "best": lambda report: _worth(report, report["best"], "score"),
    "event": lambda report: -records.time_of(report["events"][-1]) if report["events"] else _LAST,
    "size": lambda report: -report["bytes"],
    "age": lambda report: _LAST if report["age_seconds"] is None else report["age_seconds"],
}


def sorted_by(reports: Sequence[Report], column: str) -> list[Report]:
    """Return the runs in the order of a column, runs that are alike in it by name."""
    return sorted(reports, key=lambda report: (_KEYS[column](report), report["run"]))


def lines(reports: Sequence[Report]) -> list[str]:
    """Return the table; columns that are empty for all runs are left out."""
    rows = [_row(report) for report in reports]
    names = [name for name in rows[0] if any(row[name] for row in rows)]
    table = [{name: name for name in names}, *rows]
    widths = [max(len(row[name]) for row in table) for name in names]
    return [
        "  ".join(row[name].ljust(width) for name, width in zip(names, widths, strict=True)).rstrip() for row in table
    ]


def _row(report: Report) -> dict[str, str]:
    share = f" ({100 * report['images'] / report['of']:.0f} %)" if report["of"] else ""
    return {
        "run": report["run"],
        "state": _state(report),
        "images": f"{report['images']:,}{share}",
        "rate": f"{report['images_per_second']:,.0f}/s",
        "score": _short(report["score"], "name"),
        "best": _short(report["best"], "score"),
        "alarm": run_status.alarms_in_words(report),
        "last event": str(report["events"][-1].get("event", "?")) if report["events"] else "no event yet",
        "size": units.size(report["bytes"]),
        "age": age(report["age_seconds"]),
    }


def _short(found: Report | None, name: str) -> str:
    """Return a score as `kid 0.03 at 200,000`."""
    if not found:
        return ""
    short = str(found[name]).removeprefix(facts.GROUP)
    return f"{short} {events.number(found['value'])} at {facts.whole(found['images']):,}"


def age(seconds: float | None) -> str:
    """Return how long ago something was, in its largest unit: 3 days."""
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1)):
        if seconds is not None and (seconds >= size or unit == "second"):
            return units.count(int(max(0, seconds) // size), unit)
    return ""


def _size(folder: Path) -> int:
    """Return the bytes of all files below a folder; those that vanish meanwhile count nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except OSError:
                continue
    return total
