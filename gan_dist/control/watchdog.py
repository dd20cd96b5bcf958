"""Threads beside the loop that see what the loop cannot: that it stands still, or that another rank is gone.

A watchdog must not wait for what it watches, so each thread waits for one thing only. The clock's thread decides by the
monotonic clock whether the loop stands still, and does no I/O. One thread looks for the STOP file and writes this rank's
file; one looks at the other ranks. A process that has to end says why in threads that get a limited time; then it ends,
whatever the disk, the network or the terminal does.
"""

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from gan_dist.control.peers import Board, Peers, Progress

_TICK = 0.5  # seconds between two looks at the clock, and at the STOP file
_PEERS = 1.0  # seconds between two looks at the other ranks
_AFTERMATH = 3.0  # a rank that fails because another failed first gives way to its report for so long
_LAST_WORDS = 10.0  # seconds for all that a process says before it ends; a disk that never answers gets no more
_LEAVE = 5.0  # the same for a process that ends well
_SILENT = 3  # heartbeats without a sign of life
_STACK_SIGNAL = signal.SIGRTMIN + 5  # asks a process for its stack; NCCL, Slurm and submitit use none of these


class Watchdog:
    """Call `beat` often; the rest happens in threads while the `with` lasts.

    `tick` is called twice a second and must do no I/O; so is `look`, which may. `report(reason, **details)` records why the
    process is about to end. When nothing moved for `hang_seconds` the stack is written to `logs/hang-rank-N.txt` and the
    process ends with code 1. `board`: how ranks reach each other besides files. `end` ends the process.
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
        board: Board | None = None,
        end: Callable[[int], object] = os._exit,
    ) -> None:
        self.rank, self.world_size = rank, world_size
        self._logs, self._files = directory / "logs", directory / "logs" / "processes"
        self._hang_seconds = hang_seconds
        self._heartbeat = max(1.0, min(hang_seconds / 8, 10.0))  # of the file
        self._tick, self._look, self._report, self._end_process = tick, look, report, end
        self._own = Progress.of_this_process(launch, rank)
        self._peers = Peers(self._files, self._own, world_size, board)
        self._moved = time.monotonic()
        self._ending = threading.Event()
        self._last_words = threading.Lock()  # one thread ends the process
        work = {"clock": self._watch_clock, "files": self._keep_file}
        if world_size > 1:
            work["peers"] = self._watch_peers
        self._threads = [
            threading.Thread(target=target, name=f"watchdog {name}", daemon=True) for name, target in work.items()
        ]

    def __enter__(self) -> "Watchdog":
        self.beat("starting", 0)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        if error is not None:
            self._own.error = f"{type(error).__name__}: {error}"
        self._own.state = "ended" if error is None else "failed"
        self._ending.set()
        _join(self._threads, _LEAVE)

    def beat(self, doing: str, images: int) -> None:
        """Say that the loop goes on: what it does now, and its position. Costs about a microsecond."""
        own = self._own
        own.doing, own.images, own.beats = doing, images, own.beats + 1
        own.moved = time.time()
        self._moved = time.monotonic()

    def first_failure(self) -> Progress | None:
        """Return the rank that failed first, if it was another than this one; waits a moment for its report."""
        end = time.monotonic() + _AFTERMATH
        while True:
            lost = self._peers.lost()
            if lost is not None or time.monotonic() > end:
                return lost
            time.sleep(0.2 * self._peers.patience)

    def out_of_reach(self, error: BaseException) -> list[str]:
        """Return the ranks on other machines that are silent for several heartbeats: nobody here sees if they live.

        `error` is what this rank failed with. It is printed first, as it may be this rank's own.
        """
        print(f"rank {self.rank}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        self.beat("looking for ranks that are gone", self._own.images)
        far = {other.rank: other for other in self._peers.others() if other.machine != self._own.machine}
        silent = {rank: other for rank, other in far.items() if other.state == "running"}
        heartbeat = self._peers.heartbeat or self._heartbeat
        end = time.monotonic() + _SILENT * heartbeat
        while silent and time.monotonic() < end:
            time.sleep(heartbeat / 4 * self._peers.patience)
            for other in self._peers.others():
                # compared with what it told before, so that clocks of machines may differ
                if other.rank in silent and other.written != silent[other.rank].written:
                    del silent[other.rank]
        return [f"rank {other.rank} on {other.host}" for other in silent.values()]

    def _watch_clock(self) -> None:
        while not self._ending.wait(_TICK):
            self._tick()
            if time.monotonic() - self._moved >= self._hang_seconds:
                self._end_hung()
                return

    def _keep_file(self) -> None:
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):
                self._files.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(self._stack_file(self.rank).open("w"))
                faulthandler.register(_STACK_SIGNAL, file, all_threads=True)
                stack.callback(faulthandler.unregister, _STACK_SIGNAL)
            self._write_file()
            written_at = float("-inf")  # again at once: the loop has begun meanwhile
            begun = False
            while not self._ending.wait(_TICK):
                self._look()
                # signs of life go to the board: 512 ranks that write files would be the shared disk's busiest user
                needed = not begun or self._peers.heartbeat == 0
                if needed and time.monotonic() - written_at >= self._heartbeat:
                    written_at, begun = time.monotonic(), self._own.beats > 1
                    self._write_file()
            self._write_file()

    def _write_file(self) -> None:
        with contextlib.suppress(OSError):
            self._peers.write_file()

    def _watch_peers(self) -> None:
        told_at = float("-inf")
        while not self._ending.is_set():
            if time.monotonic() - told_at >= self._peers.heartbeat:
                told_at = time.monotonic()
                self._peers.tell()
            lost = self._peers.lost()
            if lost is not None and not self._ending.wait(_AFTERMATH):
                # the loop had its time to fail by itself; it stands in a collective with a rank that is gone
                self._end(f"ended because rank {lost.rank} {lost.error}")
                return
            self._ending.wait(_PEERS * self._peers.patience)
        self._tell_end()

    def _tell_end(self) -> None:
        self._peers.tell()
        if self._own.state == "failed":
            self._peers.tell_failure()

    def _end_hung(self) -> None:
        others: list[Progress] = []
        _within(_LAST_WORDS / 2, lambda: others.extend(self._peers.others()))
        now = time.time()
        self._own.written = now
        everyone = sorted([self._own, *others], key=lambda progress: progress.rank)
        # who did least holds up the others; a process that is stopped or whose machine is gone is not heard of either
        culprit = min(everyone, key=lambda progress: (progress.beats, progress.written))
        silent = now - culprit.written > max(5.0, self._hang_seconds / 4)
        path = self._logs / f"hang-rank-{self.rank}.txt"
        what = (
            f"no progress for {self._hang_seconds:g} s (control.hang_seconds); rank {culprit.rank} on {culprit.host} is "
            f"behind, in {culprit.doing!r} at {culprit.images:,} images{' and is not heard of' if silent else ''}; "
            f"stacks and ranks in {path}"
        )
        lines = [
            f"rank {progress.rank} on {progress.host} (process {progress.pid}): {progress.images:,} images, "
            f"{progress.doing}, {progress.beats} beats, moved {now - progress.moved:.0f} s ago, "
            f"heard of {now - progress.written:.0f} s ago"
            for progress in everyone
        ]
        written = threading.Event()

        def write() -> None:
            try:
                with path.open("w") as file:
                    file.write("\n".join([what, *lines, "", f"stacks of rank {self.rank}:", ""]))
                    file.flush()
                    faulthandler.dump_traceback(file, all_threads=True)
                    if reachable:
                        self._add_stack(culprit, file, 0.5 if silent else _AFTERMATH)
            finally:
                written.set()

        def kill() -> None:
            # after the report: the death frees this process's loop, which then fails and ends it
            written.wait(2 * _AFTERMATH)
            if culprit.lives():
                os.kill(culprit.pid, signal.SIGKILL)

        reachable = culprit.rank != self.rank and culprit.machine == self._own.machine and culprit.lives()
        more = [kill] if reachable else []
        self._end(what, write, *more, culprit=culprit.rank)

    def _add_stack(self, culprit: Progress, report: TextIOWrapper, patience: float) -> None:
        """Add the stack of a process that cannot end itself; even a stopped one shows it when it wakes for that."""
        os.kill(culprit.pid, _STACK_SIGNAL)
        os.kill(culprit.pid, signal.SIGCONT)
        time.sleep(patience)
        report.write(f"\nstacks of rank {culprit.rank}:\n\n{self._stack_file(culprit.rank).read_text()}")

    def _stack_file(self, rank: int) -> Path:
        return self._files / f"stack-{rank}.txt"

    def _end(self, why: str, *more: Callable[[], None], **details: Any) -> None:
        """End the process with code 1. What it says and does before gets a limited time, each in a thread of its own."""
        with self._last_words:
            self._own.state, self._own.error = "failed", why
            try:
                _within(
                    _LAST_WORDS,
                    *more,
                    self._tell_end,
                    self._peers.write_file,
                    lambda: self._report(why, **details),
                    lambda: print(f"rank {self.rank}: {why}", file=sys.stderr, flush=True),
                )
            finally:
                self._end_process(1)


def _within(seconds: float, *work: Callable[[], object]) -> None:
    """Do all of it side by side, and wait no longer than that; what the disk refuses is left undone."""

    def quietly(one: Callable[[], object]) -> None:
        with contextlib.suppress(OSError):
            one()

    threads = [threading.Thread(target=quietly, args=(one,), daemon=True) for one in work]
    for thread in threads:
        thread.start()
    _join(threads, seconds)


def _join(threads: list[threading.Thread], seconds: float) -> None:
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
