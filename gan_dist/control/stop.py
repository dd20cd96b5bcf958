"""Why a run may have to stop early, and the ears for it: signals, the STOP file, the deadline.

A request is a number. Nothing stops by itself: the trainer tells the other processes, and all stop after the same step.
"""

import contextlib
import datetime
import enum
import os
import re
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from gan_dist.errors import InputError

STOP_FILE = "STOP"


class Reason(enum.IntEnum):
    """Where several hold, the greatest decides."""

    NONE = 0
    SIGNAL_TERM = 1
    SIGNAL_INT = 2
    SIGNAL_USR2 = 3
    STOP_FILE = 4
    DEADLINE = 5
    DATE = 6
    BAD_STEPS = 7
    BAD_DATA = 8


WORDS = {
    Reason.SIGNAL_TERM: "SIGTERM",
    Reason.SIGNAL_INT: "SIGINT",
    Reason.SIGNAL_USR2: "SIGUSR2",
    Reason.STOP_FILE: "the file STOP",
    Reason.DEADLINE: "the deadline",
    Reason.DATE: "run.deadline, which has passed",
    Reason.BAD_STEPS: "too many skipped steps in a row",
    Reason.BAD_DATA: "too much bad data",
}
_SIGNALS = {
    signal.SIGTERM: Reason.SIGNAL_TERM,
    signal.SIGINT: Reason.SIGNAL_INT,
    signal.SIGUSR2: Reason.SIGNAL_USR2,
}
_DURATION = re.compile(r"(?:(\d+):)?(\d+):(\d\d)")


class Requests:
    """What this process was asked to do.

    `directory`: where to look for the file STOP; one process does. `dated`: the deadline is not this start's alone, a
    later one is after it, too.
    """

    def __init__(self, directory: Path | None, deadline: float | None, dated: bool = False) -> None:
        self.reason = Reason.NONE
        self._file = directory / STOP_FILE if directory else None
        self._deadline = deadline
        self._at_deadline = Reason.DATE if dated else Reason.DEADLINE

    def ask(self, reason: Reason) -> None:
        self.reason = max(self.reason, reason)

    def listen(self) -> None:
        """From now on signals set the request and do nothing else; a second one during the save cannot tear it.

        It lasts until the process ends: a launcher that tells a rank to end must not cut off its last words.
        """
        for number in _SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, _: object) -> None:
        self.ask(_SIGNALS[signal.Signals(number)])

    def look(self) -> None:
        """Look for the STOP file and at the clock; called about twice a second, from a thread."""
        if self._deadline is not None and time.time() >= self._deadline:
            self.ask(self._at_deadline)
        with contextlib.suppress(OSError):
            if self._file and self._file.exists():
                self.ask(Reason.STOP_FILE)

    def clear_file(self) -> None:
        """It has been obeyed; the next start shall not obey it again."""
        with contextlib.suppress(OSError):
            if self._file:
                self._file.unlink(missing_ok=True)


def is_date(text: str) -> bool:
    """Whether a `run.deadline` is a time, and not a duration from each start."""
    return bool(text) and not _DURATION.fullmatch(text)


def deadline(text: str, margin: float, environment: Mapping[str, str] = os.environ) -> float | None:
    """When to stop, in seconds since 1970: `run.deadline`, else the end of the Slurm job less `margin` seconds.

    `text` is a time of day with date (2026-11-23T18:30, local unless it names an offset) or a duration from now
    (3:50:00, 45:00); it is taken as it is. Raises InputError for anything else.
    """
    if not text:
        end = environment.get("SLURM_JOB_END_TIME", "")
        return float(end) - margin if end.isdecimal() else None
    if found := _DURATION.fullmatch(text):
        hours, minutes, seconds = (int(part or 0) for part in found.groups())
        return time.time() + 3600 * hours + 60 * minutes + seconds
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise InputError(
            f"run.deadline = {text!r}: write a time (2026-11-23T18:30) or a duration from the start (3:50:00)"
        ) from None
