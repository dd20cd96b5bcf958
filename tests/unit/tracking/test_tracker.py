"""The tracker reports to files, W&B and the console, and none of them can fail a run."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from gan_dist import config as config_module
from gan_dist.config import Config
from gan_dist.tracking import Tracker, save_grid
from gan_dist.tracking.console import Report, duration

KEYS = {
    "run": {"name": "test"},
    "data": {"shards": "x", "resolution": 8, "channels": 1},
    "training": {"images": 100, "batch": 10, "micro_batch": 10},
}


def config(**track: str) -> Config:
    return config_module.validate({**KEYS, "track": {"wandb": "disabled", **track}}, "test")


def tracker(directory: Path, start: int = 0, **track: str) -> Tracker:
    (directory / "logs").mkdir(parents=True, exist_ok=True)
    return Tracker(directory, config(**track), samples=50, start=start, wandb_id="abc12345")


def offline_records(directory: Path) -> list[list[dict]]:
    """What W&B itself reads back from each of the offline runs, in order of time."""
    found = []
    for path in sorted(directory.glob("wandb/offline-run-*/*.wandb")):
        command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(path)]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found.append([json.loads(line) for line in output.splitlines()])
    return found


def history(records: list[dict]) -> list[dict]:
    return [record["history"]["item"] for record in records if record["type"] == "history"]


@pytest.mark.slow
def test_wandb_reads_back_the_figures_of_a_run_that_was_resumed(tmp_path: Path) -> None:
    for start in (0, 20):
        with tracker(tmp_path, start, wandb="offline") as run:
            run.begin()
            for images in (start + 10, start + 20):
                run.metrics(images, images // 10, {"loss/G": images / 2, "speed/images_per_second": 1.0})
            save_grid(torch.zeros(4, 1, 8, 8), tmp_path / "grid.png")
            run.picture(tmp_path / "grid.png", start + 20)
    runs = offline_records(tmp_path)
    assert len(runs) == 2
    rows = [row for records in runs for row in history(records)]
    drawn = [(row["images"], row["loss/G"]) for row in rows if "loss/G" in row]
    assert drawn == [(10, 5.0), (20, 10.0), (30, 15.0), (40, 20.0)]
    assert any("samples/grid" in key for row in rows for key in row)
    everything = json.dumps(runs)
    assert everything.count('"abc12345"') >= 2
    assert "training.micro_batch" in everything


@pytest.mark.parametrize("place", ["init", "log"])
def test_wandb_that_raises_is_reported_once_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    import wandb

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no such server")

    class Run:
        offline = True
        log = broken

        def define_metric(self, *_: object, **__: object) -> None: ...

    monkeypatch.setattr(wandb, "init", broken if place == "init" else lambda **_: Run())
    with tracker(tmp_path, wandb="offline") as run:
        run.begin()
        for images in (10, 20, 30):
            run.metrics(images, 1, {"loss/G": 1.0})
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["tracker failed"]
    assert "no such server" in events[0]["reason"]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_an_error_in_the_run_is_recorded(tmp_path: Path) -> None:
    run = tracker(tmp_path)
    run.progress(30)
    with pytest.raises(ZeroDivisionError), run:
        1 / 0  # noqa: B018
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["state"], status["images"]) == ("failed", 30)


def test_other_ranks_write_events_and_their_log_only(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    with Tracker(tmp_path, config(), samples=50, start=0, wandb_id="x", rank=1) as run:
        run.begin()
        run.metrics(10, 1, {"loss/G": 1.0})
        run.status("running", 0, "", None)
        run.event("started", 0)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["events.jsonl", "rank-1.txt"]


def test_plain_lines_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    report = Report(0, 60_000, 10_000, Console(file=out, soft_wrap=True, highlight=False))
    report.begin()
    report.progress(10)
    report.metrics(15_000, {"loss/G": 0.69, "loss/D": 1.38, "speed/images_per_second": 5})
    report.close()
    assert len(out.getvalue().splitlines()) == 1
    for part in ("images 15,000/60,000", "epoch 1.5", "images/s", "ETA 0:00:0", "loss/D 1.380  loss/G 0.690"):
        assert part in out.getvalue()


def test_a_bar_on_a_terminal_and_events_above_it() -> None:
    out = io.StringIO()
    report = Report(30, 60, 30, Console(file=out, force_terminal=True, width=150, highlight=False))
    report.begin()
    report.metrics(45, {"loss/G": 0.5})
    report.progress(45)
    report.say("saved")
    report.close()
    assert "epoch 1.5" in out.getvalue()
    assert "loss/G 0.500" in out.getvalue()
    assert "saved\n" in out.getvalue()


def test_durations() -> None:
    assert [duration(seconds) for seconds in (0, 61, 3723.4, -5)] == ["0:00:00", "0:01:01", "1:02:03", "0:00:00"]
