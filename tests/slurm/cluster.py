"""A real Slurm on this machine, and jobs on it: for the tests of this folder and benchmarks/slurm.py."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.launching import REPOSITORY, lines
from tests.making import flags

CLUSTER = REPOSITORY / "tests/slurm/cluster.sh"
NODES = 3
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")


class Cluster:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def call(self, *words: object, check: bool = True, **environment: str) -> str:
        done = subprocess.run(
            [str(word) for word in words],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def node(self, verb: str, name: str) -> None:
        self.call(CLUSTER, verb, name, self.folder)

    def inside(self, name: str, *words: object) -> None:
        """Run a command in the namespaces of a node: its hostname and its mounts."""
        pid = (self.folder / f"run/slurmd-{name}.pid").read_text().strip()
        self.call("nsenter", f"--target={pid}", "--mount", "--uts", *words)

    def cancel(self, numbers: Iterable[str]) -> None:
        """Cancel what is left of these jobs, and wait until none of them is in the queue."""
        jobs = ",".join(numbers)
        if not jobs:
            return
        self.call("scancel", *jobs.split(","), check=False)
        end = time.monotonic() + 30
        while time.monotonic() < end and self.call("squeue", "-h", f"--jobs={jobs}", check=False):
            time.sleep(0.2)

    def job(self, number: str) -> dict[str, str]:
        """What scontrol says of a job."""
        text = self.call("scontrol", "-o", "show", "job", number)
        return dict(re.findall(r"(\S+?)=(\S*)", text))


class Job:
    """A submitted job, its log and its run directory."""

    def __init__(self, cluster: Cluster, number: str, log: Path, run: Path) -> None:
        self.cluster, self.number, self.log, self.run = cluster, number, log, run

    @property
    def state(self) -> str:
        return self.cluster.job(self.number)["JobState"]

    def text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def restarts(self) -> int:
        return int(self.cluster.job(self.number)["Restarts"])

    def elapsed(self) -> int:
        """Seconds since this start of the job."""
        days, _, clock = self.cluster.job(self.number)["RunTime"].rpartition("-")
        hours, minutes, seconds = map(int, clock.split(":"))
        return int(days or 0) * 86_400 + hours * 3600 + minutes * 60 + seconds

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.run / "status.json").read_text())
        return found

    def events(self, kind: str) -> list[dict[str, Any]]:
        path = self.run / "events.jsonl"
        found = lines(path) if path.exists() else []
        return [line for line in found if line["event"] == kind]

    def last_saved(self) -> int:
        """Images of the newest checkpoint."""
        return max(int(path.parent.name[7:]) for path in self.run.glob("checkpoints/images-*/manifest.json"))

    def until(
        self,
        found: Callable[[], Any],
        what: str,
        seconds: float = 180,
        alive: bool = False,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Any:
        """Wait for `found`; with `alive`, no longer than the job lives. `meanwhile` is done before each look."""
        end = time.monotonic() + seconds
        while True:
            meanwhile()
            with contextlib.suppress(OSError, ValueError, KeyError):
                if value := found():
                    return value
            if time.monotonic() > end or (alive and self.state in OVER):
                self.cluster.call("scancel", self.number, check=False)
                raise AssertionError(f"not within {seconds} s: {what}; job {self.state}\n{self.text()[-4000:]}")
            time.sleep(0.1)

    def training(self, beyond: int = 0) -> None:
        """Wait until a checkpoint beyond a position is there."""
        self.until(lambda: any(event["images"] > beyond for event in self.events("saved")), f"saved beyond {beyond}")

    def pid(self, rank: int) -> int:
        """Of a rank that trains; a start that is beginning leaves the number of the one before for a moment."""

        def lives() -> int:
            found = json.loads((self.run / f"logs/processes/rank-{rank}.json").read_text())
            os.kill(int(found["pid"]), 0)
            return int(found["pid"])

        return int(self.until(lives, f"rank {rank} lives", seconds=30))

    def requeued(self) -> None:
        """Wait until the job waits to be started again, and end Slurm's own hold of two minutes."""
        # Slurm takes a job for one that was already killed if it is started while its last start is cleared up
        self.until(lambda: self.restarts() > 0 and self.state == "PENDING", "requeued")
        time.sleep(2)

        self.until(lambda: self.state == "RUNNING", "started again", alive=True, meanwhile=self.release)

    def release(self) -> None:
        """End Slurm's own hold of two minutes, if the job is in one."""
        if self.state == "PENDING":
            self.cluster.call("scontrol", "update", f"JobId={self.number}", "StartTime=now", check=False)

    def end(self, seconds: float = 180) -> str:
        """The state in which the job ended."""
        return str(self.until(lambda: self.state if self.state in OVER else "", "the end", seconds))


def may_run() -> str:
    """Why a Slurm of its own cannot run here; empty if it can."""
    if os.geteuid() != 0:
        return "a Slurm of its own needs root"
    installed = all(shutil.which(name) for name in ("slurmctld", "slurmd", "munged", "sbatch"))
    may_install = "slurm" in os.environ.get("GAN_DIST_REQUIRE", "").split(",") and shutil.which("apt-get") is not None
    return "" if installed or may_install else "no Slurm here (apt-get install slurmctld slurmd slurm-client munge)"


@contextlib.contextmanager
def running() -> Iterator[Cluster]:
    """A cluster of three nodes, of two cores and two pretended GPUs each, while the block runs."""
    folder = Path("/tmp") / f"gan_dist-slurm-{os.getpid()}"  # a unix socket's path is short
    first = f"FirstJobId={1 + os.getpid() * 997 % 8000}"  # of two clusters here no two jobs take the same port
    environment = {
        **os.environ,
        "NODES": str(NODES),
        "GPUS": "2",
        "PORT": str(20000 + 10 * os.getpid() % 10000),
        "EXTRA": first,
    }
    started = subprocess.run(
        [str(CLUSTER), "start", str(folder)], env=environment, capture_output=True, text=True, timeout=300
    )
    try:
        assert started.returncode == 0, started.stderr
        yield Cluster(folder)
    finally:
        subprocess.run([str(CLUSTER), "stop", str(folder)], env=environment, capture_output=True, timeout=120)
        shutil.rmtree(folder, ignore_errors=True)


def settings(folder: Path) -> dict[str, str]:
    """What sbatch's environment says of this machine."""
    return {
        "GAN_DIST_ROOT": str(REPOSITORY),
        "GAN_DIST_VENV": str(Path(sys.executable).parent.parent),
        "GAN_DIST_JOBS": str(folder / "jobs"),
        "GAN_DIST_CHECK": "0",  # it has a test of its own
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "30",
    }


def submit(
    cluster: Cluster,
    folder: Path,
    wanted: Mapping[str, object],
    *options: str,
    log: str = "job.txt",
    config: str = str(REPOSITORY / "tests/data/digits.yaml"),
    **environment: str,
) -> Job:
    """A job of slurm/train.sbatch, from `folder`, with its log there."""
    number = cluster.call(
        "sbatch", "--parsable", f"--output={folder / log}", f"--chdir={folder}", *options,
        REPOSITORY / "slurm/train.sbatch", config, *flags(wanted), **{**settings(folder), **environment},
    )  # fmt: skip
    return Job(cluster, number.split(";")[0], folder / log, Path(str(wanted["run.directory"])))
