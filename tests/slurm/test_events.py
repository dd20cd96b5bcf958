"""What happens to a job that trains: the run goes on as if it never had, or the job ends and says why."""

import contextlib
import functools
import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.launching import digests, start
from tests.slurm import cluster as slurm
from tests.slurm.cluster import Cluster, Job
from tests.slurm.conftest import SLOW, STEP, Submit, keys

pytestmark = pytest.mark.slow

SO_FAR = STEP * 800
Figures = dict[int, list[tuple[str, float]]]
Undisturbed = Callable[[], tuple[Figures, dict[str, str]]]
"""Figures of each step, and the digest of each checkpoint."""
by_srun = pytest.mark.parametrize("launcher", ["srun"], indirect=True)
by_either = pytest.mark.parametrize("launcher", ["srun", "torchrun"], indirect=True)


@pytest.fixture(scope="module")
def undisturbed(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undisturbed]:
    """undisturbed(): the run's first steps, without Slurm."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    started = start({**keys(shards, run, SO_FAR), "checkpoint.keep": 1000})  # while the first job waits for Slurm

    @functools.cache
    def found() -> tuple[Figures, dict[str, str]]:
        assert started.end() == 0
        return figures(run), digests(run)

    try:
        yield found
    finally:
        started.kill()


@pytest.fixture(scope="module")
def launcher(request: pytest.FixtureRequest) -> str:
    found: str = request.param  # pytest runs the tests of one launcher after each other
    return found


@pytest.fixture(scope="module")
def one_job(
    cluster: Cluster, shards: Path, tmp_path_factory: pytest.TempPathFactory, launcher: str
) -> Iterator[Callable[[], Job]]:
    """one_job(): a job on two nodes that trains; the same for all tests, as long as they leave it so."""
    jobs: list[Job] = []
    count = itertools.count()

    def one() -> Job:
        if not jobs or jobs[-1].state != "RUNNING":
            cluster.cancel(job.number for job in jobs)
            folder = tmp_path_factory.mktemp("job")
            # longer than Slurm waits before it kills: a stopped rank does not end itself
            wanted = {**keys(shards, folder / "run", SLOW), "control.hang_seconds": 10}
            log = f"job-{next(count)}.txt"
            jobs.append(slurm.submit(cluster, folder, wanted, "--nodes=2", log=log, GAN_DIST_LAUNCHER=launcher))
            jobs[-1].training()
        return jobs[-1]

    try:
        yield one
    finally:
        cluster.cancel(job.number for job in jobs)


@pytest.fixture
def job(one_job: Callable[[], Job]) -> Job:
    """What it says of itself counts from here."""
    found = one_job()
    found.mark()
    return found


def figures(run: Path) -> Figures:
    """Losses, scores and gradient norms of each step."""
    found: Figures = {}
    for text in (run / "metrics.jsonl").read_text().splitlines():
        with contextlib.suppress(ValueError):  # being written
            line = json.loads(text)
            assert line["images"] not in found
            found[line["images"]] = sorted(
                item for item in line.items() if item[0].startswith(("loss/", "score/", "grad_"))
            )
    return found


def goes_on(job: Job, undisturbed: Undisturbed) -> int:
    """It was started again; every step before and after has the figures of the undisturbed run, and what it saved since
    then the same bits. Where it went on."""
    job.requeued()
    job.until(lambda: job.events("resumed"), "resumed", meanwhile=job.release)
    (resumed,) = job.events("resumed")
    images = int(resumed["images"])
    saved = job.until(lambda: saved_since(job, images), f"a checkpoint beyond {images}")
    ours = figures(job.run)
    assert list(ours) == list(range(STEP, STEP * len(ours) + 1, STEP))  # no step is missing, none is there twice
    wanted, checkpoints = undisturbed()
    assert images + STEP in wanted, "stopped too late to compare"
    assert all(ours[at] == wanted[at] for at in ours if at in wanted)
    assert checkpoints.items() >= saved.items()
    return images


def saved_since(job: Job, images: int) -> dict[str, str]:
    """Digests of the checkpoints beyond a position, before which they are deleted again."""
    first, last = f"images-{images:09d}", f"images-{SO_FAR:09d}"
    # None: deleted while it was read
    return {name: digest for name, digest in digests(job.run).items() if first < name <= last and digest != "None"}


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
    cluster: Cluster, job: Job, undisturbed: Undisturbed
) -> None:
    for _ in range(2):  # a second one during the save does not tear it
        cluster.call("scancel", "--signal=USR2", "--batch", job.number)
    at = goes_on(job, undisturbed)
    (stopped,) = job.events("stopped")
    assert (stopped["reason"], stopped["images"]) == ("SIGUSR2", at)  # nothing was lost
    assert "requeue" in job.text()


@by_either
def test_preemption_stops_saves_and_goes_on(cluster: Cluster, job: Job, undisturbed: Undisturbed) -> None:
    number = take_all_nodes(cluster)
    job.until(lambda: job.events("stopped"), "stopped")
    assert goes_on(job, undisturbed) == job.events("stopped")[0]["images"]
    assert cluster.job(number)["JobState"] == "COMPLETED"


@by_srun
def test_a_preempted_job_that_cannot_react_is_killed_and_goes_on_from_its_last_checkpoint(
    cluster: Cluster, job: Job, undisturbed: Undisturbed
) -> None:
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
    assert goes_on(job, undisturbed) >= saved
    assert not any(Path(f"/proc/{pid}/status").exists() for pid in ranks)


@by_either
def test_a_killed_rank_costs_at_most_one_checkpoint_interval(job: Job, undisturbed: Undisturbed) -> None:
    saved = job.last_saved()
    os.kill(job.pid(1), signal.SIGKILL)  # as the kernel does when memory runs out
    assert goes_on(job, undisturbed) >= saved
    # srun ends rank 0 before it has its say, and names the task itself
    said = [str(event["reason"]) for event in job.events("failed")]
    assert "task 1: Killed" in job.text() or "rank 1 on node" in said[0]


@by_srun
def test_a_hung_rank_costs_at_most_one_checkpoint_interval(job: Job, undisturbed: Undisturbed) -> None:
    saved = job.last_saved()
    os.kill(job.pid(1), signal.SIGSTOP)  # control.hang_seconds
    assert goes_on(job, undisturbed) >= saved


@by_srun
@pytest.mark.parametrize("which", ["another's", "the batch shell's"])
def test_a_lost_node_costs_at_most_one_checkpoint_interval(
    cluster: Cluster, job: Job, undisturbed: Undisturbed, which: str
) -> None:
    saved = job.last_saved()
    facts = cluster.job(job.number)
    names, shell = cluster.call("scontrol", "show", "hostnames", facts["NodeList"]).split(), facts["BatchHost"]
    lost = shell if which == "the batch shell's" else next(name for name in names if name != shell)
    cluster.node("kill-node", lost)
    try:
        assert goes_on(job, undisturbed) >= saved
        assert lost not in cluster.call("scontrol", "show", "hostnames", cluster.job(job.number)["NodeList"]).split()
    finally:
        cluster.node("start-node", lost)
        job.until(lambda: "State=IDLE " in cluster.call("scontrol", "-o", "show", "node", lost), f"{lost} is back")


@by_either
def test_a_job_that_a_person_cancels_is_saved_and_not_requeued(cluster: Cluster, job: Job) -> None:
    cluster.call("scancel", job.number)
    # a node that clears up an earlier start may miss the first: until() cancels again before it gives up
    with contextlib.suppress(AssertionError):
        job.until(lambda: "told to end" in job.text(), "the signal", seconds=20)
    job.until(lambda: "cancelled" in job.text(), "its last words")
    assert job.end() == "CANCELLED"
    assert job.status()["state"] == "stopped"
    assert job.last_saved() == job.events("stopped")[0]["images"]
    time.sleep(3)
    assert job.restarts() == 0


def test_a_time_limit_is_warned_of_and_nothing_is_lost(
    submit: Submit, shards: Path, tmp_path: Path, undisturbed: Undisturbed
) -> None:
    wanted = {**keys(shards, tmp_path / "run", SLOW), "run.deadline": "1:00:00", "checkpoint.every": SLOW}
    job = submit(wanted, "--nodes=2", "--time=1", "--signal=B:USR2@45")
    job.until(lambda: job.events("stopped"), "stopped")
    (stopped,) = job.events("stopped")
    assert stopped["reason"] == "SIGUSR2"
    job.requeued()
    job.until(lambda: job.events("resumed"), "resumed")
    assert job.events("resumed")[0]["images"] == stopped["images"] > 0
    job.until(lambda: max(figures(job.run)) > stopped["images"], "steps beyond", seconds=30)
    ours, (wanted, _) = figures(job.run), undisturbed()
    assert list(ours) == list(range(STEP, STEP * len(ours) + 1, STEP))
    assert all(ours[at] == wanted[at] for at in ours if at in wanted)


def test_a_run_that_does_not_advance_is_not_started_for_ever(
    cluster: Cluster, submit: Submit, shards: Path, tmp_path: Path
) -> None:
    # every start is killed before its first checkpoint
    job = submit({**keys(shards, tmp_path / "run", SLOW), "checkpoint.every": SLOW}, "--nodes=1")
    for number in range(2):
        job.until(lambda n=number: len(job.events("started")) > n, f"start {number + 1}")  # type: ignore[misc]
        os.kill(job.pid(0), signal.SIGKILL)
        if number == 0:
            job.requeued()
    assert job.end() == "FAILED"
    assert "2 starts in a row brought no image beyond 0" in job.text()


@pytest.mark.parametrize("how", ["torn", "missing"])
def test_a_status_that_is_not_there_is_not_guessed_at(
    cluster: Cluster, submit: Submit, shards: Path, tmp_path: Path, how: str
) -> None:
    job = submit({**keys(shards, tmp_path / "run", SLOW), "checkpoint.every": SLOW}, "--nodes=1")
    job.until(lambda: job.status()["state"] == "running" and job.pid(0), "running")
    if how == "torn":
        (job.run / "status.json").write_text('{"state": "runn')
    else:
        (job.run / "status.json").unlink()
    os.kill(job.pid(0), signal.SIGKILL)
    assert job.end() == "FAILED"
    assert "status.json is torn or missing" in job.text()
    assert cluster.job(job.number)["Restarts"] == "0"
