"""slurm/train.sbatch on a real Slurm: whatever happens to the job, the run ends as if it never had."""

import contextlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.launching import REPOSITORY, digests, train
from tests.making import flags
from tests.slurm.cluster import Cluster, Job, settings
from tests.slurm.conftest import keys

pytestmark = pytest.mark.slow

IMAGES = 16 * 240
SLOW = 16 * 2000
Submit = Callable[..., Job]


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


def check_so_far(job: Job, whole: Path) -> None:
    """It was started again, and every step before and after has the figures of the undisturbed run."""
    job.until(lambda: job.events("resumed"), "resumed")
    resumed = job.events("resumed")[-1]["images"]
    job.training(beyond=resumed)
    ours, theirs = figures(job.run), figures(whole)
    assert list(ours) == list(range(16, 16 * len(ours) + 1, 16))  # no step is missing, none is there twice
    assert resumed + 16 in theirs, "stopped too late to compare"
    assert all(ours[images] == theirs[images] for images in ours if images in theirs)


def figures(run: Path) -> dict[int, list[tuple[str, float]]]:
    """Losses, scores and gradient norms of each step."""
    found = {}
    for text in (run / "metrics.jsonl").read_text().splitlines():
        with contextlib.suppress(ValueError):  # being written
            line = json.loads(text)
            assert line["images"] not in found
            found[line["images"]] = sorted(
                item for item in line.items() if item[0].startswith(("loss/", "score/", "grad_"))
            )
    return found


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


def test_the_nodes_are_checked_first_and_a_bad_one_is_named(
    cluster: Cluster, submit: Submit, shards: Path, tmp_path: Path, whole: Path
) -> None:
    job = submit(keys(shards, tmp_path / "run", IMAGES), "--nodes=2", GAN_DIST_CHECK="120")
    assert job.end() == "COMPLETED", job.text()
    for said in ("2 process(es) agree on a sum, all-reduce at ", "compute the same numbers", "the nodes are fit"):
        assert said in job.text()
    check(job, whole)
    # a node whose run directory is another disk
    run = tmp_path / "other"
    run.mkdir()
    cluster.inside("node2", "mount", "-t", "tmpfs", "tmpfs", run)
    try:
        bad = submit(keys(shards, run, IMAGES), "--nodes=3", GAN_DIST_CHECK="120")
        assert bad.end() == "FAILED", bad.text()
        assert "PROBLEM  run directory  node2: " in bad.text()
        assert "Submit again with --exclude=node2" in bad.text()
        assert "requeue" not in bad.text()
    finally:
        cluster.inside("node2", "umount", run)


@pytest.mark.parametrize("launcher", ["srun", "torchrun"])
def test_the_warning_signal_saves_and_the_job_is_requeued_and_finishes(
    cluster: Cluster, submit: Submit, shards: Path, tmp_path: Path, whole: Path, launcher: str
) -> None:
    wanted = keys(shards, tmp_path / "run", SLOW)
    job = submit(wanted, "--nodes=2", GAN_DIST_LAUNCHER=launcher)
    job.training()
    cluster.call("scancel", "--signal=USR2", "--batch", job.number)
    job.requeued()
    (stopped,) = job.events("stopped")
    assert stopped["reason"] == "SIGUSR2"
    check_so_far(job, whole)
    (resumed,) = job.events("resumed")
    assert resumed["images"] == stopped["images"]  # nothing was lost
    assert "requeue" in job.text()


def test_a_warning_that_comes_before_training_does_is_no_failure(
    cluster: Cluster, submit: Submit, shards: Path, tmp_path: Path, whole: Path
) -> None:
    job = submit(keys(shards, tmp_path / "run", IMAGES), "--nodes=2")
    job.until(lambda: ", start 1: " in job.text(), "its first line")
    cluster.call("scancel", "--signal=USR2", "--batch", job.number)
    job.requeued()
    assert not job.events("started")
    assert job.end() == "COMPLETED"
    check(job, whole)


def test_a_job_that_a_person_cancels_is_saved_and_not_requeued(
    cluster: Cluster, submit: Submit, shards: Path, tmp_path: Path
) -> None:
    job = submit({**keys(shards, tmp_path / "run", SLOW), "checkpoint.every": SLOW}, "--nodes=2")
    job.until(lambda: job.status()["state"] == "running" and job.pid(1), "running")
    cluster.call("scancel", job.number)
    job.until(lambda: "cancelled" in job.text(), "its last words")
    assert job.end() == "CANCELLED"
    assert job.status()["state"] == "stopped"
    assert job.events("saved")[-1]["images"] == job.events("stopped")[0]["images"]
    time.sleep(3)
    assert cluster.job(job.number)["Restarts"] == "0"


def test_preemption_stops_saves_and_goes_on(
    cluster: Cluster, submit: Submit, shards: Path, tmp_path: Path, whole: Path
) -> None:
    job = submit(keys(shards, tmp_path / "run", SLOW), "--nodes=2")
    job.training()
    number = cluster.call(
        "sbatch",
        "--parsable",
        "--partition=high",
        "--nodes=3",
        "--exclusive",
        "--output=/dev/null",
        "--wrap",
        "sleep 1",
    )
    job.until(lambda: job.events("stopped"), "stopped")
    job.requeued()
    job.until(lambda: cluster.job(number)["JobState"] == "COMPLETED", "the other job is done")
    check_so_far(job, whole)
    assert job.events("resumed")[0]["images"] == job.events("stopped")[0]["images"]


def test_a_preempted_job_that_cannot_react_is_killed_and_goes_on_from_its_last_checkpoint(
    cluster: Cluster, submit: Submit, shards: Path, tmp_path: Path, whole: Path
) -> None:
    job = submit({**keys(shards, tmp_path / "run", SLOW), "control.hang_seconds": 600}, "--nodes=2")
    job.training()
    ranks = [job.pid(rank) for rank in (0, 1)]
    saved = job.events("saved")[-1]["images"]
    cluster.call("sbatch", "--partition=high", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1")

    def gone() -> bool:
        for pid in ranks:  # over and over: with its TERM, Slurm sends CONT
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        return int(cluster.job(job.number)["Restarts"]) > 0

    job.until(gone, "requeued")
    assert not job.events("stopped")
    job.requeued()
    check_so_far(job, whole)
    assert job.events("resumed")[0]["images"] >= saved
    assert not any(Path(f"/proc/{pid}/status").exists() for pid in ranks)


def test_a_time_limit_is_warned_of_and_nothing_is_lost(
    cluster: Cluster, submit: Submit, shards: Path, tmp_path: Path
) -> None:
    wanted = {**keys(shards, tmp_path / "run", SLOW), "run.deadline": "1:00:00", "checkpoint.every": SLOW}
    job = submit(wanted, "--nodes=2", "--time=1", "--signal=B:USR2@45")
    job.until(lambda: job.events("stopped"), "stopped")
    (stopped,) = job.events("stopped")
    assert stopped["reason"] == "SIGUSR2"
    job.requeued()
    job.until(lambda: job.events("resumed"), "resumed")
    assert job.events("resumed")[0]["images"] == stopped["images"] > 0


@pytest.mark.parametrize("how", ["kill a rank", "stop a rank", "kill a node"])
def test_what_is_lost_is_at_most_one_checkpoint_interval(
    cluster: Cluster, submit: Submit, shards: Path, tmp_path: Path, whole: Path, how: str
) -> None:
    job = submit(keys(shards, tmp_path / "run", SLOW), "--nodes=2")
    job.training()
    saved = job.events("saved")[-1]["images"]
    if how == "kill a rank":
        os.kill(job.pid(1), signal.SIGKILL)  # as the kernel does when memory runs out
    elif how == "stop a rank":
        os.kill(job.pid(1), signal.SIGSTOP)  # it hangs: control.hang_seconds
    else:
        node = cluster.job(job.number)["BatchHost"]
        others = cluster.call("scontrol", "show", "hostnames", cluster.job(job.number)["NodeList"]).split()
        lost = next(name for name in others if name != node)
        cluster.node("kill-node", lost)
    try:
        job.requeued()
        check_so_far(job, whole)
        assert job.events("resumed")[0]["images"] >= saved
    finally:
        if how == "kill a node":
            cluster.node("start-node", lost)


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


def test_an_array_trains_each_config_with_each_seed(cluster: Cluster, shards: Path, tmp_path: Path) -> None:
    wanted = keys(shards, "unused", IMAGES)
    del wanted["run.directory"]
    number = cluster.call(
        "sbatch", "--parsable", "--array=0-2%2", "--nodes=1", f"--chdir={tmp_path}", f"--output={tmp_path}/%a.txt",
        REPOSITORY / "slurm/array.sbatch", "configs/digits.yaml", "--", *flags(wanted), **settings(tmp_path),
    )  # fmt: skip
    end = time.monotonic() + 120
    while cluster.call("squeue", "-h", "-j", number, check=False):
        assert time.monotonic() < end, "".join(path.read_text() for path in tmp_path.glob("*.txt"))
        time.sleep(0.2)
    runs = [tmp_path / f"runs/digits-seed{seed}" for seed in range(3)]
    assert all(json.loads((run / "status.json").read_text())["state"] == "finished" for run in runs)
    assert len({digests(run)[f"images-{IMAGES:09d}"] for run in runs}) == 3


def test_a_chain_goes_on_where_requeue_is_forbidden_and_its_rest_ends_at_once(
    cluster: Cluster, shards: Path, tmp_path: Path, whole: Path
) -> None:
    run = tmp_path / "run"
    wanted = keys(shards, run, IMAGES)
    output = cluster.call(
        REPOSITORY / "slurm/chain.sh", 3, "--nodes=2", f"--chdir={tmp_path}", f"--output={tmp_path}/%j.txt",
        REPOSITORY / "slurm/train.sbatch", "configs/digits.yaml", *flags(wanted), **settings(tmp_path),
    )  # fmt: skip
    first, second, third = output.split()
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
    cluster: Cluster, submit: Submit, shards: Path, tmp_path: Path
) -> None:
    job = submit(keys(shards, tmp_path / "run", SLOW), "--nodes=1")
    job.training()

    def command(name: str, *options: str) -> Job:
        number = cluster.call(
            "sbatch", "--parsable", *options, "--nodes=1", f"--chdir={tmp_path}", f"--output={tmp_path}/{name}.txt",
            REPOSITORY / "slurm/command.sbatch", "generate", job.run, "--n", "4", "--out", tmp_path / name,
            **settings(tmp_path),
        )  # fmt: skip
        return Job(cluster, number, tmp_path / f"{name}.txt", job.run)

    beside, after = command("beside"), command("after", f"--dependency=afterany:{job.number}")
    assert beside.end() == "COMPLETED", beside.text()
    assert (tmp_path / "beside/grid.png").exists()
    assert (job.state, after.state) == ("RUNNING", "PENDING")
    (job.run / "STOP").touch()
    assert job.end() == "COMPLETED"  # a person ended it: it is not requeued
    assert "the file STOP ended it" in job.text()
    assert after.end() == "COMPLETED", after.text()
    assert (tmp_path / "after/grid.png").exists()


def test_in_an_interactive_allocation(cluster: Cluster, shards: Path, tmp_path: Path, whole: Path) -> None:
    run = tmp_path / "run"
    said = cluster.call(
        "salloc", "--nodes=2", f"--chdir={tmp_path}", "bash", REPOSITORY / "slurm/train.sbatch", "configs/digits.yaml",
        *flags(keys(shards, run, IMAGES)), **settings(tmp_path),
    )  # fmt: skip
    assert "2 node(s) x 1 process(es) by srun" in said
    assert digests(run)[f"images-{IMAGES:09d}"] == digests(whole)[f"images-{IMAGES:09d}"]


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


def test_a_torn_status_is_not_guessed_at(cluster: Cluster, submit: Submit, shards: Path, tmp_path: Path) -> None:
    job = submit({**keys(shards, tmp_path / "run", SLOW), "checkpoint.every": SLOW}, "--nodes=1")
    job.until(lambda: job.status()["state"] == "running" and job.pid(0), "running")
    (job.run / "status.json").write_text('{"state": "runn')
    os.kill(job.pid(0), signal.SIGKILL)
    assert job.end() == "FAILED"
    assert "status.json is torn" in job.text()
    assert cluster.job(job.number)["Restarts"] == "0"


def test_enough_starts_are_enough(cluster: Cluster, submit: Submit, shards: Path, tmp_path: Path) -> None:
    job = submit(keys(shards, tmp_path / "run", SLOW), "--nodes=1", GAN_DIST_MAX_RESTARTS="1")
    job.training()
    cluster.call("scancel", "--signal=USR2", "--batch", job.number)
    assert job.end() == "FAILED"
    assert "1 starts are enough (GAN_DIST_MAX_RESTARTS)" in job.text()
    assert job.status()["state"] == "stopped"


def test_gan_dist_slurm_checks_submits_and_says_how_it_stands(
    cluster: Cluster, shards: Path, tmp_path: Path, whole: Path
) -> None:
    run = tmp_path / "run"
    wanted = ["configs/digits.yaml", *flags(keys(shards, run, IMAGES))]
    command = Path(sys.executable).with_name("gan-dist")
    refused = cluster.call(
        command,
        "slurm",
        *wanted,
        "--nodes",
        "5",
        "--time",
        "90-0",
        "--partition",
        "short",
        "--gpus-per-node",
        "1",
        check=False,
    )
    assert "PROBLEM  partition   short has 3 nodes for a job, --nodes asks for 5" in refused, refused
    assert "has 0 GPUs on a node, --gpus-per-node asks for 1" in refused
    assert "PROBLEM  processes   5 processes cannot share 4 micro-batches" in refused
    assert "ok       cores       none asked for" in refused
    unknown = cluster.call(command, "slurm", *wanted, "--partition", "nowhere", check=False)
    assert "there is no partition nowhere; --partition takes " in unknown
    done = json.loads(
        cluster.call(command, "slurm", *wanted, "--nodes", "2", "--submit", "--json", **settings(tmp_path))
    )
    assert [row["what"] for row in done["findings"] if not row["good"]] == []
    assert done["line"].startswith("sbatch --nodes=2 --job-name=digits slurm/train.sbatch configs/digits.yaml")
    job = Job(cluster, done["job"], tmp_path / "no-log", run)
    assert job.end() == "COMPLETED"
    check(job, whole)
    (code,) = (tmp_path / "jobs").glob("submitted-*/code")
    assert len((code / "commit.txt").read_text().split()[0]) in (7, 40)
    report = json.loads(cluster.call(command, "slurm", "--status", run, "--json"))
    assert (report["state"], report["images"], report["job"]) == ("finished", IMAGES, done["job"])
    assert report["slurm"]["JobState"] == "COMPLETED"
    assert report["checkpoint"] == f"images-{IMAGES:09d}"
    for path in REPOSITORY.glob(f"digits-{done['job']}.out"):
        path.unlink()


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
