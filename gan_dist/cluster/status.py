"""`gan-dist slurm --status RUN`: how a run on the cluster stands."""

import datetime
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from gan_dist import config as config_module
from gan_dist.cluster import requeue
from gan_dist.errors import InputError


def read(run: Path) -> dict[str, Any]:
    """How a run stands: job, nodes, images, rate, ETA, restarts, last checkpoint, and the first failure's last lines."""
    if not (run / "config.yaml").exists():
        raise InputError(f"{run} is no run directory (no config.yaml in it); give a folder that training made")
    config, _ = config_module.read_run(run)
    found = requeue.read_status(run) or {}
    starts = requeue.read_starts(run)
    last = _last_line(run / "metrics.jsonl")
    images = int(found.get("images") or last.get("images") or 0)
    rate = float(last.get("speed/images_per_second") or 0)
    left = config.training.whole_images - images
    state = str(found.get("state", "unknown"))
    report = {
        "run": str(run),
        "state": state,
        "reason": found.get("reason", ""),
        "images": images,
        "of": config.training.whole_images,
        "images_per_second": rate,
        "eta_seconds": round(left / rate) if rate and state == "running" else None,
        "checkpoint": found.get("checkpoint"),
        "starts": len(starts),
        "job": starts[-1].job if starts else "",
        "nodes": starts[-1].nodes if starts else "",
        "failure": [] if state == "finished" else requeue.why(run),
    }
    if report["job"] and shutil.which("scontrol"):
        words = told("scontrol", "-o", "show", "job", str(report["job"]))
        facts = dict(re.findall(r"(\S+?)=(\S*)", words))
        report["slurm"] = {
            name: facts[name]
            for name in ("JobState", "Reason", "NodeList", "RunTime", "TimeLimit", "Restarts", "StartTime")
            if name in facts
        }
    return report


def lines(report: dict[str, Any]) -> list[str]:
    """The report as lines for a person."""
    facts = report.get("slurm", {})
    eta = report["eta_seconds"]
    rows = {
        "run": f"{report['run']}: {report['state']}" + (f" ({report['reason']})" if report["reason"] else ""),
        "job": f"{report['job'] or 'none'} {facts.get('JobState', '')} {facts.get('Reason', '')}".strip(),
        "nodes": facts.get("NodeList") or report["nodes"] or "none",
        "images": f"{report['images']:,} of {report['of']:,} at {report['images_per_second']:,.0f} images/s",
        "eta": "-" if eta is None else str(datetime.timedelta(seconds=eta)),
        "starts": f"{report['starts']} (restarts of this job: {facts.get('Restarts', '?')})",
        "saved": report["checkpoint"] or "nothing yet",
    }
    said = [f"{name:8s}{text}" for name, text in rows.items()]
    if report["failure"]:
        said += ["failed first:", *(f"  {text}" for text in report["failure"])]
    return said


def told(*words: str) -> str:
    """What a Slurm command prints."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    return done.stdout


def _last_line(path: Path) -> dict[str, Any]:
    for text in reversed(path.read_text().splitlines() if path.exists() else []):
        try:
            found = json.loads(text)
        except ValueError:
            continue  # torn
        return dict(found)
    return {}
