"""How long a job takes over each event, on a real Slurm of three nodes on this machine (root; docs/cluster.md).

    python benchmarks/slurm.py [--rounds 3] [--only start warning preemption rank node requeue]

Slurm holds a requeued job for two minutes. Only `requeue` waits for that; the others end the hold by scontrol, and their
times from stop to training are given without it.
"""

import argparse
import datetime
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests import making
from tests.slurm.cluster import Cluster, Job, running, submit

HANG = 10  # control.hang_seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(WHAT), choices=list(WHAT))
    options = parser.parse_args()
    found: dict[str, list[float]] = {}
    with running() as cluster, tempfile.TemporaryDirectory(prefix="gan_dist-bench-") as name:
        folder = Path(name)
        shards = making.data_set(folder / "data", 96, classes=3)
        for what in options.only:
            for number in range(1 if what == "requeue" else options.rounds):
                place = folder / f"{what}-{number}"
                place.mkdir()
                for title, seconds in WHAT[what](cluster, place, shards).items():
                    found.setdefault(title, []).append(seconds)
                    print(f"round {number + 1}  {title:64s} {seconds:8.2f}", flush=True)
    print()
    for title, values in found.items():
        print(f"{title:64s} {statistics.median(values):8.2f} ({min(values):.2f}..{max(values):.2f})")
    if {"srun: job runs to first step", "torchrun: job runs to first step"} <= set(found):
        pairs = zip(found["torchrun: job runs to first step"], found["srun: job runs to first step"], strict=True)
        print(f"torchrun over srun, RATIO: {statistics.median(one / other for one, other in pairs):.2f}")


def job_of(cluster: Cluster, folder: Path, shards: Path, name: str = "run", images: int = 10**6, **more: str) -> Job:
    """Two nodes, a process each; a checkpoint every 50 steps."""
    wanted = making.tiny(
        shards, folder / name, training__images=images, checkpoint__every=800, sample__every=10**6,
        training__strategy="exact", checkpoint__keep=3, control__hang_seconds=HANG,
    )  # fmt: skip
    return submit(cluster, folder, wanted, "--nodes=2", log=f"{name}.txt", **more)


def now() -> float:
    return time.time()


def at(event: dict[str, object]) -> float:
    return datetime.datetime.fromisoformat(str(event["time"])).timestamp()


def wait(job: Job, found: Callable[[], object], what: str, seconds: float = 300) -> float:
    """When it was so."""
    job.until(found, what, seconds)
    return now()


def running_at(job: Job) -> float:
    return wait(job, lambda: job.state == "RUNNING", "running")


def forked(pid: int) -> float:
    """When a process was started; psutil's answer is a whole second off at times, as the kernel's boot time is."""
    ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    up = float(Path("/proc/uptime").read_text().split()[0])
    return now() - (up - ticks / os.sysconf("SC_CLK_TCK"))


def end(job: Job) -> None:
    (job.run / "STOP").touch()
    job.end()


def start(cluster: Cluster, folder: Path, shards: Path) -> dict[str, float]:
    """From the moment that Slurm runs the job."""
    figures = {}
    for name, more in (
        ("srun", {"GAN_DIST_LAUNCHER": "srun"}),
        ("torchrun", {"GAN_DIST_LAUNCHER": "torchrun"}),
        ("srun, nodes checked", {"GAN_DIST_CHECK": "120"}),
    ):
        job = job_of(cluster, folder, shards, name.replace(", ", "-").replace(" ", "-"), **more)
        began = running_at(job)
        job.until(lambda job=job: job.events("started"), "started")  # type: ignore[misc]
        figures[f"{name}: job runs to first step"] = at(job.events("started")[0]) - began
        if name == "srun":
            figures["our scripts: job runs to ranks are started"] = forked(job.pid(0)) - began
            job.training()
            (job.run / "STOP").touch()
            job.until(lambda job=job: job.events("stopped"), "stopped")  # type: ignore[misc]
            ended = wait(job, lambda job=job: job.state == "COMPLETED", "ended")  # type: ignore[misc]
            figures["our scripts and exits: ranks are saved to job ends"] = ended - at(job.events("stopped")[0])
        else:
            end(job)
    return figures


def warning(cluster: Cluster, folder: Path, shards: Path) -> dict[str, float]:
    job, _, figures = warned(cluster, folder, shards, "warning")
    again(job, figures, "warning")
    return figures


def warned(cluster: Cluster, folder: Path, shards: Path, name: str) -> tuple[Job, float, dict[str, float]]:
    """A job that trained and was warned, and when."""
    job = job_of(cluster, folder, shards)
    job.training()
    told = now()
    cluster.call("scancel", "--signal=USR2", "--batch", job.number)
    return job, told, stopped(job, told, name)


def stopped(job: Job, told: float, name: str) -> dict[str, float]:
    job.until(lambda: job.events("stopped"), "stopped")
    (last,) = job.events("stopped")
    saved = next(event for event in job.events("saved") if event["images"] == last["images"])
    requeued = wait(job, lambda: int(job.cluster.job(job.number)["Restarts"]) > 0, "requeued")
    return {f"{name}: to whole checkpoint": at(saved) - told, f"{name}: to requeued": requeued - told}


def again(job: Job, figures: dict[str, float], name: str) -> None:
    """End Slurm's hold, and see when training goes on and what was lost."""
    before = max(int(json.loads(line)["images"]) for line in (job.run / "metrics.jsonl").read_text().splitlines())
    job.requeued()
    began = now()
    job.until(lambda: job.events("resumed"), "resumed")
    (resumed,) = job.events("resumed")
    figures[f"{name}: job runs again to training"] = at(resumed) - began
    figures[f"{name}: images lost"] = max(0, before - int(resumed["images"]))
    end(job)


def preemption(cluster: Cluster, folder: Path, shards: Path) -> dict[str, float]:
    job, _, figures = preempted(cluster, folder, shards, "preemption")
    again(job, figures, "preemption")
    return figures


def preempted(cluster: Cluster, folder: Path, shards: Path, name: str) -> tuple[Job, float, dict[str, float]]:
    """A job that trained and whose nodes another one took, and when."""
    job = job_of(cluster, folder, shards)
    job.training()
    told = now()
    cluster.call("sbatch", "--partition=high", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1")
    return job, told, stopped(job, told, name)


def rank(cluster: Cluster, folder: Path, shards: Path) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, number in (("a rank is killed", signal.SIGKILL), ("a rank hangs", signal.SIGSTOP)):
        place = folder / name.replace(" ", "-")
        place.mkdir()
        job = job_of(cluster, place, shards)
        job.training()
        struck = now()
        os.kill(job.pid(1), number)
        requeued = wait(job, lambda job=job: int(cluster.job(job.number)["Restarts"]) > 0, "requeued")  # type: ignore[misc]
        figures[f"{name}: to requeued"] = requeued - struck
        again(job, figures, name)
    return figures


def node(cluster: Cluster, folder: Path, shards: Path) -> dict[str, float]:
    job = job_of(cluster, folder, shards)
    job.training()
    facts = cluster.job(job.number)
    names = cluster.call("scontrol", "show", "hostnames", facts["NodeList"]).split()
    lost = next(name for name in names if name != facts["BatchHost"])
    told = now()
    cluster.node("kill-node", lost)
    try:
        requeued = wait(job, lambda: int(cluster.job(job.number)["Restarts"]) > 0, "requeued")
        figures = {"node lost: to requeued": requeued - told}
        again(job, figures, "node lost")
    finally:
        cluster.node("start-node", lost)
    wait(job, lambda: cluster.call("sinfo", "-h", "-N", "-p", "main", "-o", "%T").split().count("idle") >= 3, "3 nodes")
    return figures


def requeue(cluster: Cluster, folder: Path, shards: Path) -> dict[str, float]:
    """Slurm's own hold, once for each event."""
    figures = {}
    for name, begun in (("warning", warned), ("preemption", preempted)):
        place = folder / name
        place.mkdir()
        job, told, _ = begun(cluster, place, shards, name)
        job.until(lambda job=job: job.events("resumed"), "resumed", 300)  # type: ignore[misc]
        figures[f"with Slurm's hold: {name} to training again"] = at(job.events("resumed")[0]) - told
        end(job)
    return figures


WHAT = {
    "start": start,
    "warning": warning,
    "preemption": preemption,
    "rank": rank,
    "node": node,
    "requeue": requeue,
}

if __name__ == "__main__":
    main()
