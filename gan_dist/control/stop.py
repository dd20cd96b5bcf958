"""Why a run may have to stop early, and how it learns of it: signals, the STOP file, the deadline, a dead launcher.

A request is a number. Nothing stops by itself: the trainer tells the other ranks, and all stop after the same step.
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
    """Where several hold, the greatest decides. The numbers are of this launch only; nothing keeps them."""

    NONE = 0
    SIGNAL_TERM = 1
    SIGNAL_INT = 2
    SIGNAL_USR2 = 3
    LAUNCHER = 4
    STOP_FILE = 5
    DEADLINE = 6
    DATE = 7
    COLLAPSE = 8
    NO_DATA = 9
    BAD_STEPS = 10
    BAD_DATA = 11
    CHANGED_DATA = 12


WORDS = {
    Reason.SIGNAL_TERM: "SIGTERM",
    Reason.SIGNAL_INT: "SIGINT",
    Reason.SIGNAL_USR2: "SIGUSR2",
    Reason.LAUNCHER: "the death of its launcher",
    Reason.STOP_FILE: "the file STOP",
    Reason.DEADLINE: "the deadline",
    Reason.DATE: "run.deadline, which has passed",
    Reason.COLLAPSE: "a suspected collapse (control.collapse: stop)",
    Reason.NO_DATA: "a server of data.shards that does not answer (data.patience)",
    Reason.BAD_STEPS: "too many skipped steps in a row",
    Reason.BAD_DATA: "too much bad data",
    Reason.CHANGED_DATA: "a shard that changed",
}
_SIGNALS = {
    signal.SIGTERM: Reason.SIGNAL_TERM,
    signal.SIGINT: Reason.SIGNAL_INT,
    signal.SIGUSR2: Reason.SIGNAL_USR2,
}
_DURATION = re.compile(r"(?:(\d+):)?(\d+):(\d\d)")


class Requests:
    """What this rank was asked to do: a set of reasons. Signal handlers and threads add to it.

    `directory`: where to look for the file STOP; one rank does. `dated`: the deadline holds for later starts too, not
    only for this one.
    """

    def __init__(self, directory: Path | None, deadline: float | None, dated: bool = False) -> None:
        self._reasons: set[Reason] = set()
        self._file = directory / STOP_FILE if directory else None
        self._deadline = deadline
        self._at_deadline = Reason.DATE if dated else Reason.DEADLINE

    @property
    def reason(self) -> Reason:
        """The reason that decides; NONE without any."""
        # the copy is one operation of the interpreter: no other thread can change the set within it
        return max(tuple(self._reasons), default=Reason.NONE)

    def ask(self, reason: Reason) -> None:
        self._reasons.add(reason)

    def discard(self, reason: Reason) -> None:
        """Take back one reason; all others stay."""
        self._reasons.discard(reason)

    def listen(self) -> None:
        """From now on signals add a request and do nothing else: a second one during the save cannot tear it.

        It lasts until the process ends: a launcher that tells a rank to end must not cut off its last words.
        """
        for number in _SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, _: object) -> None:
        self.ask(_SIGNALS[signal.Signals(number)])

    def look_at_clock(self) -> None:
        """Ask to stop once the deadline has passed. Does no I/O."""
        if self._deadline is not None and time.time() >= self._deadline:
            self.ask(self._at_deadline)

    def look_for_file(self) -> None:
        """Ask to stop once the STOP file is there. A disk that does not answer holds up the caller."""
        with contextlib.suppress(OSError):
            if self._file and self._file.exists():
                self.ask(Reason.STOP_FILE)

    def clear_file(self) -> None:
        """Remove the STOP file: it was obeyed, or the run ended at the same moment. The next start must not obey it."""
        with contextlib.suppress(OSError):
            if self._file:
                self._file.unlink(missing_ok=True)


def is_date(text: str) -> bool:
    """Return whether a `run.deadline` is a time, and not a duration from each start."""
    return bool(text) and not _DURATION.fullmatch(text)


def deadline(text: str, margin: float, environment: Mapping[str, str] = os.environ) -> float | None:
    """Return when to stop, in seconds since 1970: `run.deadline`, or else `margin` seconds before the Slurm job ends.

    `text` is a time of day with date (2026-11-23T18:30, local unless it names an offset) or a duration from now
    (3:50:00, 45:00); no margin is taken from it. Raises InputError for anything else.
    """
    if not text:
        end = environment.get("SLURM_JOB_END_TIME", "")
        return float(end) - margin if end.isdecimal() else None
    if match := _DURATION.fullmatch(text):
        hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return time.time() + 3600 * hours + 60 * minutes + seconds
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise InputError(
            f"run.deadline = {text!r}: write a time (2026-11-23T18:30) or a duration from the start (3:50:00)"
        ) from None
