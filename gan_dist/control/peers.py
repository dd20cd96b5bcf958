"""What the ranks of a launch know of each other: how far each is, whether it lives, and which failed first.

They tell each other on a board, a few short texts that all can write and read. A turn costs a rank two of them, at any
world size. Each also has a file, `logs/processes/rank-N.json`, of its beginning and its end. Where the board is gone it is
kept up to date, and the ranks read each other's files, the more seldom the more they are.
"""

import contextlib
import dataclasses
import json
import os
import socket
import time
from pathlib import Path
from typing import Protocol

HEARTBEAT = 2.0  # seconds between two signs of life on the board
_FAILED = "failed"  # holds the first failure


def names(world_size: int) -> list[str]:
    """Return all names that are used on the board."""
    return [*(f"rank-{rank}" for rank in range(world_size)), _FAILED]


class Board(Protocol):
    """Short texts by name that all ranks can write and read. Raises OSError or RuntimeError where it is gone."""

    def put(self, name: str, text: str) -> None: ...
    def put_first(self, name: str, text: str) -> None:
        """Write it unless there is something already."""

    def read(self, names: list[str]) -> list[str]:
        """Return the text of each name, "" where there is none."""
        ...


@dataclasses.dataclass(kw_only=True)
class Progress:
    """What a rank tells of itself."""

    launch: str
    rank: int
    host: str
    pid: int
    born: str
    """When the process began, as the kernel counts: a pid alone may be another process by now."""
    machine: str = ""
    """Where that pid means this process: a boot of a machine, and a PID namespace (a container) on it."""
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

    @classmethod
    def of_this_process(cls, launch: str, rank: int) -> "Progress":
        pid = os.getpid()
        return cls(launch=launch, rank=rank, host=socket.gethostname(), pid=pid, born=born(pid), machine=machine())

    def lives(self) -> bool:
        """Return whether the process is there. Makes sense on its machine only."""
        return born(self.pid) == self.born


class Peers:
    """The other ranks, as `own` sees them. Every method may wait for the board or for the disk."""

    def __init__(self, directory: Path, own: Progress, world_size: int, board: Board | None) -> None:
        self._directory, self._own, self._world_size = directory, own, world_size
        self._board = board
        self._board_works = board is not None
        self._neighbours: dict[int, Progress] = {}
        """Ranks of this machine: whether they live, the kernel knows."""
        self._to_meet = world_size - 1
        self._meeting_at = 0.0

    @property
    def patience(self) -> float:
        """How much slower to look, as a factor: without a board each look opens the file of every rank."""
        return 1.0 if self._board_works else max(1.0, self._world_size / 16)

    @property
    def heartbeat(self) -> float:
        """Seconds between two signs of life, if the board works; 0 if not: then that of the files counts."""
        return HEARTBEAT if self._board_works else 0.0

    def tell(self) -> None:
        """Give a sign of life on the board."""
        self._own.written = time.time()
        self._put(f"rank-{self._own.rank}", self._own)

    def tell_failure(self, lost: Progress | None = None) -> None:
        """Say that this rank failed, or that it saw another one gone; only the first failure of the launch is kept."""
        lost = lost or dataclasses.replace(self._own, error=f"failed: {self._own.error}")
        self._put(_FAILED, lost, first=True)

    def write_file(self) -> None:
        """Write this rank's file. Raises OSError."""
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / f"rank-{self._own.rank}.json"
        part = path.with_suffix(".part")
        part.write_text(json.dumps({**dataclasses.asdict(self._own), "written": time.time()}))
        part.replace(path)  # no fsync: it is of no use after a power cut

    def others(self) -> list[Progress]:
        """Return what every other rank told last, in order of rank. Reads W - 1 texts, so it is not for every turn."""
        names = [f"rank-{rank}" for rank in range(self._world_size) if rank != self._own.rank]
        return [progress for text in self._read(names) if (progress := self._parse(text))]

    def lost(self) -> Progress | None:
        """Return the rank that failed first, or one of this machine that is gone; its `error` says how."""
        if failed := self._first_failed():
            return failed if failed.rank != self._own.rank else None
        self._meet()
        for rank, neighbour in self._neighbours.items():
            if neighbour.lives():
                continue
            latest = self._parse(self._read([f"rank-{rank}"])[0]) or neighbour
            if latest.state == "running":
                error = f"was killed (process {latest.pid} on {latest.host})"
                gone = dataclasses.replace(latest, error=error)
                self.tell_failure(gone)
                return gone
        return None

    def _first_failed(self) -> Progress | None:
        if self._board is not None:
            try:
                found = self._parse(self._board.read([_FAILED])[0])
                self._board_works = True
                return found
            except (OSError, RuntimeError):
                self._board_works = False
        for other in self.others():
            if other.state == "failed":
                return dataclasses.replace(other, error=f"failed: {other.error}")
        return None

    def _meet(self) -> None:
        """Learn which ranks run on this machine. They start at about the same time: one or two looks at all do."""
        now = time.monotonic()
        if not self._to_meet or now < self._meeting_at:
            return
        self._meeting_at = now + max(1.0, self._world_size / 16)
        others = self.others()
        self._to_meet = self._world_size - 1 - len(others)
        self._neighbours = {
            other.rank: other for other in others if other.machine == self._own.machine and other.state == "running"
        }

    def _put(self, name: str, progress: Progress, first: bool = False) -> None:
        if self._board is None:
            return
        text = json.dumps(dataclasses.asdict(progress))
        try:
            (self._board.put_first if first else self._board.put)(name, text)
            self._board_works = True
        except (OSError, RuntimeError):
            self._board_works = False

    def _read(self, names: list[str]) -> list[str]:
        if self._board is not None:
            try:
                texts = self._board.read(names)
                self._board_works = True
                return texts
            except (OSError, RuntimeError):
                self._board_works = False
        texts = []
        for name in names:
            with contextlib.suppress(OSError, ValueError):
                texts.append((self._directory / f"{name}.json").read_text())
        return texts if len(names) > 1 or texts else [""]

    def _parse(self, text: str) -> Progress | None:
        """Return the progress of a rank of this launch; None for anything else, such as a file of an earlier launch."""
        with contextlib.suppress(ValueError, TypeError):
            progress = Progress(**json.loads(text))
            return progress if progress.launch == self._own.launch else None
        return None


def machine() -> str:
    """Return a name for what a pid of this process refers to: two containers of one host, or two hosts, never share it."""
    boot, namespace = "", ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with contextlib.suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    return f"{boot or socket.gethostname()} {namespace}"


def born(pid: int) -> str:
    """Return when a process of this machine began; "" where there is none, or only its remains."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
