"""Jobs that end before their run is finished: they say why, and are not started for ever."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.launching import REPOSITORY
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import IMAGES, SLOW, Submit, keys

pytestmark = pytest.mark.slow

GAN_DIST = Path(sys.executable).with_name("gan-dist")


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


@pytest.mark.parametrize("launcher", ["srun", "torchrun"])
def test_a_job_that_a_person_cancels_is_saved_and_not_requeued(
    cluster: Cluster, submit: Submit, shards: Path, tmp_path: Path, launcher: str
) -> None:
    job = submit(keys(shards, tmp_path / "run", SLOW), "--nodes=2", GAN_DIST_LAUNCHER=launcher)
    job.training()
    cluster.call("scancel", job.number)
    job.until(lambda: "cancelled" in job.text(), "its last words")
    assert job.end() == "CANCELLED"
    assert job.status()["state"] == "stopped"
    assert job.last_saved() == job.events("stopped")[0]["images"]
    time.sleep(3)
    assert job.restarts() == 0


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


def test_a_status_that_is_not_there_is_not_guessed_at(
    cluster: Cluster, submit: Submit, shards: Path, tmp_path: Path
) -> None:
    job = submit({**keys(shards, tmp_path / "run", SLOW), "checkpoint.every": SLOW}, "--nodes=1")
    job.until(lambda: job.status()["state"] == "running" and job.pid(0), "running")
    (job.run / "status.json").unlink()  # a torn one is read as a lost one: tests/unit/slurm_jobs/test_records.py
    os.kill(job.pid(0), signal.SIGKILL)
    assert job.end() == "FAILED"
    assert "status.json is torn or missing" in job.text()
    assert cluster.job(job.number)["Restarts"] == "0"
