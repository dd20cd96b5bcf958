"""What happens to a job that trains: it is requeued, goes on and finishes, as if it never had."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, Job
from tests.slurm.conftest import LONG, Check, Submit, keys

pytestmark = pytest.mark.slow

Training = Callable[..., Job]
by_either = pytest.mark.parametrize("launcher", ["srun", "torchrun"])


@pytest.fixture
def training(submit: Submit, shards: Path, tmp_path: Path) -> Training:
    """training("srun"): a job on two nodes, once it trains."""

    def one(launcher: str = "srun") -> Job:
        # hang_seconds longer than Slurm waits before it kills: a stopped rank does not end itself
        wanted = {**keys(shards, tmp_path / "run", LONG), "control.hang_seconds": 10}
        job = submit(wanted, "--nodes=2", GAN_DIST_LAUNCHER=launcher)
        job.training()
        return job

    return one


def finishes(job: Job, check: Check) -> int:
    """It is started again and finishes as the undisturbed run. Where it went on."""
    job.requeued()
    job.until(lambda: job.events("resumed"), "resumed", meanwhile=job.release)
    assert job.end() == "COMPLETED", job.text()
    (resumed,) = job.events("resumed")
    check(job, LONG)
    return int(resumed["images"])


def take_all_nodes(cluster: Cluster) -> str:
    """A job that preempts; its number."""
    return cluster.call(
        "sbatch",
        "--parsable",
        "--partition=high",
        "--nodes=3",
        "--exclusive",
        "--output=/dev/null",
        "--wrap",
        "sleep 1",
    )


@by_either
def test_the_warning_signal_saves_and_the_job_is_requeued_and_goes_on(
    cluster: Cluster, training: Training, check: Check, launcher: str
) -> None:
    job = training(launcher)
    for _ in range(2):  # a second one during the save does not tear it
        cluster.call("scancel", "--signal=USR2", "--batch", job.number)
    at = finishes(job, check)
    (stopped,) = job.events("stopped")
    assert (stopped["reason"], stopped["images"]) == ("SIGUSR2", at)  # nothing was lost
    assert "requeue" in job.text()


@by_either
def test_preemption_stops_saves_and_goes_on(cluster: Cluster, training: Training, check: Check, launcher: str) -> None:
    job = training(launcher)
    number = take_all_nodes(cluster)
    job.until(lambda: job.events("stopped"), "stopped")
    assert finishes(job, check) == job.events("stopped")[0]["images"]
    assert cluster.job(number)["JobState"] == "COMPLETED"


def test_a_preempted_job_that_cannot_react_is_killed_and_goes_on_from_its_last_checkpoint(
    cluster: Cluster, training: Training, check: Check
) -> None:
    job = training()
    ranks = [job.pid(rank) for rank in (0, 1)]
    saved, requeued = job.last_saved(), threading.Event()

    def keep_stopped() -> None:
        while not requeued.wait(0.002):  # over and over: with its TERM Slurm sends CONT, and a save takes 20 ms
            for pid in ranks:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)

    stopping = threading.Thread(target=keep_stopped)
    stopping.start()
    try:
        take_all_nodes(cluster)
        job.until(lambda: job.restarts() > 0, "requeued")
    finally:
        requeued.set()
        stopping.join()
    assert not job.events("stopped")
    assert finishes(job, check) >= saved
    assert not any(Path(f"/proc/{pid}/status").exists() for pid in ranks)


@by_either
def test_a_killed_rank_costs_at_most_one_checkpoint_interval(training: Training, check: Check, launcher: str) -> None:
    job = training(launcher)
    saved = job.last_saved()
    os.kill(job.pid(1), signal.SIGKILL)  # as the kernel does when memory runs out
    assert finishes(job, check) >= saved
    # srun ends rank 0 before it has its say, and names the task itself
    said = [str(event["reason"]) for event in job.events("failed")]
    assert "task 1: Killed" in job.text() or ("rank 1 was killed" in said[0] and "on node" in said[0])


def test_a_hung_rank_costs_at_most_one_checkpoint_interval(training: Training, check: Check) -> None:
    job = training()
    saved = job.last_saved()
    os.kill(job.pid(1), signal.SIGSTOP)  # control.hang_seconds
    assert finishes(job, check) >= saved


@pytest.mark.parametrize("which", ["another's", "the batch shell's"])
def test_a_lost_node_costs_at_most_one_checkpoint_interval(
    cluster: Cluster, training: Training, check: Check, which: str
) -> None:
    job = training()
    saved = job.last_saved()
    facts = cluster.job(job.number)
    names, shell = cluster.call("scontrol", "show", "hostnames", facts["NodeList"]).split(), facts["BatchHost"]
    lost = shell if which == "the batch shell's" else next(name for name in names if name != shell)
    cluster.node("kill-node", lost)
    try:
        assert finishes(job, check) >= saved
        assert lost not in cluster.call("scontrol", "show", "hostnames", cluster.job(job.number)["NodeList"]).split()
    finally:
        cluster.node("start-node", lost)
        job.until(lambda: "State=IDLE " in cluster.call("scontrol", "-o", "show", "node", lost), f"{lost} is back")


def test_a_time_limit_is_warned_of_and_nothing_is_lost(
    submit: Submit, cluster: Cluster, shards: Path, tmp_path: Path, check: Check
) -> None:
    wanted = {**keys(shards, tmp_path / "run", LONG), "control.hang_seconds": 120, "run.deadline": "1:00:00"}
    job = submit(wanted, "--nodes=2", "--time=60", "--signal=B:USR2@45")
    job.training()
    ranks = [job.pid(rank) for rank in (0, 1)]
    for pid in ranks:  # else the run is finished before its time is up
        os.kill(pid, signal.SIGSTOP)
    minutes = (
        2 + job.elapsed() // 60
    )  # a limit of a minute from the start would be met before training on a slow machine
    cluster.call("scontrol", "update", f"JobId={job.number}", f"TimeLimit={minutes}")
    job.until(lambda: "warned: " in job.text(), "the warning")
    cluster.call("scontrol", "update", f"JobId={job.number}", "TimeLimit=60")
    for pid in ranks:
        os.kill(pid, signal.SIGCONT)
    at = finishes(job, check)
    (stopped,) = job.events("stopped")
    assert (stopped["reason"], stopped["images"]) == ("SIGUSR2", at)
