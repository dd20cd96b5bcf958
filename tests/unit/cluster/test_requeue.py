"""Whether a run is started again is decided by what it wrote, and never for ever."""

import json
from pathlib import Path

import pytest

from gan_dist.cluster import requeue
from gan_dist.cluster.requeue import Start


def status(state: str, images: int = 0, time: str = "2026-11-23T12:00:00+00:00", **more: object) -> dict[str, object]:
    checkpoint = f"images-{images:09d}" if images else None
    return {"state": state, "images": images + 5, "checkpoint": checkpoint, "time": time, "reason": "why", **more}


def starts(*images: int) -> list[Start]:
    return [Start("7", number, position, 1.0) for number, position in enumerate(images)]


def test_a_new_run_begins_and_a_finished_one_does_not() -> None:
    assert requeue.begin(None, [], 100).action == "go"
    assert requeue.begin(status("stopped", 160), starts(0), 100).action == "go"
    assert requeue.begin(status("finished", 320), [], 100).action == "finished"


@pytest.mark.parametrize("state", ["stopped", "failed", "running"])
def test_what_was_stopped_killed_or_failed_is_started_again_while_it_advances(state: str) -> None:
    decision = requeue.after(status(state, 160), starts(0), 100, 143)
    assert decision.action == "requeue"
    assert "160 more than at the start" in decision.words


def test_two_starts_without_a_new_image_are_enough() -> None:
    assert requeue.after(status("running", 160), starts(0, 160), 100, 137).action == "requeue"
    decision = requeue.after(status("running", 160), starts(0, 160, 160), 100, 137)
    assert decision.action == "stop"
    assert "2 starts in a row brought no image beyond 160" in decision.words
    # where Slurm itself starts the job again (a lost node), the start finds it out
    assert requeue.begin(status("running", 160), starts(0, 160, 160), 100).action == "stop"
    assert requeue.begin(status("running", 160), starts(0, 160), 100).action == "go"


def test_wrong_input_is_not_started_again() -> None:
    decision = requeue.after(status("failed", 0, code=2), starts(0), 100, 2)
    assert (decision.action, decision.words) == ("stop", "wrong input: why")


@pytest.mark.parametrize(
    ("facts", "done"),
    [
        ("JobState=RUNNING Reason=None Restarts=1 EndTime=2026-11-25T00:00:00 PreemptTime=None", ""),
        ("JobState=COMPLETING Reason=None Restarts=1 EndTime=2026-11-24T00:00:00 PreemptTime=None", "cancelled"),
        ("JobState=CANCELLED Reason=None Restarts=1 EndTime=2026-11-24T00:00:00 PreemptTime=None", "cancelled"),
        ("JobState=COMPLETING Reason=TimeLimit Restarts=1 EndTime=2026-11-24T00:00:00 PreemptTime=None", ""),
        ("JobState=COMPLETING Reason=None Restarts=2 EndTime=Unknown PreemptTime=None", "requeued"),
        ("JobState=RUNNING Reason=None Restarts=1 EndTime=Unknown PreemptTime=2026-11-24T00:00:00", ""),
        ("", ""),  # the controller does not answer
    ],
)
def test_what_slurm_did_is_not_done_again(
    tmp_path: Path, facts: str, done: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert requeue.by_slurm(facts, 1) == done
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    start = {"job": "7", "restart": 1, "images": 0, "time": 1.0}
    (tmp_path / requeue.STARTS).write_text(json.dumps(start) + "\n")
    (tmp_path / "status.json").write_text(json.dumps(status("stopped", 160)))
    requeue.main(["after", str(tmp_path), "--facts", facts])
    action = capsys.readouterr().out.split()[0]
    assert action == {"": "requeue", "cancelled": "ended", "requeued": "requeued"}[done]


@pytest.mark.parametrize(
    ("told", "answer"), [((), "stop training did not begin"), (("--told",), "requeue told to end")]
)
def test_a_job_that_is_told_to_end_before_it_trains_is_requeued(
    tmp_path: Path, told: tuple[str], answer: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    requeue.main(["begin", str(tmp_path)])
    for old in (None, status("stopped", 160, time="1970-01-01T00:00:00+00:00")):
        if old:
            (tmp_path / "status.json").write_text(json.dumps(old))
        capsys.readouterr()
        requeue.main(["after", str(tmp_path), "--code", "138", *told])
        assert capsys.readouterr().out.startswith(answer)


def test_a_person_who_makes_the_file_STOP_means_it() -> None:
    decision = requeue.after(status("stopped", 160, reason="the file STOP"), starts(0), 100, 75)
    assert (decision.action, "the file STOP ended it at 160 images" in decision.words) == ("ended", True)


def test_a_training_that_did_not_begin_is_not_started_again() -> None:
    old = status("stopped", 160, time="1970-01-01T00:00:00+00:00")
    decision = requeue.after(old, starts(160), 100, 2)
    assert decision.action == "stop"
    assert "did not begin (code 2)" in decision.words


def test_a_missing_or_torn_status_stops_and_says_so(tmp_path: Path) -> None:
    assert requeue.read_status(tmp_path) is None
    (tmp_path / "status.json").write_text('{"state": "runn')
    torn = requeue.read_status(tmp_path)
    assert torn == {}
    for found, words in ((None, "training did not begin (code 1)"), (torn, "status.json is torn (code 1)")):
        decision = requeue.after(found, starts(0), 100, 1)
        assert decision.action == "stop"
        assert words in decision.words
    assert requeue.begin(torn, [], 100).action == "go"  # a person submits it again: from the newest whole checkpoint


def test_a_run_directory_that_cannot_be_written_stops_the_job_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert requeue.main(["begin", str(tmp_path / "file/run")]) == 0
    assert capsys.readouterr().out.startswith(f"stop error: {tmp_path}/file/run cannot be written (Not a directory)")


def test_there_is_a_most_of_starts() -> None:
    assert requeue.after(status("stopped", 480), starts(0, 160, 320), 3, 75).action == "stop"
    assert requeue.begin(status("stopped", 480), starts(0, 160, 320), 3).action == "stop"
    assert "GAN_DIST_MAX_RESTARTS" in requeue.begin(status("stopped", 480), starts(0, 160, 320), 3).words


def test_the_command_records_each_start_and_counts_tries_within_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    for number, job in enumerate(("7", "7", "7", "8")):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        assert requeue.main(["begin", str(run)]) == 0
        answer = capsys.readouterr().out
        assert answer.startswith("stop" if number == 2 else "go"), answer
    with (run / "slurm.jsonl").open("a") as file:
        file.write('{"job": "8", "rest')  # torn
    assert [start.job for start in requeue.read_starts(run)] == ["7", "7", "8"]
    # a chain is many jobs: its tries count together
    monkeypatch.setenv("GAN_DIST_NO_REQUEUE", "1")
    requeue.main(["begin", str(run)])
    assert capsys.readouterr().out.startswith("stop")


def test_the_error_of_the_rank_that_failed_first_is_the_last_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = [
        {"event": "failed", "rank": 0, "images": 5, "reason": "of an earlier start"},
        {"event": "resumed", "rank": 0, "images": 5},
        {"event": "failed", "rank": 0, "images": 160, "reason": "RunError: ended because rank 1 failed: ValueError: x"},
        {"event": "failed", "rank": 1, "images": 160, "reason": "ValueError: x"},
    ]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/rank-1.txt").write_text("".join(f"line {number}\n" for number in range(50)))
    requeue.main(["why", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "rank 1 at 160 images: ValueError: x"
    assert lines[-1] == "line 49"
    assert len(lines) <= 10


def test_a_rank_that_died_before_the_run_had_a_log_has_the_last_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reasons = tmp_path / "reasons.txt"
    reasons.write_text("rank 1 on node2: error: data.shards: no .tar file\n" + "more\n" * 20)
    old = {"event": "failed", "rank": 0, "images": 5, "reason": "long ago", "time": "2020-01-01T00:00:00+00:00"}
    (tmp_path / "events.jsonl").write_text(json.dumps(old) + "\n")
    start = {"job": "7", "restart": 0, "images": 0, "time": 1.7e9}
    (tmp_path / requeue.STARTS).write_text(json.dumps(start) + "\n")
    requeue.main(["why", str(tmp_path), "--reasons", str(reasons)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "rank 1 on node2: error: data.shards: no .tar file"
    assert len(lines) == 10
    requeue.main(["why", str(tmp_path), "--reasons", str(tmp_path / "nothing")])
    assert capsys.readouterr().out.strip() == ""
