"""How a run stands, told from its files."""

import fcntl
import json
import os
from pathlib import Path

import pytest

from gan_dist import cli, config, run_directory, run_status
from gan_dist.errors import InputError
from gan_dist.report import table


def make_run(directory: Path, **status: object) -> Path:
    (directory / "checkpoints/images-000000032").mkdir(parents=True)
    (directory / "checkpoints/images-000000032/manifest.json").touch()
    (directory / "checkpoints/images-000000064").mkdir()  # not whole
    made = config.load(["tests/data/digits.yaml", "--run.directory", str(directory), "--training.images", "6400"])
    (directory / "config.yaml").write_text(config.to_yaml(made, {}))
    facts = {"state": "running", "images": 32, "reason": "", "host": os.uname().nodename, "pid": os.getpid(), **status}
    (directory / "status.json").write_text(json.dumps(facts))
    rows = [{"images": 64 * n, "step": n, "speed/images_per_second": 100.0} for n in (1, 2)]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"images": 19')
    events = [{"event": "started", "images": 0, "rank": 0, "time": "2026-01-01T00:00:00.000+00:00"}]
    events += [{"event": "saved", "images": 32, "rank": 0, "seconds": 0.5, "time": "2026-01-01T00:00:01.000+00:00"}]
    (directory / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return directory


def test_a_running_run_is_read_from_its_files_and_its_lock(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with (run / run_directory.LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        report = run_status.read(run)
    assert (report["state"], report["alive"], report["images"], report["of"]) == ("running", True, 128, 6400)
    assert (report["images_per_second"], report["eta_seconds"]) == (100.0, 63)
    assert (report["checkpoint"], report["checkpoints"], report["starts"]) == ("images-000000032", 1, 1)
    said = "\n".join(run_status.lines(report))
    for text in (f"running (process {os.getpid()} on", "128 of 6,400, 100 images/s", "0:01:03", "saved at 32 images"):
        assert text in said


def test_a_running_state_whose_process_is_gone_is_said_to_be_lost(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")  # the number is that of a process which lives: this one
    (run / run_directory.LOCK).touch()
    report = run_status.read(run)
    assert (report["state"], report["alive"], report["eta_seconds"]) == ("running", False, None)
    assert "is gone; start the same command again" in "\n".join(run_status.lines(report))
    assert report["lost"] is True
    assert "  lost  " in table.lines([table.describe(run)])[1]


def test_a_process_on_another_machine_is_not_judged(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", host="elsewhere")
    report = run_status.read(run)
    assert (report["alive"], report["lost"]) == (None, False)
    assert "which cannot be seen from this machine" in run_status.state_in_words(report)
    assert "  running  " in table.lines([table.describe(run)])[1]


def test_a_failed_run_shows_its_first_failure(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", state="failed", reason="RuntimeError: worse\nand more")
    with (run / "events.jsonl").open("a") as file:
        for reason in ("RuntimeError: first", "RuntimeError: ended because rank 1 failed"):
            file.write(json.dumps({"event": "failed", "images": 64, "rank": 1, "reason": reason}) + "\n")
    report = run_status.read(run)
    assert report["failure"][0] == "rank 1 at 64 images: RuntimeError: first"
    assert run_status.state_in_words(report) == "failed (RuntimeError: worse)"


@pytest.mark.parametrize("damage", ["status.json", "metrics.jsonl", "events.jsonl", "config"])
def test_files_that_are_missing_or_torn_hide_nothing_else(tmp_path: Path, damage: str) -> None:
    run = make_run(tmp_path / "run")
    if damage == "config":
        (run / "config.yaml").write_text("of: [another version]\n")
    else:
        (run / damage).write_text('{"torn')
    report = run_status.read(run)
    assert run_status.lines(report)
    assert report["checkpoint"] == "images-000000032"


def test_runs_prints_a_line_a_run_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "group/b"):
        make_run(tmp_path / name, state="finished")
    assert cli.main(["runs", str(tmp_path)]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 3
    assert rows[1].startswith(str(tmp_path / "a"))
    assert "finished" in rows[2]
    assert cli.main(["runs", str(tmp_path), "--json"]) == 0
    assert [row["run"] for row in json.loads(capsys.readouterr().out)] == [str(tmp_path / n) for n in ("a", "group/b")]


def test_a_folder_of_runs_is_told_its_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "runs/a")
    assert cli.main(["checkpoints", str(tmp_path / "runs")]) == 2
    assert f"holds the runs {run}; give one of them" in capsys.readouterr().err
    with pytest.raises(InputError, match="give a folder that training made"):
        run_directory.locate(run / "checkpoints")
    with pytest.raises(InputError, match="there is no run directory"):
        run_directory.locate(tmp_path / "nothing")


def test_a_run_is_found_by_its_checkpoint_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run")
    (run / "checkpoints").rename(tmp_path / "elsewhere")
    (run / "checkpoints").symlink_to(tmp_path / "elsewhere")
    assert run_directory.locate(run / "checkpoints/images-000000032") == run
    monkeypatch.chdir(run)
    assert run_directory.locate(Path("checkpoints/images-000000032")).samefile(run)
    (run / "logs").mkdir()
    monkeypatch.chdir(run / "logs")
    assert run_directory.locate(Path("../checkpoints/images-000000032")).samefile(run)
