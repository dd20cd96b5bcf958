"""What the batch shell asks and is told, with the run directory that the answers come from."""

import json
from pathlib import Path

import pytest

from gan_dist.doctor import nodes
from gan_dist.doctor.nodes import NodeReport
from gan_dist.slurm_jobs import batch, records
from tests.launching import REPOSITORY

Read = pytest.CaptureFixture[str]
DIGITS = str(REPOSITORY / "tests/data/digits.yaml")


@pytest.fixture(autouse=True)
def job(monkeypatch: pytest.MonkeyPatch) -> None:
    submitted(monkeypatch, "7")


def submitted(monkeypatch: pytest.MonkeyPatch, job: str, chain: str = "") -> None:
    monkeypatch.setenv("SLURM_JOB_ID", job)
    monkeypatch.setenv("GAN_DIST_SUBMISSION", chain or job)


def ask(read: Read, *words: object) -> str:
    assert batch.main([str(word) for word in words]) == 0
    return read.readouterr().out


def test_each_start_is_recorded_and_tries_are_counted_within_a_submission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Read
) -> None:
    run = tmp_path / "run"
    for number, name in enumerate(("7", "7", "7", "8")):
        submitted(monkeypatch, name)
        answer = ask(capsys, "begin", run)
        assert answer.startswith("stop" if number == 2 else "go"), answer
    assert [start.job for start in records.read_starts(run)] == ["7", "7", "8"]
    # a chain is many jobs, and a new chain is a new try
    for number, (name, chain) in enumerate((("9", "a"), ("10", "a"), ("11", "a"), ("12", "b"))):
        submitted(monkeypatch, name, chain)
        assert ask(capsys, "begin", run).startswith("stop" if number == 2 else "go")


def test_a_start_that_was_told_to_end_before_it_trained_is_recorded_as_such(tmp_path: Path, capsys: Read) -> None:
    preempted = "JobId=7 JobState=RUNNING Reason=None Restarts=0 EndTime=Unknown PreemptTime=2099-01-01T00:00:00"
    for told in (["--told"], ["--facts", preempted], ["--told"]):
        assert ask(capsys, "begin", tmp_path).startswith("go")
        answer = ask(capsys, "after", tmp_path, "--code", 138, *told)
        assert answer.startswith("requeue told to end before training began")
    assert [start.told for start in records.read_starts(tmp_path)] == [True] * 3
    ask(capsys, "begin", tmp_path)
    (tmp_path / "status.json").write_text('{"state": "runn')
    assert ask(capsys, "after", tmp_path, "--told").startswith("stop status.json is torn or missing")
    assert not records.read_starts(tmp_path)[-1].told


def test_a_run_that_another_job_is_in_is_left_to_it(tmp_path: Path, capsys: Read) -> None:
    ask(capsys, "begin", tmp_path)
    reasons = tmp_path / "reasons.txt"
    reasons.write_text("rank 0 on node1: error: runs/x is in use by process 5 on node1\n")
    its = {"state": "running", "images": 320, "checkpoint": "images-000000320", "time": "2099-01-01T00:00:00+00:00"}
    (tmp_path / "status.json").write_text(json.dumps({**its, "job": "6"}))
    answer = ask(capsys, "after", tmp_path, "--code", 2, "--reasons", reasons)
    assert answer.startswith("stop wrong input: training did not begin")
    assert "is in use by process 5" in ask(capsys, "why", tmp_path, "--reasons", reasons)


def test_a_run_directory_that_cannot_be_written_stops_the_job_at_once(tmp_path: Path, capsys: Read) -> None:
    (tmp_path / "file").write_text("")
    answer = ask(capsys, "begin", tmp_path / "file/run")
    assert answer.startswith(f"stop error: {tmp_path}/file/run cannot be written (Not a directory)")


def test_what_starts_fresh_stands_at_nothing(tmp_path: Path, capsys: Read) -> None:
    old = {"state": "finished", "images": 320, "checkpoint": "images-000000320", "time": "2020-01-01T00:00:00+00:00"}
    (tmp_path / "status.json").write_text(json.dumps(old))
    (tmp_path / "config.yaml").touch()
    assert ask(capsys, "begin", tmp_path, "--wanted", 320).startswith("finished")
    assert ask(capsys, "begin", tmp_path, "--wanted", 320, "--fresh").startswith("go a new run")
    assert records.read_starts(tmp_path)[0].images == 0


def test_the_look_at_a_config_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Read) -> None:
    code = tmp_path / "job/code"
    monkeypatch.setattr(batch, "__file__", str(code / "gan_dist/slurm_jobs/batch.py"))
    mine = tmp_path / "mine.yaml"
    mine.write_text(Path(DIGITS).read_text())
    words = ("look", mine, "--run.directory", tmp_path / "a run", "--training.images", 640)
    numbers, kept, run = ask(capsys, *words).splitlines()
    assert numbers == "640 0"
    assert run == str(tmp_path / "a run")
    mine.write_text("edited while the job waits")
    assert ask(capsys, *words).splitlines()[1] == kept
    assert Path(kept).read_text() == Path(DIGITS).read_text()
    assert Path(kept).name == "mine.yaml"  # runs are named after it
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("training: {bacth: 3}")
    assert batch.main(["look", str(wrong)]) == 2
    assert f"{wrong}, line 1: unknown key training.bacth" in capsys.readouterr().err
    assert batch.main(["look", str(tmp_path / "none.yaml")]) == 2
    assert str(tmp_path / "none.yaml") in capsys.readouterr().err


def reports(folder: Path, *found: NodeReport) -> Path:
    path = folder / "reports.txt"
    path.write_text("a warning\n" + "".join(f"{report.line()}\n" for report in found))
    return path


def test_nodes_that_did_not_answer_are_tried_again_and_bad_ones_are_not(tmp_path: Path, capsys: Read) -> None:
    good = [
        NodeReport(f"node{number + 1}", what, rank, kind="cpu")
        for number in range(3)
        for what, rank in (("run directory", -1), ("device", number), ("network", number))
    ]
    names = ("--names", "node1\nnode2\nnode3")
    assert ask(capsys, "nodes", tmp_path, "--reports", reports(tmp_path, *good), *names).startswith(
        "go the nodes are fit"
    )
    late = reports(tmp_path, *[report for report in good if report.node != "node3"])
    answer = ask(capsys, "nodes", tmp_path, "--reports", late, *names)
    assert answer.startswith("again the nodes could not be checked: answer: node3: gave no answer")
    assert "Better without: --exclude=node3" in answer
    assert ask(capsys, "nodes", tmp_path, "--reports", reports(tmp_path), *names).startswith("again")
    batch.main(["nodes", str(tmp_path), "--reports", str(reports(tmp_path)), *names])
    assert "a warning" in capsys.readouterr().err  # what came instead of reports
    alone = [report for report in good if (report.what, report.node) != ("network", "node2")]
    answer = ask(capsys, "nodes", tmp_path, "--reports", reports(tmp_path, *alone), *names)
    assert answer.startswith("again")
    full = reports(tmp_path, *good, NodeReport("node2", "disk", problem="/x has 1 MiB free"))
    answer = ask(capsys, "nodes", tmp_path, "--reports", full, *names)
    assert answer.startswith("stop not fit to train: disk: node2: /x has 1 MiB free. Submit again with --exclude=node2")
    assert nodes.MARK in full.read_text()
