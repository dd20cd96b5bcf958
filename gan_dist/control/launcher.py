"""Whether the launcher that started this rank still lives: without it nobody sees the rank, and it blocks the next start.

A launcher that is killed (kill -9 of torchrun or `accelerate launch`) leaves its ranks behind. Those that train save and
stop; those that have not joined yet would wait for the launcher's store for hours, and end at once. Only a launcher of
ranks counts. A run started by hand may outlive its terminal (nohup, setsid), and Slurm ends the steps of its jobs itself.

This module loads nothing but the standard library: it watches while torch is still loading.
"""

import os
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from gan_dist.control.peers import born
from gan_dist.errors import EXIT_STOPPED

_PAUSE = 1.0  # seconds between two looks
_ELASTIC = "TORCHELASTIC_RUN_ID"  # set by torchrun, and by `accelerate launch` for several ranks
_LAUNCHERS = (
    "accelerate",
    "accelerate.commands.launch",
    "deepspeed",
    "deepspeed.launcher.launch",
    "hydra_pmi_proxy",
    "mpiexec",
    "mpirun",
    "orted",
    "prted",
    "torch.distributed.launch",
    "torch.distributed.run",
    "torchrun",
)
"""How a launcher's command line names it, in one of its first words."""


class LauncherWatch:
    """Calls a function once the process `pid` is gone. Until `then` gives another one, it ends this process."""

    def __init__(self, pid: int) -> None:
        self._pid, self._born = pid, born(pid)
        self._changed = threading.Lock()
        self._act: Callable[[], object] = self._end
        if pid:
            threading.Thread(target=self._watch, name="launcher", daemon=True).start()

    def then(self, act: Callable[[], object]) -> None:
        """From now on call this when the launcher is gone."""
        with self._changed:
            self._act = act

    def _watch(self) -> None:
        pause = threading.Event()
        while born(self._pid) == self._born and self._born:
            pause.wait(_PAUSE)
        with self._changed:
            self._act()

    def _end(self) -> None:
        rank = os.environ.get("RANK", "0")
        line = (
            f"rank {rank}: ended before the training began, because its launcher (process {self._pid}) is gone; "
            "start the same command again"
        )
        try:
            threading.Thread(
                target=print, args=(line,), kwargs={"file": sys.stderr, "flush": True}, daemon=True
            ).start()
            threading.Event().wait(_PAUSE)  # a terminal that is gone too may take nothing
        finally:
            os._exit(EXIT_STOPPED)


def watch() -> LauncherWatch:
    """Watch this rank's launcher from now on, if one started it. Call it first of all."""
    return LauncherWatch(find(os.environ))


def find(environment: Mapping[str, str]) -> int:
    """Return the process id of the launcher; 0 where this process was not started by one."""
    parent = os.getppid()
    if run := environment.get(_ELASTIC):
        # wrappers between the launcher and this process have the same variable; the launcher has not
        while parent > 1 and f"{_ELASTIC}={run}".encode() in _read(parent, "environ"):
            parent = _parent(parent)
        return parent
    if int(environment.get("WORLD_SIZE", "1")) > 1:
        words = _read(parent, "cmdline")[:4]
        if any(Path(os.fsdecode(word)).name in _LAUNCHERS for word in words):
            return parent
    return 0


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _read(pid: int, name: str) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().split(b"\0")
    except OSError:  # another user's, or gone
        return []
