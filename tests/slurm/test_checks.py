"""What is looked at before a job trains: on the login node, on all its nodes, and by the doctor."""

import contextlib
import itertools
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.launching import REPOSITORY
from tests.making import flags
from tests.slurm.cluster import Cluster, Job, settings
from tests.slurm.conftest import IMAGES, Check, Submit, keys

pytestmark = pytest.mark.slow

GAN_DIST = Path(sys.executable).with_name("gan-dist")


def test_gan_dist_slurm_checks_submits_and_says_how_it_stands(
    cluster: Cluster, shards: Path, tmp_path: Path, check: Check, cancel: Callable[[str], str]
) -> None:
    run = tmp_path / "run"
    mine = tmp_path / "mine.yaml"  # not in the repository, and neither is where the command is called
    mine.write_text((REPOSITORY / "tests/data/digits.yaml").read_text())

    def call(*words: object) -> str:
        command = ["env", "-C", tmp_path, GAN_DIST, "slurm", "mine.yaml", *flags(keys(shards, run, IMAGES)), *words]
        return cluster.call(*command, check=False, **settings(tmp_path))

    nothing = f"pipe:cat {tmp_path}/nothing.tar"
    asked = ["--nodes", 5, "--time", "90-0", "--partition", "short", "--gpus-per-node", 4]
    refused = call(*asked, "--data.shards", nothing, "--data.allow_pipe", "true")
    assert f"PROBLEM  data        data.shards: {nothing} cannot be read" in refused
    assert "PROBLEM  partition   short has 3 nodes for a job, --nodes asks for 5" in refused, refused
    assert "short ends jobs after 00:01:00, --time asks for 90-0" in refused
    assert "short has 2 GPUs on a node, --gpus-per-node asks for 4" in refused
    assert "PROBLEM  processes   training.strategy = exact cannot sum 2 micro-batches over 20 processes" in refused
    assert "ok       cores       none asked for" in refused
    assert "there is no partition nowhere; --partition takes main, high, short" in call("--partition", "main,nowhere")
    assert "PROBLEM  margin      warned 180 s before the end of a job of 60 s" in call(
        "--partition", "short"
    )  # its limit
    # the nodes are taken: the job waits, and meanwhile the config is edited
    other = cancel(
        cluster.call("sbatch", "--parsable", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap", "sleep 60")
    )
    done = json.loads(call("--nodes", 2, "--partition", "short,main", "--time", "9:00", "--submit", "--json"))
    found = {row["what"]: row for row in done["findings"]}
    assert [what for what, row in found.items() if not row["good"]] == []
    assert found["partition"]["text"].startswith("main: 3 nodes")
    template = REPOSITORY / "slurm/train.sbatch"
    assert done["line"].startswith(
        f"GAN_DIST_ROOT={REPOSITORY} sbatch --nodes=2 --time=9:00 --partition=short,main --job-name=mine {template} mine.yaml --run.directory {run}"
    )
    job = Job(cluster, cancel(done["job"]), tmp_path / f"mine-{done['job']}.out", run)
    mine.write_text("edited: while the job waits")
    waits = cluster.call(GAN_DIST, "slurm", "--status", run, "--json", check=False)
    assert (job.state, waits) == ("PENDING", "")
    cluster.call("scancel", other)
    assert job.end() == "COMPLETED", job.text()
    check(job)
    (code,) = (tmp_path / "jobs").glob("submitted-*/code")
    assert len((code / "commit.txt").read_text().split()[0]) in (7, 40)
    report = json.loads(cluster.call(GAN_DIST, "slurm", "--status", run, "--json"))
    assert (report["state"], report["images"], report["job"]) == ("finished", IMAGES, done["job"])
    assert report["slurm"]["JobState"] == "COMPLETED"
    assert report["checkpoint"] == f"images-{IMAGES:09d}"


def test_the_nodes_are_checked_first_and_a_warning_in_that_time_is_no_failure(
    cluster: Cluster, submit: Submit, shards: Path, tmp_path: Path, check: Check
) -> None:
    job = submit(keys(shards, tmp_path / "run", IMAGES), "--nodes=2", GAN_DIST_CHECK="120")
    job.until(lambda: f"{job.number}.0" in cluster.call("squeue", "-h", "-s", "-o", "%i"), "its first step")
    cluster.call("scancel", "--signal=USR2", "--batch", job.number)
    job.requeued()
    assert "told to end before training began: requeue" in job.text()
    assert not job.events("started")
    assert job.end() == "COMPLETED", job.text()
    for said in ("2 rank(s) agree on a sum, all-reduce at ", "compute the same numbers", "the nodes are fit"):
        assert said in job.text()
    check(job)


def test_a_node_that_is_not_fit_is_named_before_training(
    cluster: Cluster, submit: Submit, shards: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    cluster.inside("node2", "mount", "-t", "tmpfs", "tmpfs", run)  # its run directory is another disk
    try:
        job = submit(keys(shards, run, IMAGES), "--nodes=3", GAN_DIST_CHECK="120")
        assert job.end() == "FAILED", job.text()
        assert "PROBLEM  run directory  node2: " in job.text()
        assert "Submit again with --exclude=node2" in job.text()
        assert "requeue" not in job.text()
    finally:
        cluster.inside("node2", "umount", run)


@pytest.fixture
def doctor(cluster: Cluster, shards: Path, tmp_path: Path, cancel: Callable[[str], str]) -> Submit:
    """doctor("--numerics"): `gan-dist doctor` as a job."""
    count = itertools.count()

    def one(*words: str, nodes: tuple[str, ...] = ("--nodes=2",), **environment: str) -> Job:
        log = tmp_path / f"doctor-{next(count)}.txt"
        number = cluster.call(
            "sbatch", "--parsable", *nodes, f"--chdir={tmp_path}", f"--output={log}",
            REPOSITORY / "slurm/command.sbatch", "doctor", REPOSITORY / "tests/data/digits.yaml", *words,
            *flags(keys(shards, tmp_path / "run", IMAGES)), **{**settings(tmp_path), **environment},
        )  # fmt: skip
        return Job(cluster, cancel(number), log, tmp_path / "run")

    return one


def problems(job: Job) -> list[str]:
    """What it found, after its end. A loader that is slow for the moment is left out."""
    state, found = job.end(), re.findall(r"^PROBLEM  (.+)", job.text(), re.MULTILINE)
    assert state == ("FAILED" if found else "COMPLETED"), job.text()
    return [one for one in found if not one.startswith("loader ")]


@pytest.mark.parametrize("launcher", ["srun", "torchrun"])
def test_the_doctor_looks_at_all_nodes_of_a_job(doctor: Submit, launcher: str) -> None:
    job = doctor("--numerics", GAN_DIST_LAUNCHER=launcher)
    assert problems(job) == []
    said = job.text()
    assert "2 rank(s) on 2 machine(s): " in said
    assert "network         2 rank(s) agree on a sum" in said
    assert "numerics        exact in fp64: compared with one rank in double precision" in said
    for what in ("step", "memory", "traffic", "checkpoint"):
        assert f"ok       {what}" in said
    assert not job.run.exists()


def test_the_doctor_looks_at_the_ranks_of_one_node(doctor: Submit) -> None:
    job = doctor(nodes=("--nodes=1", "--ntasks-per-node=2"), GAN_DIST_CHECK="120", GAN_DIST_LAUNCHER="torchrun")
    assert problems(job) == []
    assert "2 rank(s) on 1 machine(s): " in job.text()


@pytest.mark.parametrize("launcher", ["srun", "torchrun"])
def test_the_doctor_says_which_rank_of_a_job_was_killed(doctor: Submit, launcher: str) -> None:
    job = doctor("--numerics", GAN_DIST_LAUNCHER=launcher)
    job.until(lambda: "ok       links" in job.text(), "the first looks")
    os.kill(pid_of(job.number, "gan_dist.doctor.ranks", rank=1), signal.SIGKILL)
    (problem,) = problems(job)
    assert problem.startswith("processes       ended with code "), problem
    named = "node2: task 1: Killed" if launcher == "srun" else "rank 1 on node2: Signal 9 (SIGKILL)"
    assert named in problem, job.text()


def pid_of(job: str, module: str, rank: int) -> int:
    wanted = {f"SLURM_JOB_ID={job}", f"RANK={rank}"}
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            said = (place / "environ").read_text().split("\0")
            if wanted <= set(said) and module in (place / "cmdline").read_text().split("\0"):
                return int(place.name)
    raise AssertionError(f"no {module} of rank {rank}")


def test_the_doctor_names_a_node_that_is_not_fit(cluster: Cluster, doctor: Submit, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    cluster.inside("node2", "mount", "-t", "tmpfs", "-o", "ro", "tmpfs", run)
    try:
        job = doctor()
        first, second = problems(job)
        assert first.startswith(f"run directory   node2: {run} cannot be written")
        assert "leave out: --exclude=node2" in first
        assert second.startswith(f"start           rank 1: [Errno 30] Read-only file system: '{run}")
        job = doctor(GAN_DIST_CHECK="120")
        assert job.end() == "FAILED"
        assert job.text().splitlines()[-1].endswith("Submit again with --exclude=node2"), job.text()
    finally:
        cluster.inside("node2", "umount", run)
