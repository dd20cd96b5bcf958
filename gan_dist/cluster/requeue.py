"""Whether a run goes on after a Slurm job: decided by RUN/status.json and RUN/slurm.jsonl, never by exit codes.

`python -m gan_dist.cluster.requeue directory|begin|nodes|after|why ...` is what slurm/lib.sh calls; every answer is one
line that begins with the decision. It loads no torch, so that a batch shell has it in a moment.
"""

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from gan_dist import config as config_module
from gan_dist.cluster import code as copies, nodes
from gan_dist.control.stop import WORDS, Reason
from gan_dist.errors import EXIT_INPUT, InputError
from gan_dist.run import STARTS, is_foreign

_TRIES = 2  # starts in a row that bring no image
_LAST_WORDS = 10  # lines that end the log of a job that failed


@dataclasses.dataclass(frozen=True)
class Decision:
    action: Literal["go", "finished", "ended", "requeue", "requeued", "stop"]
    words: str

    def __str__(self) -> str:
        return f"{self.action} {self.words}"


@dataclasses.dataclass(frozen=True)
class Start:
    """One start of the run by Slurm."""

    job: str
    restart: int
    images: int
    """Where the run stood."""
    time: float
    nodes: str = ""
    commit: str = ""
    code: str = ""
    """The copy of the code that ran."""


def begin(status: Mapping[str, Any] | None, starts: Sequence[Start], most: int) -> Decision:
    """Before training: whether to. `status` is as read_status gives it."""
    images = images_of(status)
    if status and status.get("state") == "finished":
        return Decision("finished", f"the run is finished at {images:,} images: nothing to do")
    if len(starts) >= most:
        return Decision(
            "stop", f"{len(starts)} starts are enough (GAN_DIST_MAX_RESTARTS): the run stands at {images:,} images"
        )
    if stuck := _stuck(images, starts):
        return Decision("stop", stuck)
    return Decision("go", f"the run stands at {images:,} images" if images else "a new run")


def after(status: Mapping[str, Any] | None, starts: Sequence[Start], most: int, code: int) -> Decision:
    """After training: what now. `starts` includes the one that has just ended; `code` is what srun returned."""
    if not starts:
        return Decision("stop", f"{STARTS} is missing or torn: start the job again")
    if status is None:
        return Decision("stop", f"training did not begin (code {code})")
    if not status:
        return Decision("stop", f"status.json is torn (code {code}), so whether to go on cannot be told: see the logs")
    images, now, state = images_of(status), starts[-1], str(status.get("state"))
    if state == "finished":
        return Decision("finished", f"the run is finished at {images:,} images")
    if _time_of(status) < now.time:
        return Decision("stop", f"training did not begin (code {code})")
    if state == "stopped" and status.get("reason") == WORDS[Reason.STOP_FILE]:
        return Decision("ended", f"{status.get('reason')} ended it at {images:,} images: submit it again to go on")
    if state == "failed" and status.get("code") == EXIT_INPUT:
        return Decision("stop", f"wrong input: {status.get('reason')}")
    why = {"stopped": "saved", "failed": f"failed ({status.get('reason')})"}.get(state, f"was killed (code {code})")
    if len(starts) >= most:
        return Decision(
            "stop", f"{why} at {images:,} images, and {len(starts)} starts are enough (GAN_DIST_MAX_RESTARTS)"
        )
    if images <= now.images and (stuck := _stuck(images, starts)):
        return Decision("stop", f"{why}; {stuck}")
    return Decision("requeue", f"{why} at {images:,} images, {images - now.images:,} more than at the start: requeue")


def by_slurm(facts: str, restart: int) -> Literal["", "cancelled", "requeued"]:
    """What Slurm has done with the job by itself. `facts`: `scontrol -o show job`; `restart`: of the start that ends.

    Both come as TERM. A job that a person cancelled is completing, under its own number of restarts, and Slurm names no
    reason (seen with Slurm 22.05).
    """
    found = dict(word.partition("=")[::2] for word in facts.split() if "=" in word)
    if found.get("Restarts", "").isdecimal() and int(found["Restarts"]) > restart:
        return "requeued"
    over = found.get("JobState") in ("COMPLETING", "CANCELLED") and found.get("EndTime") != "Unknown"
    return "cancelled" if over and found.get("Reason") == "None" and found.get("PreemptTime") == "None" else ""


def images_of(status: Mapping[str, Any] | None) -> int:
    """The position that the next start would go on from: the newest checkpoint's."""
    name = str((status or {}).get("checkpoint") or "")
    digits = name.removeprefix("images-")
    return int(digits) if digits.isdecimal() else 0


def _stuck(images: int, starts: Sequence[Start]) -> str:
    """Why another start would bring nothing; empty if it may."""
    last = [start for start in starts[-_TRIES:] if start.images >= images]
    if len(last) < _TRIES:
        return ""
    return f"{_TRIES} starts in a row brought no image beyond {images:,}: see the logs, then submit the job again"


def _time_of(status: Mapping[str, Any]) -> float:
    try:
        return datetime.datetime.fromisoformat(str(status["time"])).timestamp()
    except (KeyError, ValueError):
        return 0.0


def read_status(run: Path) -> dict[str, Any] | None:
    """What the run says of itself; None where it says nothing, and empty where that is torn."""
    try:
        found = json.loads((run / "status.json").read_text(errors="replace"))
    except OSError:
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def read_starts(run: Path) -> list[Start]:
    """The starts since a person last submitted the run: another job id begins a new count of tries."""
    starts = []
    path = run / STARTS
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            starts.append(Start(**json.loads(line)))
        except (ValueError, TypeError):
            continue  # torn by a power cut
    return starts


def _record(run: Path, start: Start) -> None:
    run.mkdir(parents=True, exist_ok=True)
    with (run / STARTS).open("a") as file:
        file.write(json.dumps(dataclasses.asdict(start)) + "\n")
        file.flush()
        os.fsync(file.fileno())


def why(run: Path, reasons: Path | None = None) -> list[str]:
    """The first failure of the last start, for the end of a job's log: ten lines at most.

    `reasons`: what ranks died of before the run could write events (train.py).
    """
    began = max((start.time for start in read_starts(run)), default=0.0)
    failures: list[dict[str, Any]] = []
    path = run / "events.jsonl"
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if event.get("event") in ("started", "resumed"):
            failures = []
        if event.get("event") == "failed" and ("time" not in event or _time_of(event) >= began):
            failures.append(event)
    own = [event for event in failures if "ended because rank" not in str(event.get("reason"))] or failures
    if not own:
        with contextlib.suppress(OSError, TypeError):
            return Path(reasons or "").read_text(errors="replace").splitlines()[:_LAST_WORDS]
        return []
    event = own[0]
    lines = [f"rank {event.get('rank')} at {event.get('images'):,} images: {event.get('reason')}"]
    log = run / "logs" / f"rank-{event.get('rank')}.txt"
    if log.exists():
        lines += log.read_text(errors="replace").splitlines()[-(_LAST_WORDS - 1) :]
    return lines


def _nodes(reports: Path, names: Sequence[str], processes: int) -> Decision:
    """After the check of the nodes: whether to train on them. What was found goes to the job's log."""
    verdicts = nodes.judge(nodes.parse(reports.read_text(errors="replace").splitlines()), names, processes)
    for verdict in verdicts:
        print(f"{'ok     ' if verdict.good else 'PROBLEM'}  {verdict.what:13s}  {verdict.text}", file=sys.stderr)
    left_out = nodes.exclude(verdicts)
    if any(verdict.fatal for verdict in verdicts):
        what = ", ".join(verdict.what for verdict in verdicts if verdict.fatal)
        return Decision("stop", f"not fit to train: {what}. " + (f"Submit again with {left_out}" if left_out else ""))
    return Decision("go", "the nodes are fit" + (f"; better without them: {left_out}" if left_out else ""))


def main(arguments: Sequence[str]) -> int:
    if arguments and arguments[0] == "directory":
        try:
            print(config_module.load(arguments[1:], "train.sbatch").directory)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            return EXIT_INPUT
        return 0
    parser = argparse.ArgumentParser(prog="gan_dist.cluster.requeue")
    parser.add_argument("when", choices=("begin", "nodes", "after", "why"))
    parser.add_argument("run", type=Path)
    parser.add_argument("--code", type=int, default=0)
    parser.add_argument("--code-folder", type=Path, default=Path(), help="the copy of the code that is run")
    parser.add_argument("--told", action="store_true", help="the job was warned, or told to end")
    parser.add_argument("--facts", default="", help="what scontrol says of the job")
    parser.add_argument("--reasons", type=Path, help="what ranks died of before the run had a log")
    parser.add_argument("--reports", type=Path, help="what the nodes printed (check.py)")
    parser.add_argument("--names", default="", help="the job's nodes, a line each")
    parser.add_argument("--processes", type=int, default=1, help="a node")
    parser.add_argument("--max-restarts", type=int, default=100)
    options = parser.parse_args(arguments)
    run: Path = options.run
    if options.when == "why":
        print("\n".join(why(run, options.reasons)))
        return 0
    if options.when == "nodes":
        print(_nodes(options.reports, options.names.split(), options.processes))
        return 0
    status, starts = read_status(run), read_starts(run)
    environment = os.environ
    job = environment.get("SLURM_JOB_ID", "")
    if options.when == "after":
        own = [start for start in starts if start.job == job]
        decision = after(status, own, options.max_restarts, options.code)
        began = bool(status and own) and _time_of(status or {}) >= own[-1].time
        if options.told and decision.action == "stop" and not began:  # nothing that could fail has run
            decision = Decision("requeue", "told to end before training began: requeue")
        done = by_slurm(options.facts, own[-1].restart if own else 0)
        if decision.action == "requeue" and done == "cancelled":
            decision = Decision("ended", f"cancelled at {images_of(status):,} images: submit it again to go on")
        elif decision.action == "requeue" and done == "requeued":
            decision = Decision("requeued", f"{decision.words}, which Slurm has done")
        print(decision)
        return 0
    # tries are counted within a job: who submits another one has done something about it. A chain is one job to us
    own = starts if environment.get("GAN_DIST_NO_REQUEUE") else [start for start in starts if start.job == job]
    decision = begin(status, own, options.max_restarts)
    if decision.action == "go" and not is_foreign(run):
        restart = int(environment.get("SLURM_RESTART_COUNT", "0") or 0)
        now = datetime.datetime.now(datetime.UTC).timestamp()
        where, folder = environment.get("SLURM_JOB_NODELIST", ""), options.code_folder
        try:
            _record(run, Start(job, restart, images_of(status), now, where, copies.commit(folder), str(folder)))
        except OSError as error:
            decision = Decision(
                "stop",
                f"error: {run} cannot be written ({error.strerror}); mend that, or choose another --run.directory",
            )
    print(decision)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
