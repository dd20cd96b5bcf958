"""slurm/train.sbatch on a real Slurm: whatever happens to the job, the run ends as if it never had."""

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
from tests.slurm.conftest import IMAGES, SLOW, Submit, keys

pytestmark = pytest.mark.slow

GAN_DIST = Path(sys.executable).with_name("gan-dist")


@pytest.fixture(scope="session")
def whole(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run, undisturbed and without Slurm."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert train(keys(shards, run, IMAGES)).returncode == 0
    return run


def check(job: Job, whole: Path) -> None:
    """It ended as the undisturbed run did, to the bit."""
    assert job.status()["state"] == "finished"
    last = f"images-{IMAGES:09d}"
    assert digests(job.run)[last] == digests(whole)[last]


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
    cluster: Cluster, submit: Submit, shards: Path, tmp_path: Path, whole: Path, options: list[str], launcher: str
) -> None:
    hooks = {"GAN_DIST_SETUP": f"touch {tmp_path}/set-up", "GAN_DIST_WRAP": "env GAN_DIST_WRAPPED=yes"}
    wanted = keys(shards, tmp_path / "run", IMAGES)
    remote = launcher == "torchrun" and "--nodes=1" in options
    if remote:
        wanted["data.shards"] = "[" + ", ".join(f'"pipe:cat {path}"' for path in sorted(shards.glob("*.tar"))) + "]"
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
    check(job, whole)


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


def test_the_nodes_are_checked_first_and_a_warning_in_that_time_is_no_failure(
    cluster: Cluster, submit: Submit, shards: Path, tmp_path: Path, whole: Path
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
    check(job, whole)


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


def test_a_wrong_config_fails_in_seconds_with_its_line_and_is_not_requeued(
    submit: Submit, shards: Path, tmp_path: Path
) -> None:
    began = time.monotonic()
    wanted = {**keys(shards, tmp_path / "run", IMAGES), "training.bacth": 4}
    job = submit(wanted, "--nodes=2")
    assert job.end() == "FAILED"
    assert "--training.batch" in job.text()
    missing = submit(keys(tmp_path / "nothing", tmp_path / "other", IMAGES), "--nodes=2")
    assert missing.end() == "FAILED"
    last = missing.text().splitlines()[-1]  # though srun and launchers have their say after the error
    assert last.startswith("rank 0 on node1: error: ")
    assert str(tmp_path / "nothing") in last
    assert "requeue" not in missing.text()
    (tmp_path / "file").write_text("")
    unwritable = submit(keys(shards, tmp_path / "file/run", IMAGES), "--nodes=2")
    assert unwritable.end() == "FAILED"
    assert "file/run" in unwritable.text().splitlines()[-1]
    assert "requeue" not in unwritable.text()
    assert time.monotonic() - began < 180


def test_an_array_trains_each_config_with_each_seed_and_a_warned_task_is_requeued_alone(
    cluster: Cluster, shards: Path, tmp_path: Path, cancel: Callable[[str], str]
) -> None:
    wanted = keys(shards, "unused", 2 * IMAGES)
    del wanted["run.directory"]
    array = cancel(cluster.call(
        "sbatch", "--parsable", "--array=0-2%3", "--nodes=1", f"--chdir={tmp_path}", f"--output={tmp_path}/%a.txt",
        REPOSITORY / "slurm/array.sbatch", "configs/digits.yaml", "--", *flags(wanted), **settings(tmp_path),
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
    cluster: Cluster, shards: Path, tmp_path: Path, whole: Path, cancel: Callable[[str], str]
) -> None:
    run = tmp_path / "run"
    wanted = {**keys(shards, run, IMAGES), "run.fresh": True}  # which the first link does, and no other
    output = cluster.call(
        REPOSITORY / "slurm/chain.sh", 3, "--nodes=2", f"--chdir={tmp_path}", f"--output={tmp_path}/%j.txt",
        REPOSITORY / "slurm/train.sbatch", "configs/digits.yaml", *flags(wanted), **settings(tmp_path),
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
    check(jobs[1], whole)


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
    cluster: Cluster, shards: Path, tmp_path: Path, whole: Path
) -> None:
    run = tmp_path / "run"

    def words(images: int) -> list[str]:
        train = ["bash", REPOSITORY / "slurm/train.sbatch", "configs/digits.yaml", *flags(keys(shards, run, images))]
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
    cluster.call(*words(IMAGES), **settings(tmp_path)) if stopped["images"] < IMAGES else None
    assert digests(run)[f"images-{IMAGES:09d}"] == digests(whole)[f"images-{IMAGES:09d}"]


def test_enough_starts_are_enough_and_the_error_of_the_rank_that_failed_first_is_the_last_word(
    cluster: Cluster, submit: Submit, shards: Path, tmp_path: Path
) -> None:
    wrap = tmp_path / "wrap.sh"
    inject = REPOSITORY / "tests/fault/inject.py"
    wrap.write_text(
        f'#!/usr/bin/env bash\nexec python {inject} error:rank=1:from=640 "${{@:3}}"\n'
    )  # not python train.py
    wrap.chmod(0o755)
    hooks = {"GAN_DIST_WRAP": str(wrap), "GAN_DIST_MAX_RESTARTS": "1"}
    job = submit(keys(shards, tmp_path / "run", IMAGES), "--nodes=2", **hooks)
    assert job.end() == "FAILED"
    said, _, last = job.text().rpartition("1 starts are enough (GAN_DIST_MAX_RESTARTS)\n")
    assert "ValueError: a planted error" in said
    lines = last.splitlines()
    assert 1 < len(lines) <= 10
    assert lines[0].startswith("rank 1 at 640 images: ValueError: a planted error")
    assert lines[-1].endswith("ValueError: a planted error")  # of its traceback
    assert job.status()["state"] == "failed"
    report = cluster.call(GAN_DIST, "slurm", "--status", job.run)
    assert "failed first:\n  rank 1 at 640 images: ValueError: a planted error" in report


def test_gan_dist_slurm_checks_submits_and_says_how_it_stands(
    cluster: Cluster, shards: Path, tmp_path: Path, whole: Path, cancel: Callable[[str], str]
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
    check(job, whole)
    (code,) = (tmp_path / "jobs").glob("submitted-*/code")
    assert len((code / "commit.txt").read_text().split()[0]) in (7, 40)
    report = json.loads(cluster.call(GAN_DIST, "slurm", "--status", run, "--json"))
    assert (report["state"], report["images"], report["job"]) == ("finished", IMAGES, done["job"])
    assert report["slurm"]["JobState"] == "COMPLETED"
    assert report["checkpoint"] == f"images-{IMAGES:09d}"


def test_two_nodes_and_after_the_requeue_the_one_that_is_free(
    cluster: Cluster, submit: Submit, shards: Path, tmp_path: Path, whole: Path
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
    check(job, whole)
