"""The files that are the truth about a run."""

import json
import math
import resource
from pathlib import Path

import pytest

from gan_dist.tracking import records


def lines(path: Path) -> list[dict]:
    """Its records; a NaN or Infinity, which JSON does not have, is an error."""
    return [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]


def test_a_resume_leaves_no_images_value_twice(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for images in (10, 20, 30):
        records.write_metrics(path, images, images // 10, {"loss/G": 1.0})
    with path.open("a") as file:
        file.write('{"images": 40, "lo')  # torn by a kill
    records.open_metrics(path, start=20)
    records.write_metrics(path, 30, 3, {"loss/G": 2.0})
    assert [(line["images"], line["loss/G"]) for line in lines(path)] == [(10, 1.0), (20, 1.0), (30, 2.0)]


def test_figures_of_one_position_share_its_line(tmp_path: Path) -> None:
    """The figures of a position are one line, whether a score comes before the losses or after them."""
    path = tmp_path / "metrics.jsonl"
    records.write_metrics(path, 10, 1, {"score/pixels": 0.5})
    records.write_metrics(path, 10, 1, {"loss/G": 123456.7, "loss/D": 2.0})
    records.write_metrics(path, 20, 2, {"loss/G": 3.0})
    records.write_metrics(path, 20, 2, {"score/pixels": 0.25})
    records.write_metrics(path, 20, 2, {"loss/G": math.nan, "score/pixels": 1.0})
    records.write_metrics(path, 10, 2, {"late": 1.0})
    assert lines(path) == [
        {"images": 10, "step": 1, "score/pixels": 0.5, "loss/G": 123456.7, "loss/D": 2.0},
        {"images": 20, "step": 2, "loss/G": None, "score/pixels": 1.0},
        {"images": 10, "step": 2, "late": 1.0},
    ]


def test_a_torn_metrics_line_spoils_no_later_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"images": 10, "lo')
    records.write_metrics(path, 10, 1, {"loss/G": 1.0})
    torn, whole = path.read_text().splitlines()
    assert torn == '{"images": 10, "lo'
    assert json.loads(whole) == {"images": 10, "step": 1, "loss/G": 1.0}


@pytest.mark.parametrize("images", [10, 20])
def test_a_disk_that_fills_up_within_a_line_takes_no_figure_away(tmp_path: Path, images: int) -> None:
    path = tmp_path / "metrics.jsonl"
    records.write_metrics(path, 10, 1, {"loss/G": 1.0})
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 5, hard))  # five bytes more, then no more
    try:
        with pytest.raises(OSError, match=r"No space|too large"):
            records.write_metrics(path, images, 1, {"score/pixels": 0.5})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    records.write_metrics(path, images, 1, {"score/pixels": 0.5})
    assert [line["images"] for line in lines(path)] == sorted({10, images})


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


def test_details_that_are_not_finite_are_null(tmp_path: Path) -> None:
    records.write_event(tmp_path / "events.jsonl", "skipped a step", 7, 0, {"loss": math.nan, "norms": [1.0, math.inf]})
    assert lines(tmp_path / "events.jsonl")[0].items() >= {"loss": None, "norms": [1.0, None]}.items()


def test_a_torn_line_takes_no_later_one_along(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"time": "2026-01-01", "ev')
    for kind in ("resumed", "saved"):
        records.write_event(path, kind, 7, 0, {})
    torn, *whole = path.read_text().splitlines()
    assert torn == '{"time": "2026-01-01", "ev'
    assert [json.loads(line)["event"] for line in whole] == ["resumed", "saved"]


def test_a_block_that_is_no_text_is_dropped_from_the_metrics(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"images": 10, "a": 1.0}\n\x00\x00\xff\xfe')
    records.open_metrics(path, start=10)
    assert path.read_bytes() == b'{"images": 10, "a": 1.0}\n'


def test_status_is_replaced_whole(tmp_path: Path) -> None:
    for state in ("running", "finished"):
        records.write_status(tmp_path / "status.json", state=state, images=5, reason="", checkpoint=None)
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "finished"
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]
