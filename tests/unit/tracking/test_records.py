"""The files that are the truth about a run."""

import json
import math
from pathlib import Path

from gan_dist.tracking import records


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_resume_leaves_no_images_value_twice(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for images in (10, 20, 30):
        records.write_metrics(path, images, images // 10, {"loss/G": 1.0})
    with path.open("a") as file:
        file.write('{"images": 40, "lo')  # torn by a kill
    records.open_metrics(path, start=20)
    records.write_metrics(path, 30, 3, {"loss/G": 2.0})
    assert [(line["images"], line["loss/G"]) for line in lines(path)] == [(10, 1.0), (20, 1.0), (30, 2.0)]


def test_figures_have_seven_digits_and_what_is_not_finite_is_null(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    records.write_metrics(path, 1, 1, {"a": 1.23456789, "b": math.nan, "c": math.inf})
    assert lines(path) == [{"images": 1, "step": 1, "a": 1.234568, "b": None, "c": None}]


def test_events_of_all_ranks_are_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for rank in range(3):
        records.write_event(path, "saved", 7, rank, {"checkpoint": "images-000000007"})
    assert [(line["rank"], line["event"], line["images"]) for line in lines(path)] == [
        (r, "saved", 7) for r in range(3)
    ]


def test_status_is_replaced_whole(tmp_path: Path) -> None:
    for state in ("running", "finished"):
        records.write_status(tmp_path / "status.json", state=state, images=5, reason="", checkpoint=None)
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "finished"
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]
