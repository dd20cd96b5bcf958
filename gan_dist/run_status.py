"""How a run stands, read from its files alone: state, images, rate, time left, scores, alarms, events, checkpoints."""

import datetime
import fcntl
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from gan_dist import files
from gan_dist.report import events as event_words, facts
from gan_dist.run_directory import LOCK, locate
from gan_dist.slurm_jobs import records

_EVENTS = 5
_AGES = 1e10  # seconds: a time left that says nothing


def read(run: Path) -> dict[str, Any]:
    """Return how a run stands, ready for JSON. Raises InputError where RUN is no run directory."""
    return of(locate(run))


def of(run: Path, reasons: Sequence[str] = (), total: int | None = None) -> dict[str, Any]:
    """Return how the run in a directory stands, as far as its files tell: its first job may not have written all of them.

    `alive` says whether the process that status.json names still trains: null where it is on another machine. `lost` is
    true where status.json says running and that process is gone. `reasons` are lines of ranks that failed before the run
    could write events. `total` spares reading the config again.
    """
    status, keys = records.read_status(run) or {}, _keys(run)
    total = _total(keys) if total is None else total
    state = str(status.get("state", "unknown"))
    figures, events = facts.read(run / "metrics.jsonl"), files.read_json_lines(run / "events.jsonl")
    last = figures[-1] if figures else {}
    images = facts.whole(status.get("images"))
    if state in ("running", "unknown"):  # status.json is as old as the last save
        images = max(images, facts.whole(last.get("images")))
    alive = _alive(run, status) if state == "running" else False
    # a line of scores alone has no rate
    rates = [line.get("speed/images_per_second") for line in figures]
    rate = next((float(found) for found in reversed(rates) if facts.is_figure(found) and found > 0), 0.0)
    left = (total - images) / rate if rate and total and alive is not False else None
    checkpoints = sorted(path.parent.name for path in (run / "checkpoints").glob("images-*/manifest.json"))
    starts = [event for event in events if event.get("event") in ("started", "resumed")]
    return {
        "run": str(run),
        "state": state,
        "alive": alive,
        "lost": state == "running" and alive is False,
        "reason": status.get("reason") or "",
        "images": images,
        "of": total,
        "images_per_second": rate,
        "eta_seconds": round(left) if left is not None and abs(left) < _AGES else None,
        "checkpoint": checkpoints[-1] if checkpoints else None,
        "checkpoints": len(checkpoints),
        "starts": len(starts),
        "processes": status.get("processes"),
        "host": status.get("host"),
        "pid": status.get("pid"),
        "time": status.get("time"),
        "last_figures": last,
        **facts.of(figures, events, files.read_json_lines(run / "scores.jsonl"), _kinds(keys)),
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
        "score": score_in_words(report) or "none yet: evaluate.scores while it trains, or gan-dist evaluate",
        "best": best_in_words(report) or "not known: no score has chosen a checkpoint",
    }
    shown = [f"{name:8s}{text}" for name, text in rows.items()]
    for alarm in report["alarms"]:
        shown.append(f"ALARM   {event_words.details(alarm)}")
    if report["events"]:
        shown += ["last events:", *(f"  {event_words.line(event)}" for event in report["events"])]
    if report["failure"]:
        shown += ["first failure of the last start:", *(f"  {text}" for text in report["failure"])]
    return shown


def score_in_words(report: dict[str, Any]) -> str:
    """Return the newest score with its position; empty where there is none."""
    score = report["score"]
    if not score:
        return ""
    return f"{score['name'].removeprefix(facts.GROUP)} {event_words.number(score['value'])} at {facts.whole(score['images']):,} images"


def best_in_words(report: dict[str, Any]) -> str:
    """Return the best checkpoint with the score that chose it; empty where there is none."""
    best = report["best"]
    if not best:
        return ""
    name = str(best["score"]).removeprefix(facts.GROUP)
    return f"{best['checkpoint']} ({name} {event_words.number(best['value'])})"


def alarms_in_words(report: dict[str, Any]) -> str:
    """Return the signals that stand as alarms, in short; empty where there is none."""
    return ", ".join(f"{alarm.get('signal')} {event_words.number(alarm.get('value'))}" for alarm in report["alarms"])


def state_in_words(report: dict[str, Any]) -> str:
    """Return the state with its reason, and whether a run that says "running" does run."""
    state, where = str(report["state"]), f"process {report['pid']} on {report['host']}"
    if state == "running":
        if report["lost"]:
            return f"lost: status.json says running, but {where} is gone; start the same command again"
        return f"running ({where}" + (")" if report["alive"] else ", which cannot be seen from this machine)")
    if state == "unknown":
        return "unknown: there is no status.json that can be read"
    return state + (f" ({records.first_line(report['reason'])})" if report["reason"] else "")


def _keys(run: Path) -> dict[str, Any]:
    """Return the run's config as a tree of keys; empty where it cannot be read. Unchecked: that would load torch."""
    try:
        keys = yaml.load((run / "config.yaml").read_text(errors="replace"), Loader=_Loader)
    except (OSError, yaml.YAMLError, ValueError, RecursionError):
        return {}
    return keys if isinstance(keys, dict) else {}


_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # 10 times as fast, where PyYAML has it


def _section(keys: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = keys.get(name)
    return found if isinstance(found, dict) else {}


def _total(keys: Mapping[str, Any]) -> int:
    """Return the images at which the run is finished, whole batches; 0 where its config does not say."""
    images, batch = (facts.whole(_section(keys, "training").get(name)) for name in ("images", "batch"))
    return -(-images // batch) * batch if batch > 0 else images


def _kinds(keys: Mapping[str, Any]) -> dict[str, str]:
    """Return the kinds of the scores of a config, by name."""
    scores = _section(_section(keys, "evaluate"), "scores")
    return {str(name): str(score.get("kind")) for name, score in scores.items() if isinstance(score, dict)}


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
