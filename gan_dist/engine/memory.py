"""Measure the memory that work takes on a rank's device, and how much the rank may take there."""

import contextlib
import ctypes
import math
import os
import threading
from pathlib import Path
from types import TracebackType

import psutil
import torch

_INTERVAL = 0.001  # seconds between two looks at a process on a CPU


class Peak:
    """`with Peak(device) as peak: ...`: `peak.bytes` is then the most that this process held inside.

    On a CPU it is the process's resident memory, libraries and all, looked at once a millisecond.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.bytes = 0

    def __enter__(self) -> "Peak":
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
            return self
        with contextlib.suppress(OSError, AttributeError):  # glibc keeps what was freed: that is not of this work
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        self._process, self._done = psutil.Process(), threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        return self

    def _look(self) -> None:
        while True:
            self.bytes = max(self.bytes, self._process.memory_info().rss)
            if self._done.wait(_INTERVAL):
                return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, way: TracebackType | None
    ) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            self.bytes = torch.cuda.max_memory_allocated(self._device)
            return
        self._done.set()
        self._watch.join()


def room(device: torch.device) -> int:
    """Return the bytes that this rank could hold: what is free (on a CPU its share), and what it already holds."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free + torch.cuda.memory_reserved(device)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    available, own = psutil.virtual_memory().available, psutil.Process().memory_info().rss
    return int(min(available, left_by_limits()) // local + own)


def left_by_limits(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """Return the bytes below a container's or a batch job's limits (Linux's control groups, versions 1 and 2)."""
    left = math.inf
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return left
    for _, controllers, path in lines:
        if controllers not in ("", "memory"):
            continue
        root = groups / "memory" if controllers else groups
        most, used = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        )
        for place in (root / path.lstrip("/"), *(root / path.lstrip("/")).parents):  # a limit holds for all below
            if not place.is_relative_to(root):
                break
            with contextlib.suppress(OSError, ValueError):  # "max", or a group that is not seen from in here
                limit = int((place / most).read_text())
                statistics = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
                files = int(statistics.get("total_inactive_file" if controllers else "inactive_file", 0))
                left = min(left, max(0, limit - int((place / used).read_text()) + files))
    return left
