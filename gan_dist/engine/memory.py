"""How much memory a piece of work takes on a process's device, and how much a process may take there."""

import contextlib
import ctypes
import os
import threading
from types import TracebackType

import psutil
import torch

_INTERVAL = 0.001  # seconds between two looks at a process on a CPU


class Peak:
    """`with Peak(device) as peak: ...`: afterwards `peak.bytes` is the most that this process held meanwhile.

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
    """Bytes that this process could hold: what is free, on a CPU its share of it, and what it holds already."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free + torch.cuda.memory_reserved(device)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    available, own = psutil.virtual_memory().available, psutil.Process().memory_info().rss
    return int(available // local + own)
