"""What is looked at before a job trains: on the login node, on all its nodes, and by the doctor."""

import json
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
    mine.write_text((REPOSITORY / "configs/digits.yaml").read_text())

    def call(*words: object) -> str:
        command = ["env", "-C", tmp_path, GAN_DIST, "slurm", "mine.yaml", *flags(keys(shards, run, IMAGES)), *words]
        return cluster.call(*command, check=False, **settings(tmp_path))

    nothing = f"pipe:cat {tmp_path}/nothing.tar"
    asked = ["--nodes", 5, "--time", "90-0", "--partition", "short", "--gpus-per-node", 4]
    refused = call(*asked, "--data.shards", nothing)
    assert f"PROBLEM  data        data.shards: {nothing} cannot be read" in refused
    assert "PROBLEM  partition   short has 3 nodes for a job, --nodes asks for 5" in refused, refused
    assert "short ends jobs after 00:01:00, --time asks for 90-0" in refused
    assert "short has 2 GPUs on a node, --gpus-per-node asks for 4" in refused
    assert "PROBLEM  processes   20 processes cannot share 2 micro-batches" in refused
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
    for said in ("2 process(es) agree on a sum, all-reduce at ", "compute the same numbers", "the nodes are fit"):
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


@pytest.mark.parametrize("launcher", ["srun", "torchrun"])
def test_the_doctor_looks_at_all_nodes_of_a_job(
    cluster: Cluster, shards: Path, tmp_path: Path, cancel: Callable[[str], str], launcher: str
) -> None:
    run = tmp_path / "run"

    def doctor(name: str, *options: str, check: str = "0") -> Job:
        number = cluster.call(
            "sbatch", "--parsable", *(options or ("--nodes=2",)), f"--chdir={tmp_path}", f"--output={tmp_path}/{name}.txt",
            REPOSITORY / "slurm/command.sbatch", "doctor", REPOSITORY / "configs/digits.yaml",
            *flags(keys(shards, run, IMAGES)), **{**settings(tmp_path), "GAN_DIST_LAUNCHER": launcher, "GAN_DIST_CHECK": check},
        )  # fmt: skip
        return Job(cluster, cancel(number), tmp_path / f"{name}.txt", run)

    job = doctor("fit")
    assert job.end() in ("COMPLETED", "FAILED")  # a slow loader is a problem, too
    said = job.text()
    assert "2 process(es) on 2 machine(s): " in said, said
    assert "ok       network         2 process(es) agree on a sum" in said
    for what in ("step", "memory", "traffic", "checkpoint"):
        assert f"ok       {what}" in said
    assert not run.exists()
    if launcher == "torchrun":
        job = doctor("one", "--nodes=1", "--ntasks-per-node=2", check="120")
        assert job.end() in ("COMPLETED", "FAILED")
        assert "2 process(es) on 1 machine(s): " in job.text(), job.text()
    else:
        run.mkdir()
        cluster.inside("node2", "mount", "-t", "tmpfs", "-o", "ro", "tmpfs", run)
        try:
            job = doctor("unfit")
            assert job.end() == "FAILED"
            assert f"PROBLEM  run directory   node2: {run} cannot be written" in job.text(), job.text()
            assert "leave out: --exclude=node2" in job.text()
            assert f"PROBLEM  start           rank 1: [Errno 30] Read-only file system: '{run}" in job.text()
            job = doctor("checked", check="120")
            assert job.end() == "FAILED"
            assert job.text().splitlines()[-1].endswith("Submit again with --exclude=node2"), job.text()
        finally:
            cluster.inside("node2", "umount", run)
