"""How a run stands, read from its files alone: state, images, rate, time left, last events, checkpoints, first failure."""

import contextlib
import datetime
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gan_dist import config as config_module, files
from gan_dist.errors import InputError
from gan_dist.run_directory import LOCK, locate
from gan_dist.slurm_jobs import records

_EVENTS = 5
_SHOWN = {"time", "rank", "images", "event"}
"""Keys of an event that its line says by itself."""
_LONGEST = 160  # characters of an event's details


def read(run: Path) -> dict[str, Any]:
    """Return how a run stands, ready for JSON. Raises InputError where RUN is no run directory."""
    return of(locate(run))


def of(run: Path, reasons: Sequence[str] = ()) -> dict[str, Any]:
    """Return how the run in a directory stands, as far as its files tell: its first job may not have written all of them.

    `alive` says whether the process that status.json names still trains: null where it is on another machine. `reasons`
    are lines of ranks that failed before the run could write events.
    """
    status = records.read_status(run) or {}
    state, total = str(status.get("state", "unknown")), _total(run)
    figures, events = files.read_json_lines(run / "metrics.jsonl"), files.read_json_lines(run / "events.jsonl")
    last = figures[-1] if figures else {}
    images = int(status.get("images") or 0)
    if state in ("running", "unknown"):  # status.json is as old as the last save
        images = max(images, int(last.get("images") or 0))
    alive = _alive(run, status) if state == "running" else False
    # a line of scores alone has no rate
    measured = [line for line in figures if line.get("speed/images_per_second")]
    rate = float(measured[-1]["speed/images_per_second"]) if measured else 0.0
    checkpoints = sorted(path.parent.name for path in (run / "checkpoints").glob("images-*/manifest.json"))
    starts = [event for event in events if event.get("event") in ("started", "resumed")]
    return {
        "run": str(run),
        "state": state,
        "alive": alive,
        "reason": status.get("reason") or "",
        "images": images,
        "of": total,
        "images_per_second": rate,
        "eta_seconds": round((total - images) / rate) if rate and total and alive is not False else None,
        "checkpoint": checkpoints[-1] if checkpoints else None,
        "checkpoints": len(checkpoints),
        "starts": len(starts),
        "processes": status.get("processes"),
        "host": status.get("host"),
        "pid": status.get("pid"),
        "time": status.get("time"),
        "last_figures": last,
        "events": events[-_EVENTS:],
        "failure": [] if state == "finished" else records.first_failure(run, reasons),
    }


def lines(report: dict[str, Any]) -> list[str]:
    """Return the report as lines for a person."""
    eta = report["eta_seconds"]
    count = f"{report['images']:,}" + (f" of {report['of']:,}" if report["of"] else "")
    newest = f"{report['checkpoint']} (newest of {report['checkpoints']})" if report["checkpoint"] else "none yet"
    rows = {
        "run": report["run"],
        "state": state_in_words(report),
        "images": f"{count}, {report['images_per_second']:,.0f} images/s at the last report",
        "ETA": "-" if eta is None else str(datetime.timedelta(seconds=eta)),
        "saved": newest,
        "starts": f"{report['starts']:,}",
    }
    shown = [f"{name:8s}{text}" for name, text in rows.items()]
    if report["events"]:
        shown += ["last events:", *(f"  {event_in_words(event)}" for event in report["events"])]
    if report["failure"]:
        shown += ["first failure of the last start:", *(f"  {text}" for text in report["failure"])]
    return shown


def row(report: dict[str, Any]) -> Sequence[str]:
    """Return name, state, images, rate and last event: a row of `gan-dist runs`."""
    share = f" ({100 * report['images'] / report['of']:.0f} %)" if report["of"] else ""
    event = event_in_words(report["events"][-1], details=False) if report["events"] else "no event yet"
    state = "lost" if report["state"] == "running" and report["alive"] is False else report["state"]
    return report["run"], state, f"{report['images']:,}{share}", f"{report['images_per_second']:,.0f}/s", event


def state_in_words(report: dict[str, Any]) -> str:
    """Return the state with its reason, and whether a run that says "running" does run."""
    state, where = str(report["state"]), f"process {report['pid']} on {report['host']}"
    if state == "running":
        if report["alive"] is False:
            return f"lost: status.json says running, but {where} is gone; start the same command again"
        return f"running ({where}" + (")" if report["alive"] else ", which cannot be seen from this machine)")
    if state == "unknown":
        return "unknown: there is no status.json that can be read"
    return state + (f" ({records.first_line(report['reason'])})" if report["reason"] else "")


def event_in_words(event: dict[str, Any], details: bool = True) -> str:
    """Return an event as one line: local time, what, where, and details."""
    when = "-"
    with contextlib.suppress(KeyError, ValueError):
        when = datetime.datetime.fromisoformat(str(event["time"])).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    text = f"{when}  {event.get('event', '?')} at {int(event.get('images') or 0):,} images"
    if not details:
        return text
    more = "".join(f"  {name} {value}" for name, value in event.items() if name not in _SHOWN)
    more = " ".join(more.split("\n"))
    return text + (more if len(more) <= _LONGEST else f"{more[:_LONGEST]} ...")


def _total(run: Path) -> int:
    """Return the images at which the run is finished; 0 where its config cannot be read by this version."""
    try:
        return int(config_module.read_run(run)[0].training.whole_images)
    except InputError:
        return 0


def _alive(run: Path, status: dict[str, Any]) -> bool | None:
    """Say whether the process that wrote `status` still holds the run's lock; None where this machine cannot tell.

    The lock ends with its process, however that ends, and no other process inherits it as it may inherit a number.
    """
    if status.get("host") != os.uname().nodename:
        return None
    try:
        with (run / LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a disk without locks, or somebody else's files
        return Path(f"/proc/{status.get('pid')}").exists()
    return False
