"""`gan-dist slurm --status RUN`: report how a run on the cluster stands."""

import contextlib
import datetime
import shutil
import subprocess
from pathlib import Path
from typing import Any

from gan_dist import run_status
from gan_dist.errors import InputError
from gan_dist.slurm_jobs import records, requeue

_OF_RUN = (
    "run", "state", "reason", "images", "of", "images_per_second", "eta_seconds", "checkpoint", "failure",
)  # fmt: skip
"""What this report and `gan-dist status` both say."""


def read(run: Path) -> dict[str, Any]:
    """Return how a run stands: job, nodes, images, rate, ETA, restarts, last checkpoint, last lines of the first failure."""
    starts = records.read_starts(run)
    if not starts and not (run / "config.yaml").exists():  # the first start records itself before the config is there
        raise InputError(
            f"{run} is no run directory (no config.yaml in it): give a folder that training made, or wait for its job to "
            "start (squeue --me)"
        )
    # while one job trains, another may have started and been refused
    now, status = (starts[-1] if starts else None), records.read_status(run) or {}
    if status.get("state") == "running":
        now = next((start for start in reversed(starts) if start.job == status.get("job")), now)
    reasons: list[str] = []
    if now:
        with contextlib.suppress(OSError):
            path = Path(now.code).parent / f"reasons-{now.job}.txt"
            reasons = path.read_text(errors="replace").splitlines()
    stands = run_status.of(run, reasons)
    report = {name: stands[name] for name in _OF_RUN} | {
        "starts": len(starts),
        "job": now.job if now else "",
        "nodes": now.nodes if now else "",
    }
    if report["job"] and shutil.which("scontrol"):
        facts = {}
        with contextlib.suppress(InputError):  # Slurm forgets a job some minutes after its end
            facts = requeue.facts_of(ask("scontrol", "-o", "show", "job", str(report["job"])), str(report["job"]))
        report["slurm"] = {
            name: facts[name]
            for name in ("JobState", "Reason", "NodeList", "RunTime", "TimeLimit", "Restarts", "StartTime")
            if name in facts
        }
        if facts.get("JobState", "RUNNING") not in ("RUNNING", "COMPLETING", "SUSPENDED"):  # killed or waiting
            report["eta_seconds"] = None
    return report


def lines(report: dict[str, Any]) -> list[str]:
    """Return the report as lines for a person."""
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
    shown = [f"{name:8s}{text}" for name, text in rows.items()]
    if report["failure"]:
        shown += ["failed first:", *(f"  {text}" for text in report["failure"])]
    return shown


def ask(*words: str) -> str:
    """Return what a Slurm command prints. Raises InputError where it fails."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        raise InputError(f"{words[0]} does not answer; try again when the cluster does") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        if any(
            sign in " ".join(said) for sign in ("resolve_ctls", "Unable to contact", "slurm_load", "Connection refused")
        ):
            raise InputError(f"no Slurm answers here ({said[0]}); call this where sbatch works, on a login node")
        raise InputError(f"{' '.join(words)}: {'; '.join(said)}")
    return done.stdout
