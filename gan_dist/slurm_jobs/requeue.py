"""Decide whether a run continues after a Slurm job, from what the run wrote; launchers change exit codes."""

import dataclasses
import datetime
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeGuard

from gan_dist.control.stop import WORDS, Reason
from gan_dist.errors import EXIT_INPUT
from gan_dist.run_directory import STARTS
from gan_dist.slurm_jobs.records import Start, first_line, images_of, time_of

_TRIES = 2  # starts in a row that add no image
_FINAL = (WORDS[Reason.STOP_FILE], WORDS[Reason.DATE], WORDS[Reason.COLLAPSE])  # a person decides how to go on
_WRONG = re.compile(r"rank \d+ on \S+: error: ")


@dataclasses.dataclass(frozen=True)
class Decision:
    action: Literal["go", "finished", "ended", "requeue", "requeued", "again", "stop"]
    words: str

    def __str__(self) -> str:
        return f"{self.action} {self.words}"


@dataclasses.dataclass(frozen=True)
class End:
    """How the ranks of a start ended, as far as the batch shell knows."""

    code: int = 0
    """Exit code of srun."""
    told: bool = False
    """Whether the job was warned, preempted or told to end."""
    done: Literal["", "cancelled", "requeued"] = ""
    """What Slurm did with the job by itself (by_slurm)."""
    reasons: Sequence[str] = ()
    """Lines that ranks wrote before the run could write events."""
    instead: str = ""
    """Why training was not started at all."""

    @property
    def wrong_input(self) -> bool:
        return any(_WRONG.match(line) for line in self.reasons)


def begin(status: Mapping[str, Any] | None, starts: Sequence[Start], most: int, wanted: int) -> Decision:
    """Decide whether to train.

    `status` is what read_status returns, `starts` are those of this submission, the run is finished at `wanted` images.
    """
    images = images_of(status)
    if status and status.get("state") == "finished" and int(status.get("images") or 0) >= wanted:
        return Decision("finished", f"the run is finished at {images:,} images: nothing to do")
    if len(starts) >= most:
        return Decision("stop", f"{_enough(starts)}: the run stands at {images:,} images")
    if stuck := _stuck(images, starts):
        return Decision("stop", stuck)
    return Decision("go", f"the run stands at {images:,} images" if images else "a new run")


def after(status: Mapping[str, Any] | None, starts: Sequence[Start], most: int, end: End) -> Decision:
    """Decide what to do after training. `starts` are those of this submission, the last one has just ended."""
    decision = _after(status, starts, most, end)
    if decision.action == "requeue" and end.done == "cancelled":
        return Decision("ended", f"cancelled at {images_of(status):,} images: submit it again to go on")
    if decision.action == "requeue" and end.done == "requeued":
        return Decision("requeued", f"{decision.words}, which Slurm has done")
    return decision


def _after(status: Mapping[str, Any] | None, starts: Sequence[Start], most: int, end: End) -> Decision:
    if not starts:
        return Decision("stop", f"{STARTS} is missing or torn: start the job again")
    if status == {}:
        return Decision(
            "stop",
            f"status.json is torn or missing (code {end.code}), so whether to go on cannot be told: see the logs",
        )
    images, now = images_of(status), starts[-1]
    if not began(status, now):
        why = end.instead or f"training did not begin (code {end.code})"
        if end.told and len(starts) < most:
            return Decision("requeue", "told to end before training began: requeue")
        if end.wrong_input:
            return Decision("stop", f"wrong input: {why}")
    elif status["state"] == "finished":
        return Decision("finished", f"the run is finished at {images:,} images")
    elif status["state"] == "stopped" and status.get("reason") in _FINAL:
        return Decision("ended", f"{status.get('reason')} ended it at {images:,} images: submit it again to go on")
    elif status["state"] == "failed" and status.get("code") == EXIT_INPUT:
        return Decision("stop", f"wrong input: {first_line(status.get('reason'))}")
    else:
        states = {"stopped": "saved", "failed": f"failed ({first_line(status.get('reason'))})"}
        why = states.get(str(status["state"]), f"was killed (code {end.code})") + f" at {images:,} images"
    if len(starts) >= most:
        return Decision("stop", f"{why}, and {_enough(starts)}")
    if images <= now.images and (stuck := _stuck(images, starts)):
        return Decision("stop", f"{why}; {stuck}")
    more = f"{images - now.images:,} more than at the start" if began(status, now) else "once more"
    return Decision("requeue", f"{why}, {more}: requeue")


def began(status: Mapping[str, Any] | None, start: Start) -> TypeGuard[Mapping[str, Any]]:
    """Say whether `status` belongs to this start, not to an earlier one or to another job that trains this run."""
    return bool(status) and time_of(status or {}) >= start.time and (status or {}).get("job", start.job) == start.job


def by_slurm(facts: Mapping[str, str], start: Start) -> Literal["", "cancelled", "requeued"]:
    """Say what Slurm did with the job by itself. `facts` is what facts_of returns.

    Both arrive as TERM. A job that a person cancelled is completing, its count of restarts is unchanged, and Slurm gives
    no reason (observed with Slurm 22.05).
    """
    if facts.get("Restarts", "").isdecimal() and int(facts["Restarts"]) > start.restart:
        return "requeued"
    over = facts.get("JobState") in ("COMPLETING", "CANCELLED") and facts.get("EndTime") != "Unknown"
    return "cancelled" if over and facts.get("Reason") == "None" and not preempted(facts, start) else ""


def preempted(facts: Mapping[str, str], start: Start) -> bool:
    """Say whether Slurm takes the nodes away. Its first TERM reaches only the ranks, so the batch shell does not see it."""
    try:
        when = datetime.datetime.fromisoformat(facts.get("PreemptTime", ""))  # local, whole seconds
    except ValueError:
        return False
    return when.timestamp() >= int(start.time)


def facts_of(text: str, job: str) -> dict[str, str]:
    """Return a job's own row of `scontrol -o show job`, which may show all tasks of an array."""
    for row in text.splitlines():
        facts = dict(word.partition("=")[::2] for word in row.split() if "=" in word)
        if facts.get("JobId") == job:
            return facts
    return {}


def _enough(starts: Sequence[Start]) -> str:
    return f"{len(starts)} starts are enough (GAN_DIST_MAX_RESTARTS)"


def _stuck(images: int, starts: Sequence[Start]) -> str:
    """Say why another start would add nothing; empty if it may."""
    tried = [start for start in starts if not start.told]
    in_vain = [start for start in tried[-_TRIES:] if start.images >= images]
    if len(in_vain) < _TRIES:
        return ""
    return f"{_TRIES} starts in a row brought no image beyond {images:,}: see the logs, then submit the job again"
