"""`gan-dist slurm` without a cluster: times, statuses, and what it says where there is none."""

import json
from pathlib import Path

import pytest

from gan_dist import cli, config as config_module
from gan_dist.errors import InputError
from gan_dist.slurm_jobs import records, status, submit
from gan_dist.slurm_jobs.records import Start
from tests import making
from tests.launching import REPOSITORY


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 300),
        ("5:30", 330),
        ("8:00:00", 28800),
        ("2-0", 172800),
        ("1-12:30", 131400),
        ("1-00:00:01", 86401),
        ("UNLIMITED", float("inf")),
    ],
)
def test_times_are_read_as_slurm_reads_them(text: str, seconds: float) -> None:
    assert submit.seconds_of(text) == seconds


def test_a_wrong_time_says_how(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="hours:minutes:seconds"):
        submit.seconds_of("8h")


@pytest.mark.parametrize(
    ("time", "good"), [("5", False), ("6:00", False), ("6:01", True), ("8:00:00", True), ("", True)]
)
def test_a_job_must_outlast_its_warning(time: str, good: bool) -> None:
    assert submit._margin(time, 1.0, 180).good == good


@pytest.mark.parametrize("told", ["measured", "given", "unknown"])
def test_the_warning_leaves_time_for_three_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    monkeypatch.setattr(submit.shutil, "which", lambda name: name)
    monkeypatch.setattr(submit, "_partition", lambda wanted, seconds: ([], "8:00:00"))
    shards, run = making.data_set(tmp_path / "data", 96), tmp_path / "run"
    run.mkdir()
    if told == "measured":
        saves = [{"event": "saved", "seconds": seconds} for seconds in (3.1, 400.2, 5.0)]
        (run / "events.jsonl").write_text("".join(f"{json.dumps(save)}\n" for save in saves) + '{"event": "sav')
    wanted = submit.Wanted(nodes=1, save_seconds=400.2 if told == "given" else 0)
    config = [str(REPOSITORY / "tests/data/digits.yaml"), *making.flags(making.tiny(shards, run))]
    findings, words = submit.prepare(config, wanted)
    (margin,) = [finding.text for finding in findings if finding.what == "margin"]
    if told == "unknown":
        assert "warned 180 s before the end; no save was measured yet" in margin  # as the template says
        assert not [word for word in words if "signal" in word or "margin" in word]
    else:
        assert margin == "warned 1260 s before the end, a save takes 400.2 s"
        assert "--signal=B:USR2@1260" in words
        assert words[-2:] == ["--control.margin_seconds", "1200"]


def test_a_process_count_that_training_would_refuse_is_refused_on_the_login_node() -> None:
    config = [str(REPOSITORY / "configs/dcgan.yaml"), "--data.shards", "-", "--training.processes"]
    refused = submit._dealt(config_module.load([*config, "2"]), submit.Wanted(nodes=2, gpus_per_node=2))
    assert not refused.good
    assert "training.processes = 2 refuses them" in refused.text
    assert submit._dealt(config_module.load([*config, "4"]), submit.Wanted(nodes=2, gpus_per_node=2)).good


def test_without_a_cluster_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert cli.main(["slurm", "tests/data/digits.yaml", "--nodes", "2"]) == 2
    assert "no Slurm here (sbatch is not found)" in capsys.readouterr().err
    assert cli.main(["slurm"]) == 2
    assert "give a CONFIG to submit, or --status RUN" in capsys.readouterr().err


def test_a_job_that_failed_before_its_run_began_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    records.record(tmp_path / "run", Start("7", 0, 0, 1.0, nodes="node1", code=str(tmp_path / "jobs/7/code")))
    (tmp_path / "jobs/7").mkdir(parents=True)
    (tmp_path / "jobs/7/reasons-7.txt").write_text("rank 0 on node1: error: data.shards: no .tar file\n")
    assert cli.main(["slurm", "--status", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "run: unknown" in said
    assert "failed first:\n  rank 0 on node1: error: data.shards: no .tar file" in said


def test_a_preempting_partition_is_a_price_and_no_fault() -> None:
    row = {"PartitionName": "main", "State": "UP", "TotalNodes": "3", "PreemptMode": "REQUEUE", "GraceTime": "0"}
    found = submit._fits(row, submit.Wanted(nodes=2), save_seconds=20)
    assert found.good
    assert "preempts after 0 s, a save takes 20 s" in found.text
    assert not submit._fits(row, submit.Wanted(nodes=4), save_seconds=20).good


def test_a_run_that_trains_is_told_by_its_newest_line_and_its_own_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    run = tmp_path / "run"
    for job, node in (("7", "node1"), ("8", "node2")):  # the second finds the run taken
        records.record(run, Start(job, 0, 0, float(job), nodes=node))
    (run / "status.json").write_text('{"state": "running", "images": 160, "job": "7"}')
    (run / "metrics.jsonl").write_text('{"images": 200, "speed/images_per_second": 10}\n')
    report = status.read(run)
    assert (report["images"], report["job"], report["nodes"]) == (200, "7", "node1")
