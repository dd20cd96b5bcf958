"""slurm/train.sbatch and its relatives on a real Slurm: however a job is laid out and submitted, its run is the same."""

import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.launching import REPOSITORY, digests, train
from tests.making import flags
from tests.slurm.cluster import Cluster, Job, settings
from tests.slurm.conftest import IMAGES, LONG, SLOW, Check, Submit, keys

pytestmark = pytest.mark.slow

GAN_DIST = Path(sys.executable).with_name("gan-dist")


@pytest.mark.parametrize(
    ("options", "launcher"),
    [
        (["--nodes=2"], "torchrun"),
        (["--nodes=2"], "srun"),
        (["--nodes=1", "--ntasks-per-node=2"], "torchrun"),
        (["--nodes=1", "--gpus-per-node=2"], "srun"),
    ],
)
def test_a_plain_job(
    cluster: Cluster, submit: Submit, shards: Path, tmp_path: Path, check: Check, options: list[str], launcher: str
) -> None:
    hooks = {"GAN_DIST_SETUP": f"touch {tmp_path}/set-up", "GAN_DIST_WRAP": "env GAN_DIST_WRAPPED=yes"}
    wanted = keys(shards, tmp_path / "run", IMAGES)
    remote = launcher == "torchrun" and "--nodes=1" in options
    if remote:
        wanted["data.shards"] = "[" + ", ".join(f'"pipe:cat {path}"' for path in sorted(shards.glob("*.tar"))) + "]"
        wanted["data.allow_pipe"] = True
    job = submit(wanted, *options, GAN_DIST_LAUNCHER=launcher, **hooks)
    assert job.end() == "COMPLETED", job.text()
    cache = cluster.folder / f"scratch/node1/{job.number}/gan_dist"  # a folder of the node: SLURM_TMPDIR
    assert len(list(cache.glob("shards/*.tar"))) == (3 if remote else 0)
    assert (tmp_path / "set-up").exists()
    (start,) = [json.loads(line) for line in (job.run / "environment.jsonl").read_text().splitlines()]
    assert start["variables"]["GAN_DIST_WRAPPED"] == "yes"
    assert start["variables"]["SLURM_JOB_ID"] == job.number
    assert [rank.split()[0] for rank in start["ranks"]] == (
        ["node1", "node2"] if "--nodes=2" in options else ["node1"] * 2
    )
    assert " node1 rank 0 INFO finished at" in (job.run / "logs/rank-0.txt").read_text()
    assert job.status()["processes"] == 2
    assert "\x1b" not in job.text()  # no bar is drawn in a file
    assert f"finished at {IMAGES:,} images" in job.text()
    check(job)


SAYS = """#!/usr/bin/env bash
# in place of a training process: how it was started
[[ $1 != torchrun ]] || RANK=$SLURM_PROCID WORLD_SIZE="$SLURM_NTASKS launchers of ${5}"
echo "$(hostname -s) $RANK of $WORLD_SIZE, cores $SLURM_CPUS_PER_TASK, GPUs $(tr , ' ' <<<"${CUDA_VISIBLE_DEVICES:-}" | wc -w)" >>"$SAID"
"""


@pytest.mark.parametrize(
    ("options", "each", "cores", "gpus"),
    [
        (["--nodes=2"], 1, 1, 0),
        (["--nodes=2", "--ntasks=4"], 2, 1, 0),
        (["--nodes=2", "--ntasks-per-node=2", "--cpus-per-task=1"], 2, 1, 0),
        (["--nodes=2", "--gpus-per-node=2", "--cpus-per-task=2"], 2, 1, 2),
        (["--nodes=2", "--gpus=4", "--cpus-per-task=2"], 2, 1, 2),
        (["--nodes=2", "--gpus=3"], 1, 1, 1),  # two on one node, one on the other
        (["--nodes=2", "--ntasks-per-node=2", "--gpus-per-task=1"], 2, 1, 2),
        (["--nodes=2", "--exclusive", "--gres=gpu:1"], 1, 2, 1),
    ],
)
def test_however_the_job_asked_each_rank_has_the_devices_of_its_node_and_its_share_of_the_cores(
    submit: Submit, shards: Path, tmp_path: Path, options: list[str], each: int, cores: int, gpus: int
) -> None:
    says, said = tmp_path / "says.sh", tmp_path / "said.txt"
    says.write_text(SAYS)
    says.chmod(0o755)
    hooks = {"GAN_DIST_WRAP": str(says), "SAID": str(said), "GAN_DIST_MAX_RESTARTS": "1"}
    job = submit(keys(shards, tmp_path / "run", IMAGES), *options, **hooks)
    launchers = submit(keys(shards, tmp_path / "other", IMAGES), *options, GAN_DIST_LAUNCHER="torchrun", **hooks)
    assert (job.end(), launchers.end()) == ("FAILED", "FAILED")  # nothing trained, and one start is enough
    nodes = [re.findall(r"process\(es\) by \w+ on (\S+);", one.text())[0] for one in (job, launchers)]
    first, second = ([f"node{digit}" for digit in re.findall(r"\d", names)] for names in nodes)
    ranks = [f"{first[rank // each]} {rank} of {2 * each}, cores {cores}, GPUs {gpus}" for rank in range(2 * each)]
    ranks += [
        f"{second[number]} {number} of 2 launchers of {each}, cores {each * cores}, GPUs {gpus}" for number in (0, 1)
    ]
    assert sorted(said.read_text().splitlines()) == sorted(ranks), job.text() + launchers.text()


def test_an_array_trains_each_config_with_each_seed_and_a_warned_task_is_requeued_alone(
    cluster: Cluster, shards: Path, tmp_path: Path, cancel: Callable[[str], str]
) -> None:
    wanted = keys(shards, "unused", 2 * IMAGES)
    del wanted["run.directory"]
    array = cancel(cluster.call(
        "sbatch", "--parsable", "--array=0-2%3", "--nodes=1", f"--chdir={tmp_path}", f"--output={tmp_path}/%a.txt",
        REPOSITORY / "slurm/array.sbatch", REPOSITORY / "tests/data/digits.yaml", "--", *flags(wanted), **settings(tmp_path),
    ))  # fmt: skip
    tasks = [
        Job(cluster, f"{array}_{seed}", tmp_path / f"{seed}.txt", tmp_path / f"runs/digits-seed{seed}")
        for seed in range(3)
    ]
    # whose number is the array's, too: Slurm takes that for all of them
    warned = next(task for task in tasks if cluster.job(task.number)["JobId"] == array)
    warned.training()
    cluster.call("scancel", "--signal=USR2", "--batch", warned.number)
    warned.requeued()
    assert [task.end() for task in tasks] == ["COMPLETED"] * 3
    assert [cluster.job(task.number)["Restarts"] for task in tasks] == [
        "1" if task is warned else "0" for task in tasks
    ]
    assert [len(task.events("stopped")) for task in tasks] == [int(task is warned) for task in tasks]
    assert all(task.status()["state"] == "finished" for task in tasks)
    last = f"images-{2 * IMAGES:09d}"
    assert len({digests(task.run)[last] for task in tasks}) == 3
    plain = {**wanted, "run.directory": tmp_path / "plain", "run.seed": tasks.index(warned)}
    assert train(plain).returncode == 0
    assert digests(warned.run)[last] == digests(tmp_path / "plain")[last]


def test_a_chain_goes_on_where_requeue_is_forbidden_and_its_rest_ends_at_once(
    cluster: Cluster, shards: Path, tmp_path: Path, check: Check, cancel: Callable[[str], str]
) -> None:
    run = tmp_path / "run"
    wanted = {**keys(shards, run, IMAGES), "run.fresh": True}  # which the first link does, and no other
    output = cluster.call(
        REPOSITORY / "slurm/chain.sh", 3, "--nodes=2", f"--chdir={tmp_path}", f"--output={tmp_path}/%j.txt",
        REPOSITORY / "slurm/train.sbatch", REPOSITORY / "tests/data/digits.yaml", *flags(wanted), **settings(tmp_path),
    )  # fmt: skip
    first, second, third = (cancel(number) for number in output.split())
    jobs = [Job(cluster, number, tmp_path / f"{number}.txt", run) for number in (first, second, third)]
    (code,) = (tmp_path / "jobs").glob("chain-*/code")
    jobs[0].training()
    cluster.call("scancel", "--signal=USR2", "--batch", first)
    assert jobs[0].end() == "FAILED"  # code 75: there is more to do
    assert jobs[1].end() == "COMPLETED"
    assert jobs[2].end() == "COMPLETED"
    assert "nothing to do" in jobs[2].text()
    assert jobs[1].events("resumed")
    starts = [json.loads(line) for line in (run / "slurm.jsonl").read_text().splitlines()]
    assert {start["code"] for start in starts} == {str(code)}  # as it was when they were submitted
    check(jobs[1])


def test_a_command_runs_beside_and_after_training(
    cluster: Cluster, submit: Submit, shards: Path, tmp_path: Path, cancel: Callable[[str], str]
) -> None:
    job = submit(keys(shards, tmp_path / "run", SLOW), "--nodes=1")
    job.training()

    def command(name: str, *options: str) -> Job:
        number = cluster.call(
            "sbatch", "--parsable", *options, "--nodes=1", f"--chdir={tmp_path}", f"--output={tmp_path}/{name}.txt",
            REPOSITORY / "slurm/command.sbatch", "generate", job.run, "--n", "4", "--out", tmp_path / name,
            **settings(tmp_path),
        )  # fmt: skip
        return Job(cluster, cancel(number), tmp_path / f"{name}.txt", job.run)

    beside, after = command("beside"), command("after", f"--dependency=afterany:{job.number}")
    assert beside.end() == "COMPLETED", beside.text()
    assert (tmp_path / "beside/grid.png").exists()
    assert (job.state, after.state) == ("RUNNING", "PENDING")
    report = json.loads(cluster.call(GAN_DIST, "slurm", "--status", job.run, "--json"))
    assert (report["state"], report["job"], report["starts"], report["failure"]) == ("running", job.number, 1, [])
    assert report["slurm"]["JobState"] == "RUNNING"
    assert report["eta_seconds"] * report["images_per_second"] == pytest.approx(SLOW - report["images"], rel=0.05)
    (job.run / "STOP").touch()
    assert job.end() == "COMPLETED"  # a person ended it: it is not requeued
    assert "the file STOP ended it" in job.text()
    assert after.end() == "COMPLETED", after.text()
    assert (tmp_path / "after/grid.png").exists()


def test_in_an_interactive_allocation_and_ctrl_c_saves_there(
    cluster: Cluster, shards: Path, tmp_path: Path, check: Check
) -> None:
    run = tmp_path / "run"

    def words(images: int) -> list[str]:
        train = [
            "bash",
            REPOSITORY / "slurm/train.sbatch",
            str(REPOSITORY / "tests/data/digits.yaml"),
            *flags(keys(shards, run, images)),
        ]
        return ["salloc", "--nodes=2", f"--chdir={tmp_path}", *map(str, train)]

    job = Job(cluster, "", tmp_path / "terminal.txt", run)
    environment = {**cluster.environment, **settings(tmp_path)}
    terminal, other = pty.openpty()
    with job.log.open("wb") as log:
        process = subprocess.Popen(
            ["setsid", "--ctty", *words(SLOW)], env=environment, stdin=other, stdout=log, stderr=log, close_fds=True
        )
    try:
        end = time.monotonic() + 60
        while not job.events("saved"):
            assert time.monotonic() < end, job.text()
            time.sleep(0.1)
        os.write(terminal, b"\x03")
        process.wait(60)
    finally:
        process.kill()
        os.close(terminal)
        os.close(other)
    (stopped,) = job.events("stopped")
    assert job.events("saved")[-1]["images"] == stopped["images"]
    assert "2 node(s) x 1 process(es) by srun" in job.text()
    assert "submit the same line again" in job.text()  # an allocation is nothing to requeue
    cluster.call(*words(LONG), **settings(tmp_path))
    check(job, LONG)


def test_two_nodes_and_after_the_requeue_the_one_that_is_free(
    cluster: Cluster, submit: Submit, shards: Path, tmp_path: Path, check: Check
) -> None:
    job = submit(keys(shards, tmp_path / "run", IMAGES), "--nodes=1-2")
    job.training()
    assert job.status()["processes"] == 2
    cluster.call("scancel", "--signal=USR2", "--batch", job.number)
    job.until(lambda: job.events("stopped") and job.state == "PENDING", "requeued")
    other = cluster.call(
        "sbatch", "--parsable", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 600"
    )
    try:
        job.until(lambda: cluster.job(other)["JobState"] == "RUNNING", "two nodes are taken")
        job.requeued()
        assert job.end() == "COMPLETED"
    finally:
        cluster.call("scancel", other)
    assert job.status()["processes"] == 1
    check(job)
