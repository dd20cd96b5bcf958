"""A thread beside the loop that sees what the loop cannot: that it stands still, or that another process is gone.

Each process keeps a small file, `logs/processes/rank-N.json`, with its progress. All read the files of all, so the
one that holds up the others is known by name, and a process that is gone takes the others down in seconds: they
may stand in a collective from which nothing else would free them.
"""

import contextlib
import dataclasses
import faulthandler
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_LOOK = 0.5  # seconds between two looks
_OTHERS = 1.0  # seconds between two looks at the other processes' files, for each 16 of them
_AFTERMATH = 3.0  # a rank that fails because another failed first gives way to its report for so long
_STACK_SIGNAL = signal.SIGRTMIN + 5  # asks a process for its stack; NCCL, Slurm and submitit use none of these


@dataclasses.dataclass(kw_only=True)
class Progress:
    """What a process tells of itself."""

    launch: str
    rank: int
    host: str
    pid: int
    born: str
    """When the process began, as the kernel counts: a pid alone may be another process by now."""
    images: int = 0
    beats: int = 0
    """Every phase of every step counts one."""
    doing: str = "starting"
    moved: float = 0.0
    """Time of the last beat, in seconds since 1970."""
    written: float = 0.0
    state: str = "running"
    """running, ended, failed"""
    error: str = ""


class Watchdog:
    """Call `beat` often; the rest happens in a thread while the `with` lasts.

    `look` is called twice a second. `report(reason, **details)` records why the process is about to end. When nothing moved for `hang_seconds`
    the stack is written to `logs/hang-rank-N.txt` and the process ends with code 1.
    """

    def __init__(
        self,
        directory: Path,
        launch: str,
        rank: int,
        world_size: int,
        hang_seconds: float,
        tick: Callable[[], None],
        look: Callable[[], None],
        report: Callable[..., None],
    ) -> None:
        self.rank, self.world_size = rank, world_size
        self._logs, self._files = directory / "logs", directory / "logs" / "processes"
        self._hang_seconds = hang_seconds
        self._tick, self._look, self._report = tick, look, report
        self._own = Progress(
            launch=launch, rank=rank, host=socket.gethostname(), pid=os.getpid(), born=_born(os.getpid())
        )
        self._moved = time.monotonic()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._files.mkdir(parents=True, exist_ok=True)
        self._stack = self._stack_file(self.rank).open("w")
        faulthandler.register(_STACK_SIGNAL, self._stack, all_threads=True)
        self.beat("starting", 0)
        self._write()
        self._thread.start()
        return self

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        self._ending.set()
        faulthandler.unregister(_STACK_SIGNAL)
        self._stack.close()
        self._own.state = "ended" if error is None else "failed"
        if error is not None:
            self._own.error = f"{type(error).__name__}: {error}"
        self._write()
        self._thread.join(2 * _LOOK)

    def beat(self, doing: str, images: int) -> None:
        """The loop goes on: what it does now, and its position. Costs about a microsecond."""
        own = self._own
        own.doing, own.images, own.beats = doing, images, own.beats + 1
        own.moved = time.time()
        self._moved = time.monotonic()

    def first_failure(self) -> Progress | None:
        """The process whose failure came first, if it was another than this one; waits a moment for its report."""
        end = time.monotonic() + _AFTERMATH
        while True:
            failed = self._lost(self._others())
            if failed is not None or time.monotonic() > end:
                return failed
            time.sleep(0.1)

    def out_of_reach(self) -> list[str]:
        """Processes on other machines that did not say how they ended: from here nobody sees whether they live."""
        return [
            f"rank {other.rank} on {other.host}"
            for other in self._others()
            if other.state == "running" and other.host != self._own.host
        ]

    def _watch(self) -> None:
        others_at = written_at = 0.0
        pause = _OTHERS * max(1.0, self.world_size / 16)
        heartbeat = max(1.0, min(self._hang_seconds / 8, 10.0))
        while not self._ending.wait(_LOOK):
            now = time.monotonic()
            self._tick()
            self._look()
            with contextlib.suppress(OSError):
                if now - written_at >= heartbeat:
                    written_at = now
                    self._write()
            if now - self._moved >= self._hang_seconds:
                self._end_hung()
            if self.world_size > 1 and now - others_at >= pause:
                others_at = now
                lost = self._lost(self._others())
                if lost is not None and not self._ending.wait(_AFTERMATH):
                    # the loop had its time to fail by itself; it stands in a collective with a dead process
                    why = f"ended because rank {lost.rank} {lost.error}"
                    self._report(why)
                    self._end(why)

    def _others(self) -> list[Progress]:
        found = []
        for rank in range(self.world_size):
            if rank != self.rank:
                with contextlib.suppress(OSError, ValueError, TypeError):
                    progress = Progress(**json.loads((self._files / f"rank-{rank}.json").read_text()))
                    if progress.launch == self._own.launch:
                        found.append(progress)
        return found

    def _lost(self, others: list[Progress]) -> Progress | None:
        """One that said that it failed, or that is no longer there."""
        for other in others:
            if other.state == "failed":
                return dataclasses.replace(other, error=f"failed: {other.error}")
        for other in others:
            if other.state == "running" and other.host == self._own.host and _born(other.pid) != other.born:
                return dataclasses.replace(other, error=f"was killed (process {other.pid} on {other.host})")
        return None

    def _end_hung(self) -> None:
        with contextlib.suppress(OSError):
            self._write()
        path = self._logs / f"hang-rank-{self.rank}.txt"
        everyone = sorted([self._own, *self._others()], key=lambda progress: progress.rank)
        now = time.time()
        lines = [
            f"rank {one.rank} on {one.host} (process {one.pid}): {one.images:,} images, {one.doing}, "
            f"{one.beats} beats, moved {now - one.moved:.0f} s ago, heard of {now - one.written:.0f} s ago"
            for one in everyone
        ]
        # who did least holds up the others; a process that is stopped or whose machine is gone is not heard of either
        culprit = min(everyone, key=lambda one: (one.beats, one.written))
        silent = " and is not heard of" if now - culprit.written > max(5.0, self._hang_seconds / 4) else ""
        what = (
            f"no progress for {self._hang_seconds:g} s (control.hang_seconds); rank {culprit.rank} on {culprit.host} is behind, "
            f"in {culprit.doing!r} at {culprit.images:,} images{silent}; stacks and ranks in {path}"
        )
        with path.open("w") as file:
            file.write("\n".join([what, *lines, "", f"stacks of rank {self.rank}:", ""]))
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
        self._report(what, culprit=culprit.rank)
        if culprit.rank != self.rank and culprit.host == self._own.host and _born(culprit.pid) == culprit.born:
            with contextlib.suppress(OSError):
                self._end_other(culprit, path, 0.5 if silent else _AFTERMATH)
        self._end(what)

    def _end_other(self, culprit: Progress, report: Path, patience: float) -> None:
        """Kill a process that cannot end itself; even a stopped one shows its stack when it wakes for that."""
        os.kill(culprit.pid, _STACK_SIGNAL)
        os.kill(culprit.pid, signal.SIGCONT)
        time.sleep(patience)
        stack = self._stack_file(culprit.rank).read_text()
        with report.open("a") as file:  # before the kill: it frees this process's loop, which then fails and ends it
            file.write(f"\nstacks of rank {culprit.rank}:\n\n{stack}")
        if _born(culprit.pid) == culprit.born:
            os.kill(culprit.pid, signal.SIGKILL)

    def _stack_file(self, rank: int) -> Path:
        return self._files / f"stack-{rank}.txt"

    def _end(self, why: str) -> None:
        self._own.state, self._own.error = "failed", why
        with contextlib.suppress(OSError):
            self._write()
        print(f"rank {self.rank}: {why}", file=sys.stderr, flush=True)
        os._exit(1)

    def _write(self) -> None:
        self._own.written = time.time()
        path = self._files / f"rank-{self.rank}.json"
        part = path.with_suffix(".part")
        part.write_text(json.dumps(dataclasses.asdict(self._own)))
        part.replace(path)  # no fsync: it is of no use after a power cut


def _born(pid: int) -> str:
    """When a process of this machine began; empty where there is none, or only its remains."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
