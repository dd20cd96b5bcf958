"""What a run directory tells of its jobs, also where a line is torn."""

import dataclasses
import json
from pathlib import Path

from gan_dist.slurm_jobs import records
from gan_dist.slurm_jobs.records import Start


def test_starts_are_read_back_and_a_later_line_says_more_of_one(tmp_path: Path) -> None:
    first, second = Start("7", 0, 0, 1.0, submission="7"), Start("7", 1, 160, 2.0, submission="7")
    for start in (first, second, dataclasses.replace(first, told=True)):
        records.record(tmp_path / "run", start)
    with (tmp_path / "run" / records.STARTS).open("a") as file:
        file.write('{"job": "8", "rest')  # torn
    assert records.read_starts(tmp_path / "run") == [dataclasses.replace(first, told=True), second]
    assert records.read_starts(tmp_path) == []


def test_a_run_that_has_not_begun_is_told_from_one_whose_status_is_lost(tmp_path: Path) -> None:
    assert records.read_status(tmp_path) is None
    (tmp_path / "status.json").write_text('{"state": "runn')
    assert records.read_status(tmp_path) == {}
    (tmp_path / "status.json").unlink()
    (tmp_path / "events.jsonl").touch()  # it trained
    assert records.read_status(tmp_path) == {}


def test_the_error_of_the_rank_that_failed_first_is_the_last_word(tmp_path: Path) -> None:
    events = [
        {"event": "failed", "rank": 0, "images": 5, "reason": "of an earlier start"},
        {"event": "resumed", "rank": 0, "images": 5},
        {"event": "failed", "rank": 0, "images": 160, "reason": "RunError: ended because rank 1 failed: ValueError: x"},
        {"event": "failed", "rank": 1, "images": 160, "reason": "ValueError: x"},
    ]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/rank-1.txt").write_text("".join(f"line {number}\n" for number in range(50)))
    lines = records.first_failure(tmp_path)
    assert lines[0] == "rank 1 at 160 images: ValueError: x"
    assert lines[-1] == "line 49"
    assert len(lines) <= 10


def test_a_rank_that_died_before_the_run_had_a_log_has_the_last_word(tmp_path: Path) -> None:
    old = {"event": "failed", "rank": 0, "images": 5, "reason": "long ago", "time": "2020-01-01T00:00:00+00:00"}
    (tmp_path / "events.jsonl").write_text(json.dumps(old) + "\n")
    records.record(tmp_path, Start("7", 0, 0, 1.7e9))
    lines = records.first_failure(tmp_path, ["rank 1 on node2: error: data.shards: no .tar file", *["more"] * 20])
    assert lines[0] == "rank 1 on node2: error: data.shards: no .tar file"
    assert len(lines) == 10
    assert records.first_failure(tmp_path) == []


def test_an_error_of_many_lines_is_one_and_the_whole_stays_short(tmp_path: Path) -> None:
    event = {"event": "failed", "rank": 1, "images": 160, "reason": "\n".join(["CUDA error: x", *["more"] * 30])}
    (tmp_path / "events.jsonl").write_text(json.dumps(event) + "\n")
    assert records.first_failure(tmp_path) == ["rank 1 at 160 images: CUDA error: x"]
